"""Largest difference of every method to the reference, for every swap step, in float32.

All start from the same noise and weights.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmarks.host import start
from benchmarks.methods import METHODS, Task, add_options, swap_steps_of
from demo.training.architecture import WEIGHTS


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the differences of every method, and return them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    parser.add_argument("--patients", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1500)
    add_options(parser)
    arguments = parser.parse_args(argv)
    swap_steps = swap_steps_of(parser, arguments)
    host = start(WEIGHTS, True)
    task = Task(
        range(arguments.seed, arguments.seed + arguments.patients),
        host.domain.select()[:1],
        swap_steps,
        arguments.steps,
    )
    expected = METHODS["reference"](host, task)
    points = ["neutral", *map(str, swap_steps)]
    table = {}
    for name in ("stock", "chained", "medtraverse"):
        difference = (METHODS[name](host, task) - expected).abs().amax((0, 1, 3, 4, 5))
        table[name] = dict(zip(points, difference.tolist()))
    report = {
        "patients": arguments.patients,
        "seed": arguments.seed,
        "attribute": task.attributes[0].name,
        "largest_latent": expected.abs().max().item(),
        "difference": table,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print_table(points, report)
    return report


def print_table(points: Sequence[str], report: dict[str, Any]) -> None:
    """Print the differences, a method a line and a point a column."""
    largest = report["largest_latent"]
    print(f"largest |difference| to diffusers, latents in diffusers' scale (largest {largest:.2f})")
    print(f"{'':12}" + "".join(f"{point:>9}" for point in points))
    for name, row in report["difference"].items():
        print(f"{name:12}" + "".join(f"{value:9.1e}" for value in row.values()))


if __name__ == "__main__":
    main()

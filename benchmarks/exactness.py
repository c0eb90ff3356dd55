"""Largest difference of every method to the reference, for every swap step, in float32.

All start from the same noise and weights.
"""

import argparse
import json

from benchmarks import host as hosting
from benchmarks.methods import METHODS

SWAP_STEPS = (45, 40, 35, 30, 25, 20, 15, 10, 5)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    parser.add_argument("--patients", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1500)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    host = hosting.start()
    seeds = range(arguments.seed, arguments.seed + arguments.patients)
    attributes = host.domain.select()[:1]
    expected = METHODS["reference"](host, seeds, attributes, SWAP_STEPS)
    points = ["neutral", *map(str, SWAP_STEPS)]
    table = {
        name: dict(
            zip(
                points,
                (METHODS[name](host, seeds, attributes, SWAP_STEPS) - expected)
                .abs()
                .amax((0, 1, 3, 4, 5))
                .tolist(),
            )
        )
        for name in ("stock", "chained", "medtraverse")
    }
    report = {
        "patients": arguments.patients,
        "seed": arguments.seed,
        "attribute": attributes[0].name,
        "largest_latent": expected.abs().max().item(),
        "difference": table,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    largest = report["largest_latent"]
    print(f"largest |difference| to diffusers, latents in diffusers' scale (largest {largest:.2f})")
    print(f"{'':12}" + "".join(f"{point:>9}" for point in points))
    for name, row in table.items():
        print(f"{name:12}" + "".join(f"{value:9.1e}" for value in row.values()))


if __name__ == "__main__":
    main()

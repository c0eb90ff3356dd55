"""What fewer steps cost in results, on the demo model: ``python -m benchmarks.few_steps``.

Every setting starts from the same seeds and prompts, and swaps at the same shares of its steps. Its images
are compared with those of the paper's 50 steps of DDIM.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.host import Host, start
from benchmarks.sampled import PAPER, SHARES, Setting, sampled
from demo.training.architecture import WEIGHTS
from medtraverse.classifier import Classifier, load_classifier
from medtraverse.evaluation import evaluate
from medtraverse.identity import identity_table
from medtraverse.notice import NOTICE

FAR = 3  # the last points of the list

SETTINGS = (
    PAPER,
    Setting("ddim", "diffusers_ddim", 25),
    Setting("ddim", "diffusers_ddim", 20),
    Setting("dpmpp_2m", "karras", 25),
    Setting("dpmpp_2m", "karras", 20),
    Setting("dpmpp_2m", "karras", 15),
    Setting("dpmpp_2m", "karras", 10),
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a setting makes: images [P, A, N, H, W, 3], U-Net rows, CPU seconds, and its figures."""

    images: torch.Tensor
    rows: int
    seconds: float
    figures: dict[str, float]


def outcome(
    host: Host, judge: Classifier, setting: Setting, patients: int, attributes: int, shares: str
) -> Outcome:
    """Sample, decode and judge one setting."""
    begun = time.process_time()
    trajectory = sampled(host, setting, patients, attributes, shares)
    seconds = time.process_time() - begun
    images = host.vae.decode(trajectory.latents).clamp(0, 1).float()
    far = ",".join(trajectory.points[-FAR:])
    result = evaluate(trajectory, images, judge.predict, judge.labels, far)
    likeness = identity_table(trajectory.gather(images))
    figures = {
        "CFRT": sum(each.cfrt for each in result.results.values()) / len(result.results),
        "SSIM to the own neutral": likeness.own["ssim"][:, -FAR:].mean().item(),
        "SSIM to others' neutrals": likeness.other["ssim"][:, -FAR:].mean().item(),
    }
    return Outcome(trajectory.gather(images), trajectory.settings["unet"]["rows"], seconds, figures)


def compare(
    patients: int, attributes: int, shares: str, settings: Sequence[Setting] = SETTINGS
) -> Iterator[dict[str, Any]]:
    """Yield the figures of every setting, the first of which is the reference."""
    host = start(WEIGHTS, True)
    from medtraverse_pack.nodes.sources import DEMO_CLASSIFIERS

    judge = load_classifier(next(path for name, path in DEMO_CLASSIFIERS.items() if "CheXpert" in name))
    base: Outcome | None = None
    for setting in settings:
        made = outcome(host, judge, setting, patients, attributes, shares)
        base = base or made
        yield {
            "setting": f"{setting.sampler}, {setting.scheduler}, {setting.steps}",
            "U-Net rows": made.rows,
            "fewer rows": base.rows / made.rows,
            "faster": base.seconds / made.seconds,
            **made.figures,
            "distance": (made.images - base.images).abs().mean().item(),
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.few_steps", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--patients", type=int, default=16)
    parser.add_argument("--attributes", type=int, default=3)
    parser.add_argument("--shares", default=SHARES, help="swap steps as shares of the steps, falling")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    lines = compare(arguments.patients, arguments.attributes, arguments.shares)
    if arguments.json:
        print(json.dumps({"notice": NOTICE, "settings": list(lines)}, indent=2))
        return
    for number, line in enumerate(lines):
        if not number:
            print(f"| {' | '.join(line)} |\n|{'---|' * len(line)}")
        cells = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in line.values()]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(NOTICE)


if __name__ == "__main__":
    main()

"""Where the time of a workflow goes on the demo model: ``python -m benchmarks.stages``.

Sampling, decoding, judging and the viewers' files are timed one after another, as ComfyUI runs them.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.host import start, timed
from benchmarks.sampled import PAPER, sampled
from demo.training.architecture import WEIGHTS
from medtraverse.classifier import load_classifier
from medtraverse.notice import NOTICE

STAGES = ("sampling", "decoding", "judging", "viewer of latents", "viewer of images")


def measure(patients: int, attributes: int, runs: int, cpu: bool = True) -> dict[str, float]:
    """Return median seconds of each stage, sampling's first run left out."""
    host = start(WEIGHTS, cpu)
    from medtraverse_pack.nodes import views as own_views
    from medtraverse_pack.nodes.sources import DEMO_CLASSIFIERS

    # The pack's Trajectory is another class of the same code.
    views: Any = own_views

    path = next(path for name, path in DEMO_CLASSIFIERS.items() if "CheXpert" in name)
    judge = load_classifier(path, device=str(host.device))
    sampled(host, PAPER, 1, 1, "90%")
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for _ in range(runs):
        trajectory, taken = timed(partial(sampled, host, PAPER, patients, attributes), host.device)
        seconds["sampling"].append(taken)
        images, taken = timed(partial(host.vae.decode, trajectory.latents), host.device)
        seconds["decoding"].append(taken)
        images = images.clamp(0, 1)
        rest: tuple[Callable[[], Any], ...] = (
            partial(judge.predict, images),
            partial(views.latent_view, trajectory),
            partial(views.trajectory_view, trajectory, images),
        )
        for stage, work in zip(STAGES[2:], rest, strict=True):
            seconds[stage].append(timed(work, host.device)[1])
    return {stage: statistics.median(several) for stage, several in seconds.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Print seconds and shares of each stage."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stages", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--attributes", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--gpu", action="store_true", help="compute on the GPU")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    seconds = measure(arguments.patients, arguments.attributes, arguments.runs, not arguments.gpu)
    if arguments.json:
        print(json.dumps({"notice": NOTICE, "seconds": seconds}))
        return
    total = sum(seconds.values())
    for stage, taken in seconds.items():
        print(f"{stage:20}{taken:8.2f} s{taken / total:7.1%}")


if __name__ == "__main__":
    main()

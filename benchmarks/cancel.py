"""How soon each long node of the pack answers a cancel, on a live server: ``python -m benchmarks.cancel``.

Each is given more work than it can end in some seconds, and is cancelled in its midst. The goal is 2 s.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from launcher.comfyui import start_server
from medtraverse.remote.client import Client
from medtraverse.remote.events import Progress, RunInterrupted

GOAL = 2.0
Graph = dict[str, dict[str, Any]]


class Drill:
    """A graph under construction. Its links are ``[node, output]``."""

    def __init__(self, seed: int) -> None:
        self.graph: Graph = {}
        self.seed = seed

    def add(self, class_type: str, **inputs: Any) -> str:
        """Add a node; return its id."""
        number = str(len(self.graph) + 1)
        self.graph[number] = {"class_type": class_type, "inputs": inputs}
        return number

    def model(self) -> str:
        """Add the shipped model."""
        return self.add(
            "MedicalCheckpointLoader",
            checkpoint="MedTraverse demo (phantoms)",
            unet="MedTraverse demo CheXpert (phantoms)",
            domain="CheXpert",
        )

    def sampled(self, patients: int, steps: int, swap_steps: str, side: int) -> str:
        """Add a traversal of small latents: many rows in little time."""
        model = self.model()
        empty = {"attributes": "", "extra_attributes": "", "neutral_prompt": "", "negative_prompt": ""}
        prompts = self.add(
            "MedicalAttributePrompts", clip=[model, 1], domain=[model, 3], neutral="auto", **empty
        )
        return self.add(
            "PromptSwapKSampler",
            model=[model, 0],
            neutral=[prompts, 0],
            negative=[prompts, 1],
            attributes=[prompts, 2],
            width=side,
            height=side,
            seed=self.seed,
            patients=patients,
            steps=steps,
            cfg=1.0,
            sampler="ddim",
            scheduler="diffusers_ddim",
            swap_steps=swap_steps,
            noise="cpu",
            rows_per_call=0,
            cache_mb=0,
        )

    def frames(self, count: int) -> str:
        """Add a curve through the random latents of `prepare`: a trajectory without a model."""
        latents = self.add("LoadLatent", latent="cancel.latent")
        return self.add(
            "BezierLatentInterpolate",
            source=[latents, 0],
            frames=count,
            method="linear",
            spacing="parameter",
        )

    def images(self, count: int, side: int) -> list[Any]:
        """Add grey images; return their link."""
        return [
            self.add("EmptyImage", width=side, height=side, batch_size=count, color=0x808080 + self.seed),
            0,
        ]

    def classifier(self) -> list[Any]:
        """Add the shipped classifier; return its link."""
        return [
            self.add(
                "MedicalClassifierLoader",
                classifier="MedTraverse demo CheXpert",
                second_classifier="none",
                labels="",
                input_size=512,
            ),
            0,
        ]


def prepare(base: Path) -> None:
    """Put random latents into a server's input folder."""
    latents = torch.randn(8, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    base.joinpath("input").mkdir(parents=True, exist_ok=True)
    save_file(
        {"latent_tensor": latents, "latent_format_version_0": torch.tensor([])},
        base / "input" / "cancel.latent",
    )


def _sampler(drill: Drill) -> None:
    sampled = drill.sampled(200, 50, "40,5", 128)
    drill.add("LatentDirectionCosine", trajectory=[sampled, 1], published=False)


def _curve(drill: Drill) -> None:
    drill.add("LatentTSNE", trajectory=[drill.frames(1000), 1], perplexity=0.0, seed=500, thumbnails=False)


def _map(drill: Drill) -> None:
    sampled = drill.sampled(1200, 2, "0", 64)
    drill.add("LatentTSNE", trajectory=[sampled, 1], perplexity=0.0, seed=500, thumbnails=False)


def _evaluator(drill: Drill) -> None:
    sampled = drill.sampled(40, 2, "0", 64)
    drill.add(
        "CFRTEvaluator",
        trajectory=[sampled, 1],
        images=drill.images(120, 512),
        image_classifier=drill.classifier(),
        far_points="0",
    )


def _identity(drill: Drill) -> None:
    frames = drill.frames(200)
    drill.add(
        "IdentityPreservation",
        trajectory=[frames, 1],
        images=drill.images(200, 512),
        controls=1,
        perceptual="none",
    )


def _distance(drill: Drill) -> None:
    drill.add(
        "DistributionDistance",
        images=drill.images(40, 128),
        reference_images=drill.images(41, 128),
        extractor="classifier",
        kid_subsets=10_000,
        kid_subset_size=40,
        seed=drill.seed,
        image_classifier=drill.classifier(),
    )


def _grid(drill: Drill) -> None:
    frames = drill.frames(1000)
    drill.add(
        "TrajectoryGrid",
        trajectory=[frames, 1],
        images=drill.images(1000, 128),
        max_patients=1,
        frames_shown=1000,
        title="",
        dpi=300,
    )


def _film(drill: Drill) -> None:
    frames = drill.frames(1000)
    film = drill.add(
        "TrajectoryFilm",
        trajectory=[frames, 1],
        images=drill.images(1000, 256),
        max_patients=1,
        there_and_back=False,
    )
    drill.add("PreviewImage", images=[film, 0])


def _save(drill: Drill) -> None:
    frames = drill.frames(400)
    grid = drill.add(
        "TrajectoryGrid",
        trajectory=[frames, 1],
        images=drill.images(400, 128),
        max_patients=1,
        frames_shown=400,
        title="",
        dpi=30,
    )
    drill.add(
        "SaveTraversalFigure",
        drawing=[grid, 1],
        filename_prefix="cancel",
        vector="pdf",
        table=True,
        dpi=300,
    )


# The node that is cancelled, and what gives it work.
DRILLS: dict[str, tuple[str, Callable[[Drill], None]]] = {
    "sampler": ("PromptSwapKSampler", _sampler),
    "curve": ("BezierLatentInterpolate", _curve),
    "t-SNE": ("LatentTSNE", _curve),
    "t-SNE of many": ("LatentTSNE", _map),
    "evaluator": ("CFRTEvaluator", _evaluator),
    "identity": ("IdentityPreservation", _identity),
    "FID and KID": ("DistributionDistance", _distance),
    "grid": ("TrajectoryGrid", _grid),
    "film": ("TrajectoryFilm", _film),
    "save": ("SaveTraversalFigure", _save),
}


def answer_time(client: Client, name: str, after: float = 1.0, seed: int = 0) -> float | None:
    """Cancel a node in the middle of its work.

    Parameters
    ----------
    client : Client
        Of a server that `prepare` has prepared.
    name : str
        One of `DRILLS`.
    after : float
        Seconds from the node's start to the cancel.
    seed : int
        Another one for every call of a server, which would else keep what it has made.

    Returns
    -------
    float or None
        Seconds from the cancel to the run's end; None where the node was done before.
    """
    node_type, build = DRILLS[name]
    drill = Drill(seed)
    build(drill)
    cancelled: list[float] = []
    timers: list[threading.Timer] = []

    def cancel() -> None:
        cancelled.append(time.monotonic())
        prompts, _ = client.queue()
        client.cancel(prompts[0])

    def watch(progress: Progress) -> None:
        if progress.node_type == node_type and not timers:
            timers.append(threading.Timer(after, cancel))
            timers[0].start()
        elif progress.node_type != node_type and timers:
            timers[0].cancel()

    try:
        client.run(drill.graph, on_progress=watch)
    except RunInterrupted:
        return time.monotonic() - cancelled[0]
    for timer in timers:
        timer.cancel()
    return None


def main(argv: list[str] | None = None) -> int:
    """Print what every node takes; return 1 where one takes longer than the goal."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cancel", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(DRILLS)}")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    args = parser.parse_args(argv)
    times: dict[str, list[float | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        with start_server(base=folder) as url:
            client = Client(url)
            for number, name in enumerate(args.names or DRILLS):
                times[name] = [
                    answer_time(client, name, after, 10 * number + turn)
                    for turn, after in enumerate((0.3, 1.0))
                ]
                if not args.json:
                    said = ["done before" if one is None else f"{one:.1f} s" for one in times[name]]
                    print(f"{name:15}{', '.join(said)}", flush=True)
    if args.json:
        print(json.dumps(times))
    return int(any(one is not None and one > GOAL for several in times.values() for one in several))


if __name__ == "__main__":
    sys.exit(main())

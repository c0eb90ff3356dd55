"""Fine-tune the demo model's U-Net on phantoms in the real CheXpert or ISIC 2019 layout.

Text encoder and VAE stay as they are.

    python -m demo.training.finetune chexpert --out demo/weights/phantom-chexpert.safetensors
    python -m demo.training.finetune isic --steps 1000 --out isic.safetensors --resume

It writes the phantoms, and the library's ``python -m medtraverse train unet`` does the rest with `RECIPE`:
images and captions come from the files alone. `confounded` is CheXpert's layout with support devices and
pleural effusion correlated, and most devices beside effusions unmentioned. The result is the U-Net alone,
fp16 safetensors in diffusers keys, as the authors' checkpoints are; its log lies beside it. Synthetic images.
Not for clinical use.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.phantoms.layouts import write_chexpert, write_isic
from demo.phantoms.phantom_set import CACHE
from demo.training.architecture import WEIGHTS
from demo.training.loop import hardware, write_json
from medtraverse.notice import NOTICE
from medtraverse.whole_file import whole_file

# Set of `demo.phantoms.layouts` (they share no patient), correlation of devices and effusion, and share of
# the effusions beside devices that no label mentions. Correlation alone is no confounder: while every caption
# names both, the model learns them apart.
SETS = {"chexpert": (0, 0.0, 0.0), "isic": (0, 0.0, 0.0), "confounded": (1, 0.9, 0.6)}
# The paper has no caption dropout; guidance by the empty caption needs some. High noise, where an attribute's
# presence is decided, weighs more; see demo/training/train_unet.py. A small model takes a high rate.
RECIPE: dict[str, Any] = {
    "steps": 2500,
    "batch": 16,
    "accumulation": 1,
    "rate": 3e-4,
    "schedule": "cosine",
    "warmup": 50,
    "beta1": 0.9,
    "beta2": 0.99,
    "weight_decay": 1e-4,
    "ema": 0.998,
    "precision": "bf16",
    "caption_dropout": 0.05,
    "min_snr": 5.0,
    "high_noise": 10.0,
    "held_out": 0.0,
}


def phantom_data(
    kind: str,
    count: int,
    folder: Path,
    seed: int | None = None,
    correlation: float | None = None,
    unmentioned: float | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Write `count` phantoms in the layout of `kind` below `folder`; the folder, and the set for the log."""
    chosen, correlated, left_out = SETS[kind]
    made: dict[str, Any] = {
        "layout": "isic" if kind == "isic" else "chexpert",
        "count": count,
        "seed": chosen if seed is None else seed,
    }
    made["correlation"] = correlated if correlation is None else correlation
    made["unmentioned"] = left_out if unmentioned is None else unmentioned
    data = folder / "-".join(map(str, ("data", *made.values())))
    if made["layout"] == "isic":
        write_isic(data, count, made["seed"])
    else:
        write_chexpert(data, count, made["seed"], made["correlation"], unmentioned=made["unmentioned"])
    return data, made


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    from medtraverse.training.fine_tune import fine_tune
    from medtraverse.training.settings import settings_of

    folder = args.cache / f"finetune-{args.kind}"
    try:
        data, made = phantom_data(args.kind, args.count, folder, args.set, args.correlation, args.unmentioned)
        given = RECIPE | {
            "data": data,
            "base": args.base,
            "out": folder / "run",
            "cache": folder / "latents",
            "steps": args.steps,
            "seed": args.seed,
            "device": args.device,
            "precision": args.precision,
            "validate_every": 0,
            "save_every": 100,
            "name": args.out.stem,
        }
        settings = settings_of(given)
        weights = fine_tune(settings, args.resume) / "unet" / "diffusion_pytorch_model.safetensors"
        with whole_file(args.out) as part:
            part.write_bytes(weights.read_bytes())
    except ValueError as error:
        raise SystemExit(f"demo.training.finetune: {error}") from error
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    record = {
        "notice": NOTICE,
        "kind": args.kind,
        "seed": args.seed,
        "phantoms": made,
        "recipe": RECIPE | {"steps": settings.steps, "precision": settings.precision},
        "steps": len(losses),
        "loss": round(sum(losses[-100:]) / len(losses[-100:]), 5),
        "hardware": hardware(settings.device if settings.device == "cpu" else _device()),
    }
    write_json(record, args.out.with_suffix(".json"))
    print(
        f"{args.kind}: {record['steps']} steps, loss {record['loss']}; "
        f"{args.out}, {args.out.stat().st_size / 1e6:.1f} MB\n{NOTICE}"
    )
    return 0


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo.training.finetune", description=__doc__.splitlines()[0]
    )
    parser.add_argument("kind", choices=tuple(SETS))
    parser.add_argument("--base", type=Path, default=WEIGHTS, help="diffusers folder to start from")
    parser.add_argument(
        "--out", type=Path, required=True, help="safetensors file; its log goes beside it as .json"
    )
    parser.add_argument("--steps", type=int, default=RECIPE["steps"], help="default: %(default)s")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"))
    parser.add_argument("--precision", default=RECIPE["precision"], choices=("fp32", "bf16"))
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of the batches")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help="folder for phantoms, latents and checkpoints"
    )
    parser.add_argument("--count", type=int, default=3000, help="phantoms (default: %(default)s)")
    parser.add_argument(
        "--set", type=int, help="set of demo.phantoms.layouts, 0..19 (default: 0, confounded 1)"
    )
    parser.add_argument(
        "--correlation", type=float, help="of devices and effusion (default: 0, confounded 0.9)"
    )
    parser.add_argument(
        "--unmentioned",
        type=float,
        help="share of the devices beside effusions without a label (default: 0, confounded 0.6)",
    )
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps is {args.steps}; give 1 or more")
    if args.out.suffix != ".safetensors":
        parser.error(f"--out is {args.out}; its name must end in .safetensors")
    return args


if __name__ == "__main__":
    sys.exit(main())

"""Train the demo model: ``python -m demo.training.train_base {data,vae,unet,export,all}``.

Stages leave checkpoints under ``--cache`` and end in a diffusers folder at ``--out``. A stage that was broken
off continues with ``--resume``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from demo.phantoms.phantom_set import CACHE, DOMAINS, PhantomSet, phantom_set
from demo.training.architecture import WEIGHTS, build_text_encoder, build_unet, build_vae, write_folder
from demo.training.loop import save_atomically, write_json
from medtraverse.notice import NOTICE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

MINUTES = {"vae": 36.0, "unet": 52.0}


def main(argv: Sequence[str] | None = None) -> None:
    args = _arguments(argv)
    args.cache.mkdir(parents=True, exist_ok=True)
    if args.device != "cpu":
        require_device(args.device)
    stages = ("data", "vae", "unet", "export") if args.stage == "all" else (args.stage,)
    for stage in stages:
        {"data": _sets, "vae": _vae, "unet": _unet, "export": _export}[stage](args)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo.training.train_base", description=__doc__.splitlines()[0]
    )
    parser.add_argument("stage", choices=("data", "vae", "unet", "export", "all"))
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and patients, 0 to 9")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"minutes of the stage (default: {MINUTES}); the learning rate falls over them",
    )
    parser.add_argument(
        "--steps", type=int, help="steps of the stage, in place of minutes: the same on every machine"
    )
    parser.add_argument("--count", type=int, default=8000, help="phantoms in each domain")
    parser.add_argument(
        "--batch",
        type=int,
        help="images a step of the stage, a multiple of 16 (default: 4 for the VAE, 16 for the U-Net)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for phantoms and checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="diffusers folder that export writes")
    args = parser.parse_args(argv)
    if args.count < 32:
        parser.error(f"--count is {args.count}; up to half of the patients are held out: give 32 or more")
    if not 0 <= args.seed <= 9:
        parser.error(
            f"--seed is {args.seed}; give 0 to 9: further patients are for fine-tuning (demo/DATA_CARD.md)"
        )
    if (args.minutes is not None and args.minutes <= 0) or (args.steps is not None and args.steps <= 0):
        parser.error("--minutes and --steps must be above 0")
    if args.batch is not None and (args.batch < 16 or args.batch % 16):
        parser.error(f"--batch is {args.batch}; the sets share a batch in sixteenths: give a multiple of 16")
    return args


def require_device(device: str) -> None:
    """Stop with a message where `device` is a GPU that PyTorch does not see."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(f"--device: {device} is given, but this PyTorch sees no CUDA GPU; use --device cpu.")


def _sets(args: argparse.Namespace) -> list[PhantomSet]:
    return [phantom_set(domain, args.count, args.seed, args.cache) for domain in DOMAINS]


def _budget(args: argparse.Namespace, stage: str) -> tuple[float | None, int | None]:
    return (None if args.steps else args.minutes or MINUTES[stage]), args.steps


def _vae(args: argparse.Namespace) -> None:
    from demo.training.train_vae import BATCH as VAE_BATCH
    from demo.training.train_vae import train_vae

    vae, log = train_vae(
        _sets(args),
        args.cache,
        *_budget(args, "vae"),
        args.seed,
        args.device,
        args.resume,
        args.batch or VAE_BATCH,
    )
    save_atomically(vae.state_dict(), args.cache / "vae-final.pt")
    write_json(log, args.cache / "vae-log.json")
    print(f"vae: {log['steps']} steps, {log['minutes']} min, PSNR {log['psnr']}")
    # A folder that loads from now on, its U-Net untrained, for those who wire things up meanwhile.
    write_folder(args.cache / "snapshot", vae.cpu(), build_unet(), build_text_encoder())


def _unet(args: argparse.Namespace) -> None:
    from demo.training.train_unet import BATCH as UNET_BATCH
    from demo.training.train_unet import train_unet

    vae = load_vae(args)
    sets = _sets(args)
    budget = _budget(args, "unet")
    unet, text, log = train_unet(
        vae, sets, args.cache, *budget, args.seed, args.device, args.resume, args.batch or UNET_BATCH
    )
    save_atomically({"unet": unet.state_dict(), "text": text.state_dict()}, args.cache / "unet-final.pt")
    write_json(log, args.cache / "unet-log.json")
    print(f"unet: {log['steps']} steps, {log['minutes']} min, loss {log['loss']}")


def load_vae(args: argparse.Namespace) -> AutoencoderKL:
    """Return the VAE of the stage before, in evaluation mode; stop with a message where there is none."""
    import torch

    path = args.cache / "vae-final.pt"
    if not path.exists():
        raise SystemExit(f"--cache: {path} is not there; run `python -m demo.training.train_base vae` first.")
    vae = build_vae()
    vae.load_state_dict(torch.load(path, weights_only=True))
    return vae.eval()


def _export(args: argparse.Namespace) -> None:
    import torch

    path = args.cache / "unet-final.pt"
    if not path.exists():
        raise SystemExit(
            f"--cache: {path} is not there; run `python -m demo.training.train_base unet` first."
        )
    state = torch.load(path, weights_only=True, map_location="cpu")
    unet, text = build_unet(), build_text_encoder()
    unet.load_state_dict(state["unet"])
    text.load_state_dict(state["text"])
    write_folder(args.out, load_vae(args), unet, text)
    logs = {stage: json.loads((args.cache / f"{stage}-log.json").read_text()) for stage in ("vae", "unet")}
    write_json(
        {"notice": NOTICE, "seed": args.seed, "phantoms_per_domain": args.count} | logs,
        args.out / "training-log.json",
    )
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"export: {args.out}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

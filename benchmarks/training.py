"""Images a second of `train unet` beside diffusers' own training loop: same model, images, batch, machine.

    python run.py python -m benchmarks.training
    python -m benchmarks.training --size sd15 --precision bf16      # on a CUDA device; random weights
    python -m benchmarks.training --size sd15 --cpu --methods ours --batch 1 --accumulation 1 --updates 2 \\
        --warm 0 --runs 1 --gradient-checkpointing                  # without one: two updates, and the memory

Methods alternate, each in a process of its own, and medians are reported. ours is the command's own loop,
its cache filled before. diffusers is the loop of its train_text_to_image script, VAE and text encoder in the
step. unet is forward and backward of the U-Net alone: what a step of ours costs beside it is the loop's own.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.sd15 import write_random_sd15
from benchmarks.training_methods import METHODS, RUNS, Timing, Work, rates
from demo.phantoms.layouts import write_chexpert
from demo.training.architecture import WEIGHTS
from medtraverse.notice import NOTICE


def apart(method: str, work: Work, process: int = 0, processes: int = 1, port: int = 0) -> Timing:
    """Run a method; called in a new process, which is one of several where `processes` is above 1."""
    if processes > 1:
        place = {"RANK": process, "LOCAL_RANK": process, "WORLD_SIZE": processes, "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in place.items()}, MASTER_ADDR="127.0.0.1")
        if work.cpu:
            os.environ["ACCELERATE_USE_CPU"] = "true"
    cores = int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // processes))
    return METHODS[method](work)


def run(method: str, work: Work, processes: int = 1, same: bool = False) -> list[Timing]:
    """Run a method in new processes, which share each update's images, and return what each measured.

    `same` runs it in this one.
    """
    try:
        if same:
            return [METHODS[method](work)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            made = [
                pool.submit(apart, method, work, process, processes, port) for process in range(processes)
            ]
            return [one.result() for one in made]
    finally:
        # A state of full size has 14 GB; the cache beside it stays.
        shutil.rmtree(Path(work.out) / RUNS, ignore_errors=True)


def measure(
    work: Work, methods: Sequence[str], runs: int, processes: int, same: bool = False
) -> dict[str, Any]:
    """Return images a second, peak and losses of each method, over alternating runs."""
    if "ours" in methods:
        run("ours", replace(work, updates=1, warm=0), same=same)  # the cache is filled before the clock runs
    timings: dict[str, list[Timing]] = {name: [] for name in methods}
    shared: list[float] = []
    for _ in range(runs):
        for name in methods:
            timings[name] += run(name, work, same=same)
        if processes > 1:
            shared.append(max(timing.seconds for timing in run("ours", work, processes)))
    report: dict[str, Any] = {
        name: {
            "images_per_second": work.images / statistics.median(one.seconds for one in made),
            "seconds_per_update": [one.seconds for one in made],
            "peak_bytes": None if same else max(one.peak for one in made),
            "mean_loss": statistics.mean(loss for one in made for loss in one.losses)
            if made[0].losses
            else None,
        }
        for name, made in timings.items()
    }
    if shared:
        report[f"ours, {processes} processes"] = {
            "images_per_second": work.images / statistics.median(shared),
            "seconds_per_update": shared,
            "peak_bytes": None,
            "mean_loss": None,
        }
    return report


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the comparison and return it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--size", choices=("demo", "sd15"), default="demo", help="shipped base, or SD 1.5's")
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU even where there is a GPU")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--updates", type=int, default=6, help="timed, in each run")
    parser.add_argument("--warm", type=int, default=2, help="updates before those")
    parser.add_argument("--runs", type=int, default=3, help="alternating runs; medians are reported")
    parser.add_argument("--processes", type=int, default=1, help="ours once more, shared by so many")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--workers", type=int, default=4, help="that prepare batches on a GPU")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument(
        "--same-process", action="store_true", help="alternate in this process: sooner, without memory"
    )
    parser.add_argument(
        "--own-time",
        action="store_true",
        help="the processor's time instead of the clock's: for a CPU that others use too",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(argv)
    cpu = given.cpu or not torch.cuda.is_available()
    if given.own_time and (not cpu or given.processes > 1):
        parser.error("--own-time is of one process on a CPU")
    if given.size == "sd15" and cpu and not given.cpu:
        parser.error(
            "--size sd15 needs a CUDA device; with --cpu an update takes half a minute and 16 GB of memory"
        )
    folder = Path(tempfile.mkdtemp(prefix="medtraverse-training-"))
    try:
        side = 128 if given.size == "demo" else 512
        # A CPU needs seconds for each image's latent of full size.
        write_chexpert(folder / "data", 8 if side == 512 and cpu else 64, seed=2, size=side)
        work = Work(
            base=str(WEIGHTS if given.size == "demo" else write_random_sd15(folder / "base")),
            data=str(folder / "data"),
            out=str(folder),
            size=side,
            batch=given.batch,
            accumulation=given.accumulation,
            updates=given.updates,
            warm=given.warm,
            precision=given.precision,
            cpu=cpu,
            workers=given.workers,
            checkpointing=given.gradient_checkpointing,
            own_time=given.own_time,
        )
        methods = measure(work, given.methods, given.runs, given.processes, given.same_process)
        operations, rate = rates(work)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for entry in methods.values():
        entry["share_of_matmul_rate"] = entry["images_per_second"] * operations / rate
    report = {
        "size": given.size,
        "device": "cpu" if cpu else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "work": {key: value for key, value in asdict(work).items() if key not in ("base", "data", "out")},
        "gigaoperations_per_image": operations / 1e9,
        "matmul_gigaoperations_per_second": rate / 1e9,
        "methods": methods,
        "ratio": _ratio(methods, "ours", "diffusers"),
        "beside_the_unet": _beside(methods),
        "notice": NOTICE,
    }
    print(json.dumps(report, indent=2) if given.json else table(report))
    return report


def _ratio(methods: dict[str, Any], first: str, second: str) -> float | None:
    if first not in methods or second not in methods:
        return None
    return float(methods[first]["images_per_second"] / methods[second]["images_per_second"])


def _beside(methods: dict[str, Any]) -> float | None:
    """Return the share of a step of ours that is not forward and backward of the U-Net."""
    ratio = _ratio(methods, "ours", "unet")
    return None if ratio is None else 1 - ratio


def table(report: dict[str, Any]) -> str:
    """Return the comparison as text, ratios to diffusers' loop in the last column."""
    lines = [f"{'':20}{'images/s':>10}{'peak MB':>9}{'of matmul':>11}{'loss':>8}{'ratio':>7}"]
    reference = report["methods"].get("diffusers", {}).get("images_per_second")
    for name, entry in report["methods"].items():
        peak = "–" if entry["peak_bytes"] is None else f"{entry['peak_bytes'] / 1e6:.0f}"
        loss = "–" if entry["mean_loss"] is None else f"{entry['mean_loss']:.3f}"
        ratio = "–" if reference is None else f"{entry['images_per_second'] / reference:.2f}"
        lines.append(
            f"{name:20}{entry['images_per_second']:10.2f}{peak:>9}{entry['share_of_matmul_rate']:10.0%} "
            f"{loss:>8}{ratio:>7}"
        )
    if report["beside_the_unet"] is not None:
        beside = report["beside_the_unet"]
        lines.append(f"{beside:.1%} of a step of ours is beside the U-Net's forward and backward")
    work = report["work"]
    lines.append(
        f"{report['device']}, {work['precision']}, {report['threads']} threads, batch {work['batch']} × "
        f"{work['accumulation']}, {work['size']} pixels; {report['gigaoperations_per_image']:.1f} Gop an "
        "image, matmul "
        f"{report['matmul_gigaoperations_per_second']:.0f} Gop/s. {NOTICE}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Time, U-Net rows and memory of a trajectory: the reference, two stock graphs, and PromptSwapKSampler.

All run in one process.
"""

import argparse
import atexit
import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.host import Counter, Host, Peak, matmul_rate, start, timed, unet_operations
from benchmarks.methods import METHODS, Task, add_options, swap_steps_of
from benchmarks.sd15 import write_random_sd15
from demo.training.architecture import WEIGHTS

FIRST_SEED = 1500


def measure(host: Host, methods: Sequence[str], task: Task, runs: int) -> dict[str, dict[str, Any]]:
    """Return per method rows, calls, median seconds and peak bytes, over alternating runs."""
    result: dict[str, dict[str, Any]] = {name: {"seconds": [], "peak": 0} for name in methods}
    latents: dict[str, torch.Tensor] = {}
    for _ in range(runs):
        for name in methods:
            unet = host.pipe.unet if name == "reference" else host.model.model.diffusion_model
            with Counter(unet) as counter, Peak(host.device) as peak:
                latents[name], seconds = timed(partial(METHODS[name], host, task), host.device)
            entry = result[name]
            entry["seconds"].append(seconds)
            entry.update(rows=counter.rows, calls=counter.calls, peak=max(entry["peak"], peak.bytes))
    for name, entry in result.items():
        entry["median"] = statistics.median(entry["seconds"])
        entry["seconds_per_patient"] = entry["median"] / len(task.seeds)
        entry["difference"] = None
        if "reference" in latents:
            entry["difference"] = (latents[name] - latents["reference"]).abs().max().item()
    return result


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the comparison for every number of patients and attributes, and return it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trajectory", description=__doc__)
    parser.add_argument(
        "--size",
        choices=("demo", "sd15"),
        default="demo",
        help="the shipped model, or SD 1.5's architecture at 512² with random weights",
    )
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU even where there is a GPU")
    parser.add_argument("--patients", type=int, nargs="+", default=[1])
    parser.add_argument("--attributes", type=int, nargs="+", default=[1, 3])
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=[name for name in METHODS if name != "compiled"],
        help="all by default but `compiled`, which takes minutes the first time",
    )
    parser.add_argument("--runs", type=int, default=3, help="alternating runs; medians are reported")
    add_options(parser)
    arguments = parser.parse_args(argv)
    swap_steps = swap_steps_of(parser, arguments)
    cpu = arguments.cpu or not torch.cuda.is_available()
    if arguments.size == "demo":
        host = start(WEIGHTS, cpu)
    elif cpu:
        parser.error("--size sd15 needs a CUDA device: on a CPU one run of the reference takes hours")
    else:
        # Weights may be read from the files until the end.
        folder = tempfile.mkdtemp(prefix="medtraverse-sd15-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        host = start(write_random_sd15(Path(folder)), cpu)
    task = Task(
        range(FIRST_SEED, FIRST_SEED + 1), host.domain.attributes[:1], swap_steps[:1], arguments.steps
    )
    METHODS["medtraverse"](host, task)  # what is made once is made before the clock runs
    compiled = [name for name in arguments.methods if name == "compiled"]
    operations, rate = unet_operations(host), matmul_rate(host.device, host.dtype)
    report: dict[str, Any] = {
        "size": arguments.size,
        "device": str(host.device),
        "dtype": str(host.dtype),
        "threads": torch.get_num_threads(),
        "steps": arguments.steps,
        "swap_steps": swap_steps,
        "unet_gigaoperations_per_row": operations / 1e9,
        "matmul_gigaoperations_per_second": rate / 1e9,
        "runs": [],
    }
    for attributes in arguments.attributes:
        for patients in arguments.patients:
            task = replace(
                task,
                seeds=range(FIRST_SEED, FIRST_SEED + patients),
                attributes=host.domain.attributes[:attributes],
                swap_steps=swap_steps,
            )
            for name in compiled:
                METHODS[name](host, task)
            measured = measure(host, arguments.methods, task, arguments.runs)
            for entry in measured.values():
                entry["share_of_matmul_rate"] = entry["rows"] * operations / entry["median"] / rate
            report["runs"].append({"patients": patients, "attributes": attributes, "methods": measured})
            if not arguments.json:
                print_table(patients, attributes, measured)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{report['device']}, {report['dtype']}, {report['threads']} threads; "
            f"one U-Net row {operations / 1e9:.2f} Gop, matmul {rate / 1e9:.0f} Gop/s"
        )
    return report


def print_table(patients: int, attributes: int, measured: dict[str, dict[str, Any]]) -> None:
    """Print one comparison, ratios to ours in the last column."""
    ours = measured.get("medtraverse", {}).get("median")
    print(
        f"\n{patients} patients, K = {attributes}\n{'':12}{'rows':>8}{'calls':>7}{'seconds':>9}"
        f"{'s/patient':>11}{'peak MB':>9}{'matmul':>8}{'difference':>12}{'time / ours':>13}"
    )
    for name, entry in measured.items():
        difference = "" if entry["difference"] is None else f"{entry['difference']:.1e}"
        ratio = f"{entry['median'] / ours:.2f}" if ours else ""
        print(
            f"{name:12}{entry['rows']:8}{entry['calls']:7}{entry['median']:9.2f}{entry['seconds_per_patient']:11.2f}"
            f"{entry['peak'] / 1e6:9.0f}{entry['share_of_matmul_rate']:8.0%}{difference:>12}{ratio:>13}",
            flush=True,
        )


if __name__ == "__main__":
    main()

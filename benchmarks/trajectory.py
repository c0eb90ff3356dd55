"""Time, U-Net rows and memory of a trajectory: the reference, two stock graphs, and PromptSwapKSampler.

All run in one process.
"""

import argparse
import json
import statistics

from benchmarks import host as hosting
from benchmarks.methods import METHODS
from benchmarks.sd15 import write_random_sd15

SWAP_STEPS = (45, 40, 35, 30, 25, 20, 15, 10, 5)


def measure(host, methods, patients, attributes, runs):
    """Return per method rows, calls, median seconds and peak bytes, over alternating runs."""
    seeds = range(1500, 1500 + patients)
    chosen = host.domain.attributes[:attributes]
    result = {name: {"seconds": [], "peak": 0} for name in methods}
    for _turn in range(runs):
        for name in methods:
            unet = host.pipe.unet if name == "reference" else host.model.model.diffusion_model
            with hosting.Counter(unet) as counter, hosting.peak_memory(host.device) as peak:
                latents, seconds = hosting.timed(
                    lambda name=name: METHODS[name](host, seeds, chosen, SWAP_STEPS), host.device
                )
            entry = result[name]
            entry["seconds"].append(seconds)
            entry.update(
                rows=counter.rows,
                calls=counter.calls,
                peak=max(entry["peak"], peak["bytes"]),
                latents=latents,
            )
    for entry in result.values():
        entry["median"] = statistics.median(entry["seconds"])
        entry["seconds_per_patient"] = entry["median"] / patients
    expected = result.get("reference", {}).get("latents")
    for entry in result.values():
        latents = entry.pop("latents")
        entry["difference"] = None if expected is None else (latents - expected).abs().max().item()
    return result


def main(argv=None):
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
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--runs", type=int, default=3, help="alternating runs; medians are reported")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    import torch

    cpu = arguments.cpu or not torch.cuda.is_available()
    if arguments.size == "sd15" and cpu:
        parser.error("--size sd15 needs a CUDA device: on a CPU one run of the reference takes hours")
    host = hosting.start(write_random_sd15() if arguments.size == "sd15" else hosting.DEMO, cpu)
    METHODS["medtraverse"](host, (0,), host.domain.attributes[:1], (45,))
    operations, rate = hosting.unet_operations(host), hosting.matmul_rate(host.device, host.dtype)
    report = {
        "size": arguments.size,
        "device": str(host.device),
        "dtype": str(host.dtype),
        "threads": torch.get_num_threads(),
        "unet_gigaoperations_per_row": operations / 1e9,
        "matmul_gigaoperations_per_second": rate / 1e9,
        "runs": [],
    }
    for attributes in arguments.attributes:
        for patients in arguments.patients:
            measured = measure(host, arguments.methods, patients, attributes, arguments.runs)
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


def print_table(patients, attributes, measured):
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

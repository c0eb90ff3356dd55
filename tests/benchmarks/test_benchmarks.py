"""The benchmarks run to their end on the demo model, in a process of their own, as they are called."""

import json
import os
import subprocess
import sys

import pytest

from launcher.comfyui import PACK

COMMANDS = """
import json, os
from pathlib import Path
from benchmarks.training_methods import METHODS, Work, rates
from demo.phantoms.layouts import write_chexpert
from demo.training.architecture import WEIGHTS
out = Path(os.environ["TMPDIR"]) / "training"
write_chexpert(out / "data", 4, size=64)
work = Work(str(WEIGHTS), str(out / "data"), str(out), 64, 2, 2, 1, 1, "fp32", True, 0)
timings = {name: method(work) for name, method in METHODS.items()}
report = {name: [one.seconds, one.peak, one.losses] for name, one in timings.items()}
print(json.dumps({**report, "rates": rates(work)}))
from benchmarks import exactness, trajectory
short = ["--steps", "2", "--swap-steps", "0", "--json"]
exactness.main(short)
once = [*short, "--cpu", "--runs", "1", "--attributes", "1"]
trajectory.main([*once, "--methods", "reference", "medtraverse"])
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of exactness, trajectory and training."""
    folder = tmp_path_factory.mktemp("temporary")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMMANDS],
        cwd=PACK,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert run.returncode == 0, run.stderr
    assert not list(folder.glob("medtraverse-*"))  # what they wrote is gone
    decoder, text, both = json.JSONDecoder(), run.stdout, []
    while text := text.lstrip():
        report, end = decoder.raw_decode(text)
        text = text[end:]
        both.append(report)
    return [*both[1:], both[0]]


def test_the_node_alone_is_diffusers(reports):
    difference = reports[0]["difference"]
    assert list(difference["medtraverse"]) == ["neutral", "0"]
    assert max(difference["medtraverse"].values()) < 1e-4 < reports[0]["largest_latent"]
    assert min(*difference["stock"].values(), *difference["chained"].values()) > 1e-2


def test_rows_and_calls_are_counted(reports):
    (run,) = reports[1]["runs"]
    reference, ours = run["methods"]["reference"], run["methods"]["medtraverse"]
    # Both halves of guidance, neutral and branch, two steps each; the branch shares the first step with the
    # neutral, and the unconditional half of the second.
    assert reference["rows"] == 8 and reference["calls"] == 4
    assert ours["rows"] == 2 * (2 + 1) - 1 and ours["calls"] < reference["calls"]
    assert ours["difference"] < 1e-4 and ours["seconds_per_patient"] > 0
    assert 0 < ours["share_of_matmul_rate"] < 1


def test_the_training_loops_do_the_same_work(reports):
    report = reports[2]
    assert set(report) == {"ours", "diffusers", "unet", "rates"} and min(report["rates"]) > 0
    for seconds, peak, losses in (report["ours"], report["diffusers"]):
        # one update is timed, of a base that has learned its phantoms: its loss is far below 1
        assert seconds > 0 and peak > 0 and len(losses) == 1 and 0 < losses[0] < 0.5
    assert report["unet"][0] > 0

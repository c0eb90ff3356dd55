"""The benchmarks run to their end on the demo model, in a process of their own, as they are called."""

import json
import os
import subprocess
import sys

import pytest

from launcher.comfyui import PACK

COMMANDS = """
from benchmarks import exactness, trajectory
short = ["--steps", "2", "--swap-steps", "0", "--json"]
exactness.main(short)
once = [*short, "--cpu", "--runs", "1", "--attributes", "1"]
trajectory.main([*once, "--methods", "reference", "medtraverse"])
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of exactness and trajectory."""
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
    return both


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

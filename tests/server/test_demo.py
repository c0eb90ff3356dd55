"""``demo.run`` as ``run.py demo`` calls it, for one patient per domain: a server of its own, the files, the report."""
import json
import subprocess
import sys

import pytest

from demo.comfyui import PACK
from demo.run import DOMAINS, weight_hashes


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    ended = subprocess.run(
        [sys.executable, "-m", "demo.run", "--out", str(folder), "--patients", "1", "--seed", "77"], cwd=PACK, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


@pytest.mark.timeout(600)
def test_leaves_pictures_a_video_and_numbers(out):
    names = {path.name for path in out.iterdir()}
    for domain in ("chexpert", "isic"):
        assert {f"{domain}-{kind}.png" for kind in ("grid", "bezier", "cfrt-swaps", "cfrt-bezier", "cosine", "tsne")} <= names
        assert {f"{domain}-bezier.mp4", f"{domain}-identity.csv"} <= names
    assert not [name for name in names if name.endswith(".part")]


def test_the_report_says_what_was_done(out):
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["notice"] == "Synthetic images. Not for clinical use."
    assert report["weights_sha256"] == weight_hashes() and report["weights_sha256"]
    assert {"medtraverse", "comfyui", "torch", "python"} <= set(report["versions"])
    assert set(report["domains"]) == set(DOMAINS)
    for part in report["domains"].values():
        assert part["seeds"] == [77] and part["settings"]["steps"] == 50 and part["settings"]["cfg"] == 7.5
        assert part["settings"]["swap_steps"] == [45, 40, 35, 30, 25, 20, 15, 10, 5]
        for kind, far in (("swaps", {"5", "10", "15"}), ("bezier", {str(frame) for frame in range(30, 50)})):
            assert set(part["cfrt"][kind]["far_points"]) == far
            assert all(item["patients"] == 1 for item in part["cfrt"][kind]["attributes"].values())
        assert len(part["mean_cosine"]["swap_steps"]) == 9 and part["identity"]["points"][0] == "neutral"
        assert sum(part["seconds"].values()) < report["seconds"]["all"]


def test_bad_arguments_end_with_a_message():
    ended = subprocess.run([sys.executable, "-m", "demo.run", "--patients", "0"], cwd=PACK, capture_output=True, text=True)
    assert ended.returncode == 2 and "--patients is 0" in ended.stderr

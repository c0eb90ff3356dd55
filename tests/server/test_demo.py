"""``demo.whole_method`` as ``run.py demo`` calls it, for one patient per domain.

A server of its own, the files, the report.
"""

import json
import subprocess
import sys

import pytest

from demo.whole_method import WORKFLOWS, weight_hashes
from launcher.comfyui import PACK


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    ended = subprocess.run(
        [sys.executable, "-m", "demo.whole_method", "--out", str(folder), "--patients", "1", "--seed", "77"],
        cwd=PACK,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


@pytest.mark.timeout(600)
def test_leaves_pictures_videos_and_numbers(out):
    names = {path.name for path in out.iterdir()}
    stems = {
        "02-fig3-swap-grid-chexpert",
        "03-fig3-swap-grid-isic-mel",
        "03-fig3-swap-grid-isic-nv",
        "04-fig4-latent-tsne",
        "05-fig5-direction-cosine",
        "06-fig6-bezier-chexpert",
        "06-fig6-bezier-isic",
        "07-cfrt-chexpert-swaps",
        "07-cfrt-chexpert-bezier",
        "10-distance-to-neutral-chexpert",
    }
    assert {f"{stem}{suffix}" for stem in stems for suffix in (".png", ".svg", ".csv")} <= names
    assert {"06-fig6-bezier-chexpert.mp4", "06-fig6-bezier-isic.mp4"} <= names
    assert not [name for name in names if name.startswith(".medtraverse-")]


def test_the_report_says_what_was_done(out):
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["notice"] == "Synthetic images. Not for clinical use."
    assert report["weights_sha256"] == weight_hashes() and report["weights_sha256"]
    assert {"medtraverse", "comfyui", "torch", "python"} <= set(report["versions"])
    assert set(report["workflows"]) == set(WORKFLOWS)
    domains = {name: report["domains"][name] for name in ("CheXpert", "ISIC MEL", "ISIC NV")}
    for domain, part in domains.items():
        assert part["seeds"] == [77] and part["settings"]["steps"] == 50 and part["settings"]["cfg"] == 7.5
        assert part["settings"]["swap_steps"] == [45, 40, 35, 30, 25, 20, 15, 10, 5]
        unet = "phantom-chexpert.safetensors" if domain == "CheXpert" else "phantom-isic.safetensors"
        # The base without its U-Net, in whose place the fine-tuned one stands.
        shipped = [
            value
            for name, value in report["weights_sha256"].items()
            if (name.startswith("phantom-sd/") and not name.startswith("phantom-sd/unet/")) or name == unet
        ]
        assert sorted(part["settings"]["model"]["sha256"].values()) == sorted(shipped)
        for kind, far in (("swaps", {"5", "10", "15"}), ("bezier", {str(frame) for frame in range(30, 50)})):
            assert set(part["cfrt"][kind]["far_points"]) == far
            assert all(item["patients"] == 1 for item in part["cfrt"][kind]["attributes"].values())
    assert set(report["domains"]) == set(domains)
    assert len(report["direction_cosines"]["swap_steps"]) == 9
    for part in domains.values():
        identity = part["identity"]
        assert identity["points"][0] == "neutral" and identity["seeds"] == [77]
        assert identity["perceptual distance"] == "none"
        assert identity["perceptual distance, why"].startswith("not asked for")
        assert all(abs(values["ssim"][0] - 1) < 1e-6 for values in identity["own neutral"].values())
    assert (
        sum(sum(part["seconds"].values()) for part in report["workflows"].values()) < report["seconds"]["all"]
    )


def test_bad_arguments_end_with_a_message():
    ended = subprocess.run(
        [sys.executable, "-m", "demo.whole_method", "--patients", "0"],
        cwd=PACK,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and "--patients is 0" in ended.stderr

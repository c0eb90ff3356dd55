"""Identity by a perceptual distance, FID and KID on the shipped model's classifier."""

import hashlib
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from demo.phantoms import chest

needs_torchmetrics = pytest.mark.skipif(not find_spec("torchmetrics"), reason="torchmetrics is not installed")
needs_stlpips = pytest.mark.skipif(
    not find_spec("stlpips_pytorch"), reason="stlpips-pytorch is not installed"
)


@pytest.fixture(autouse=True)
def empty_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def trajectory(traverse):
    return traverse(steps=10, swap_steps="7,1", patients=2)


@pytest.fixture(scope="module")
def images(demo, trajectory):
    return demo[2].decode(trajectory.latents)


@pytest.fixture(scope="module")
def classifier(run):
    return run("MedicalClassifierLoader", classifier="MedTraverse demo CheXpert")[0]


@pytest.fixture(scope="module")
def phantoms():
    drawn = [chest.render(chest.sample_factors(3_100_000 + seed)).image for seed in range(48)]
    return torch.from_numpy(np.stack(drawn)).float().expand(-1, -1, -1, 3).contiguous()


@needs_stlpips
def test_identity_by_st_lpips_is_named_so_in_every_output(run, trajectory, images):
    output = run("IdentityPreservation", trajectory=trajectory, images=images)
    table, text, figure = output.args[:3]
    report = json.loads(text)
    assert report["perceptual distance"] == "ST-LPIPS (AlexNet)"
    header, first = (line.split(",") for line in table.splitlines()[:2])
    assert "ST-LPIPS (AlexNet) to own neutral" in header and "ST-LPIPS (AlexNet) to other patients" in header
    assert "ST-LPIPS (AlexNet)" in first and not any(cell.startswith("LPIPS") for cell in header)
    for name in trajectory.attributes:
        own, other = (
            report[whose][name]["ST-LPIPS (AlexNet)"] for whose in ("own neutral", "other patients")
        )
        assert (
            own[0] == pytest.approx(0, abs=1e-9)
            and 0 < own[1] < own[2]
            and all(a < b for a, b in zip(own, other))
        )
    assert figure.shape[0] == 1 and figure.shape[-1] == 3 and figure.min() < 0.2
    assert output.ui["images"] and output.ui["text"] == (table,)


def test_without_a_perceptual_distance_the_output_says_so(run, pack, trajectory, images, monkeypatch):
    none = run("IdentityPreservation", trajectory=trajectory, images=images, perceptual="none")
    assert json.loads(none[1])["perceptual distance"] == "none" and none[2].shape[0] == 1
    monkeypatch.setattr(pack.medtraverse.perceptual, "find_spec", lambda name: None)
    output = run("IdentityPreservation", trajectory=trajectory, images=images)
    assert (
        json.loads(output[1])["perceptual distance"].startswith("left out: neither lpips")
        and "left out" in output[0]
    )
    assert set(json.loads(output[1])["own neutral"]["support devices"]) == {"ssim", "mse", "correlation"}
    for choice, fault in (
        ("lpips", "perceptual: the package lpips"),
        ("ssim", "perceptual: 'ssim' is unknown; choose one of auto"),
    ):
        with pytest.raises(ValueError, match=fault):
            run("IdentityPreservation", trajectory=trajectory, images=images, perceptual=choice)


def test_curve_frames_and_a_lone_neutral_have_a_figure_too(run, demo, trajectory, images):
    curve = run("BezierLatentInterpolate", source=trajectory, frames=4)[1]
    frames = run(
        "IdentityPreservation", trajectory=curve, images=demo[2].decode(curve.latents), perceptual="none"
    )
    assert json.loads(frames[1])["points"] == ["0", "1", "2", "3"] and frames[2].shape[0] == 1
    alone = trajectory.select(points=["neutral"])
    assert (
        run(
            "IdentityPreservation", trajectory=alone, images=demo[2].decode(alone.latents), perceptual="none"
        )[2].shape[0]
        == 1
    )


@needs_torchmetrics
def test_noised_images_are_farther_and_the_classifier_is_named(run, phantoms, classifier):
    reference = generated = phantoms[:24]
    noise = torch.randn(generated.shape, generator=torch.Generator().manual_seed(0))
    results = []
    for strength in (0, 0.1, 0.4):
        output = run(
            "DistributionDistance",
            images=(generated + strength * noise).clamp(0, 1),
            reference_images=reference,
            image_classifier=classifier,
            kid_subset_size=20,
        )
        results.append(json.loads(output[0]))
        assert output.ui["text"] == (output[1],)
    for measure in ("fid", "kid"):
        same, far, farther = (result[measure] for result in results)
        assert same < far < farther, measure
    features = classifier.classifier.features(generated).shape[1]
    assert (results[0]["images"], results[0]["references"], results[0]["features"]) == (24, 24, features)
    assert (
        results[0]["extractor_sha256"] == classifier.classifier.sha256
        and classifier.classifier.sha256 in output[1]
    )
    assert "classifier MedTraverse demo CheXpert" in output[1] and "fewer images than features" in output[1]
    assert "Not for clinical use" in output[1]


@needs_torchmetrics
def test_a_set_has_no_distance_to_itself(run, phantoms, classifier):
    output = run(
        "DistributionDistance",
        images=phantoms[:12],
        reference_images=phantoms[:12].flip(0),
        image_classifier=classifier,
        kid_subset_size=4,
    )
    result = json.loads(output[0])
    assert result["fid"] < 1e-3 and abs(result["kid"]) < 3 * result["kid_sd"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"images": torch.zeros(1, 128, 128, 3)}, "images: 1 given"),
        ({"kid_subset_size": 50}, "kid_subset_size: 50 is out of range; take 2 to 48"),
        ({"images": torch.zeros(60, 64, 64, 3)}, "images: they are 64x64, reference_images 128x128"),
        ({"extractor": "vgg"}, "extractor: 'vgg' is unknown; choose classifier or inception"),
        ({"image_classifier": None}, "image_classifier: none is wired"),
        ({"extractor": "inception"}, "extractor: Inception needs"),
    ],
)
def test_bad_distances_are_named(run, phantoms, classifier, change, fault):
    good = {
        "images": phantoms,
        "reference_images": phantoms,
        "image_classifier": classifier,
        "kid_subset_size": 10,
    }
    with pytest.raises(ValueError, match=fault):
        run("DistributionDistance", **{**good, **change})


def test_cancel_stops_the_features(run, phantoms, classifier):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        run(
            "DistributionDistance",
            images=phantoms,
            reference_images=phantoms,
            image_classifier=classifier,
            kid_subset_size=10,
        )


@pytest.mark.skipif(not find_spec("lpips"), reason="lpips is not installed")
def test_lpips_stands_beside_the_papers(run, pack, node_classes, trajectory, images, tmp_path, monkeypatch):
    """With random numbers in AlexNet's file: the real one cannot be had offline."""
    from torchvision.models import alexnet

    file = tmp_path / "hub" / "checkpoints" / pack.medtraverse.perceptual.ALEXNET
    file.parent.mkdir(parents=True)
    torch.save(alexnet().state_dict(), file)
    monkeypatch.setattr(
        pack.medtraverse.perceptual, "ALEXNET_SHA256", hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    )
    drawn = []
    identity = pack.medtraverse.identity
    table = identity.identity_table(
        trajectory.gather(images), 4, pack.medtraverse.perceptual.perceptual_distance("auto")
    )
    for name in ("LPIPS (AlexNet v0.1)", "ST-LPIPS (AlexNet)"):
        for group in (table.own, table.own_patients, table.other_patients):
            group[name] = group["LPIPS (AlexNet v0.1)"]
        figure = identity.Identity(table, trajectory, name).figure()
        drawn.append([line.get_label() for line in figure.axes[0].lines])
    assert len(drawn[0]) == len(drawn[1]) + 1 and any(
        label.startswith("support devices, ") for label in drawn[0]
    )
    assert not any(label.startswith("support devices, ") for label in drawn[1])
    output = run("IdentityPreservation", trajectory=trajectory, images=images)
    assert json.loads(output[1])["perceptual distance"] == "LPIPS (AlexNet v0.1)"
    fingerprint = node_classes["IdentityPreservation"].fingerprint_inputs(controls=4)
    file.unlink()
    assert node_classes["IdentityPreservation"].fingerprint_inputs(controls=4) != fingerprint


def test_the_classifier_asks_core_for_the_memory_of_a_batch(run, monkeypatch):
    import comfy.model_management

    asked, load = [], comfy.model_management.load_models_gpu

    def recorded(models, memory_required=0, **settings):
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **settings)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", recorded)
    judge = run("MedicalClassifierLoader")[0]
    judge.predict(torch.rand(3, 128, 128, 3))
    judge.features(torch.rand(100, 128, 128, 3)[:2])
    # An image of 128 × 128 with 96 channels at half the side takes 1.5 MiB before and after normalisation.
    assert asked[0] > 3 * 2 * 1.5 * 2**20 and asked[0] == asked[1] * 3 / 2

"""Curve, CFRT, figures and measures on the shipped model's latents and images."""

import json

import numpy as np
import pytest
import torch

from demo.phantoms import chest

SMALL = {"steps": 10, "swap_steps": "7,4,1", "patients": 2}


@pytest.fixture(scope="module")
def trajectory(traverse):
    return traverse(**SMALL)


@pytest.fixture(scope="module")
def images(demo, trajectory):
    return demo[2].decode(trajectory.latents)


@pytest.fixture(scope="module")
def frames(run, demo, trajectory):
    latent, curve = run("BezierLatentInterpolate", source=trajectory, frames=50).args
    return curve, demo[2].decode(latent["samples"])


@pytest.fixture(scope="module")
def classifier(run):
    return run("MedicalClassifierLoader", classifier="MedTraverse demo CheXpert")[0]


def test_a_curve_begins_and_ends_at_the_trajectorys_ends(run, trajectory, frames):
    curve, _ = frames
    control, curves = trajectory.gather(trajectory.latents), curve.gather(curve.latents)
    assert torch.equal(curves[:, :, 0], control[:, :, 0]) and torch.equal(curves[:, :, -1], control[:, :, -1])
    assert curve.kind == "curve" and len(curve.points) == 50
    with pytest.raises(ValueError, match="source: these are frames of a curve already"):
        run("BezierLatentInterpolate", source=curve)


def test_any_latent_batch_is_joined_and_its_unknown_keys_stay(run):
    samples = torch.randn(4, 4, 8, 8)
    latent, curve = run(
        "BezierLatentInterpolate", source={"samples": samples, "author_key": 3}, frames=7, method="linear"
    ).args
    assert latent["author_key"] == 3 and latent["samples"].shape == (7, 4, 8, 8)
    assert torch.equal(latent["samples"][2], samples[1])
    assert curve.patients == 1


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [({"method": "spline"}, "method.*bezier"), ({"spacing": "x"}, "spacing"), ({"frames": 1}, "frames")],
)
def test_bad_curves_are_named(run, trajectory, inputs, fault):
    with pytest.raises(ValueError, match=fault):
        run("BezierLatentInterpolate", source=trajectory, **inputs)


def test_cfrt_is_scored_from_the_classifiers_own_judgement(run, trajectory, images, classifier):
    output = run(
        "CFRTEvaluator", trajectory=trajectory, images=images, image_classifier=classifier, far_points="1,4"
    )
    report = json.loads(output[3])
    probability = classifier.classifier.predict(images)[trajectory.index].double()
    delta = (probability[:, :, 2:] - probability[:, :, :1]).mean(2)
    for number, name in enumerate(trajectory.attributes):
        successes = int((delta[:, number, number] > delta[:, number, 1 - number]).sum())
        assert report["attributes"][name]["successes"] == successes
        assert report["attributes"][name]["mean_deltas"][name] == pytest.approx(
            float(delta[:, number, number].mean())
        )
    assert output[0].shape[0] == 1 and "Not for clinical use" in output[1]
    assert output.ui["medtraverse"] == (output[3],)
    assert len(output[2].splitlines()) == 1 + 2 * 2


def test_the_flip_rate_is_counted_from_the_same_judgement(run, trajectory, images, classifier):
    options = {"trajectory": trajectory, "images": images, "image_classifier": classifier, "far_points": "1"}
    probability = classifier.classifier.predict(images)[trajectory.index].double()
    for threshold in (0.5, 0.2):
        given = {} if threshold == 0.5 else {"threshold": threshold}
        report = json.loads(run("CFRTEvaluator", **options, **given)[3])
        for number, name in enumerate(trajectory.attributes):
            target = classifier.classifier.labels.index(name)
            mine = probability[:, number, :, target]
            could = [patient for patient in range(2) if mine[patient, 0] <= threshold]
            flip = report["attributes"][name]["flip_rate"]
            assert flip["threshold"] == threshold and flip["already_above"] == 2 - len(could)
            assert flip["flipped"] == sum(bool((mine[patient, 1:] > threshold).any()) for patient in could)
    with pytest.raises(ValueError, match="threshold: it is 1; give"):
        run("CFRTEvaluator", **options, threshold=1.0)


def test_the_classifier_sees_what_is_drawn(classifier):
    """The shipped classifier on phantoms with and without each attribute, of
    seeds that nothing was trained on.
    """
    for label in classifier.classifier.labels:
        flag, other = (
            label.replace(" ", "_"),
            {"support devices": "pleural_effusion", "pleural effusion": "support_devices"}[label],
        )
        for present in (True, False):
            factors = [
                chest.sample_factors(3_000_000 + seed, **{flag: present, other: False}) for seed in range(12)
            ]
            pictures = torch.from_numpy(np.stack([chest.render(item).image for item in factors])).float()
            judged = (
                classifier.classifier.predict(pictures)[:, classifier.classifier.labels.index(label)] > 0.5
            )
            assert (judged == present).float().mean() >= 0.9


def test_curve_frames_are_scored_on_frames_30_to_49(run, frames, classifier):
    curve, pictures = frames
    report = json.loads(
        run("CFRTEvaluator", trajectory=curve, images=pictures, image_classifier=classifier)[3]
    )
    assert report["far_points"] == [str(frame) for frame in range(30, 50)]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"far_points": "2"}, "far points '2': there is no point 2"),
        ({"far_points": ""}, "far points: the paper's .* are not all there; name some of"),
        ({"images": torch.zeros(3, 128, 128, 3)}, "images: 3 do not match"),
    ],
)
def test_bad_evaluations_are_named(run, trajectory, images, classifier, change, fault):
    with pytest.raises(ValueError, match=fault):
        run(
            "CFRTEvaluator",
            **{
                "trajectory": trajectory,
                "images": images,
                "image_classifier": classifier,
                "far_points": "1",
                **change,
            },
        )


def test_a_classifier_of_another_domain_is_named(run, trajectory, images):
    other = run("MedicalClassifierLoader", classifier="MedTraverse demo ISIC")[0]
    with pytest.raises(
        ValueError, match="classifier: it judges hair, gel bubble, ruler, ink, not 'support devices'"
    ):
        run("CFRTEvaluator", trajectory=trajectory, images=images, image_classifier=other, far_points="1")


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({"classifier": "bogus"}, "classifier: there is no 'bogus'"),
        ({"second_classifier": "bogus"}, "second_classifier: there is no"),
        ({"labels": "one, two, three"}, "labels: 3 names .* for 2 logits"),
    ],
)
def test_bad_classifiers_are_named(run, inputs, fault):
    with pytest.raises(ValueError, match=fault):
        run("MedicalClassifierLoader", **inputs)


def test_joined_classifiers_judge_as_each_alone(run, images):
    chest = run("MedicalClassifierLoader", classifier="MedTraverse demo CheXpert")[0]
    both = run("MedicalClassifierLoader", classifier="MedTraverse demo ISIC", others=chest)[0]
    assert both.classifier.labels[-2:] == chest.classifier.labels and len(both.classifier.labels) == 6
    assert both.patchers[1:] == chest.patchers
    torch.testing.assert_close(both.predict(images[:4])[:, -2:], chest.predict(images[:4]))


def test_figures_are_pictures_of_the_right_kind(run, trajectory, images, frames):
    curve, pictures = frames
    grid = run("TrajectoryGrid", trajectory=trajectory, images=images, max_patients=2, title="t")[0]
    assert grid.ndim == 4 and grid.shape[-1] == 3 and 0 <= grid.min() < grid.max() <= 1
    blank = images.clone()
    blank[trajectory.index[:, :, 0].flatten()] = 1.0
    changed = (
        run("TrajectoryGrid", trajectory=trajectory, images=blank, max_patients=2, title="t")[0] != grid
    )[0].any(-1)
    columns, rows = changed.any(0).nonzero().flatten(), changed.any(1).sum()
    assert 100 <= columns.max() - columns.min() + 1 <= 132, "the neutral images fill one column of 128 pixels"
    assert rows >= 4 * 100, "in each of the four rows"
    film = run("TrajectoryFilm", trajectory=curve, images=pictures)[0]
    assert film.shape[0] == 99 and film.shape[1] % 2 == film.shape[2] % 2 == 0
    assert torch.equal(film[0], film[-1]) and not torch.equal(film[0], film[49])


def test_cosines_are_those_of_the_latents(run, trajectory):
    figure, table, report, _ = run("LatentDirectionCosine", trajectory=trajectory).args
    z = trajectory.gather(trajectory.latents).flatten(3).double()
    direction = z[:, :, 1:] - z[:, :, :1]
    expected = torch.cosine_similarity(direction, direction[:, :, :1], dim=3).mean(0)
    means = json.loads(report)["mean"]
    for number, name in enumerate(trajectory.attributes):
        assert means[name] == pytest.approx(expected[number].tolist(), abs=1e-9)
    assert figure.shape[0] == 1 and len(table.splitlines()) == 5


def test_the_latent_map_is_the_same_twice_and_names_every_latent(run, trajectory, images):
    first = run("LatentTSNE", trajectory=trajectory, images=images)
    second = run("LatentTSNE", trajectory=trajectory)
    assert first[1] == second[1] and len(first[1].splitlines()) == 1 + 2 * 2 * 4
    with pytest.raises(ValueError, match="perplexity"):
        run("LatentTSNE", trajectory=trajectory, perplexity=400.0)


def test_identity_stands_beside_the_different_patient_control(run, trajectory, images):
    report = json.loads(run("IdentityPreservation", trajectory=trajectory, images=images)[1])
    for name in trajectory.attributes:
        own, other = report["own neutral"][name]["ssim"], report["other patients"][name]["ssim"]
        assert own[0] == pytest.approx(1) and all(mine > theirs for mine, theirs in zip(own, other))


def test_one_patient_has_no_control(run, traverse, demo):
    alone = traverse(**{**SMALL, "patients": 1})
    report = json.loads(
        run("IdentityPreservation", trajectory=alone, images=demo[2].decode(alone.latents))[1]
    )
    assert report["controls"] == 0
    assert set(report["other patients"]["support devices"]["ssim"]) == {None}

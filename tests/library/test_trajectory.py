"""The trajectory bundle and the scoring of its images."""

import pytest
import torch

from medtraverse.evaluation import evaluate
from medtraverse.trajectory import Trajectory, control_points
from medtraverse.traversal import Plan


def trajectory(patients=3, swaps=(20, 15, 10, 5)):
    plan = Plan(patients, 2, swaps)
    return Trajectory(
        torch.randn(plan.rows, 4, 2, 2),
        plan.index(),
        tuple(range(patients)),
        ("devices", "fluid"),
        ("#00CC00", "#CC00CC"),
        (("devices",), ("fluid",)),
        ("neutral", *map(str, swaps)),
    )


def judge(plan_attribute, rows):
    """A perfect classifier.

    Neutral rows 0.1, a row of attribute 0 raises the first label, of 1 the second.
    """
    table = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.1, 0.1]])
    return lambda images: table[plan_attribute]


def test_gather_gives_values_by_patient_attribute_and_point():
    bundle = trajectory()
    gathered = bundle.gather(bundle.latents)
    assert gathered.shape == (3, 2, 5, 4, 2, 2)
    assert torch.equal(gathered[:, 0, 0], gathered[:, 1, 0])


def test_a_batch_of_another_size_is_named():
    with pytest.raises(ValueError, match="images: 4 do not match the trajectory's 27 latents"):
        trajectory().gather(torch.zeros(4, 8, 8, 3))


def test_any_batch_is_a_trajectory_of_control_points():
    bundle = control_points(torch.randn(10, 4, 2, 2))
    assert bundle.gather(bundle.latents).shape == (1, 1, 10, 4, 2, 2)


def test_curve_frames_keep_patients_and_attributes():
    bundle = trajectory()
    curve = bundle.curve(torch.randn(3, 2, 7, 4, 2, 2), {"frames": 7})
    assert curve.points == tuple("0123456") and curve.gather(curve.latents).shape[:3] == (3, 2, 7)
    assert curve.attributes == bundle.attributes and curve.settings["curve"] == {"frames": 7}


def test_a_selection_keeps_the_neutral_and_only_the_rows_that_it_needs():
    bundle = trajectory()
    kept = bundle.select(patients=2, attributes=["fluid"], points=["5", "15"])
    assert kept.points == ("neutral", "5", "15") and kept.seeds == (0, 1) and kept.colours == ("#CC00CC",)
    assert len(kept.latents) == 2 * 3
    assert torch.equal(kept.gather(kept.latents), bundle.gather(bundle.latents)[:2, 1:, [0, 4, 2]])
    assert torch.equal(bundle.select().latents, bundle.latents)
    with pytest.raises(ValueError, match="attributes: the trajectory has no 'hair'; it has devices, fluid"):
        bundle.select(attributes=["hair"])


def test_a_perfect_classifier_gives_a_perfect_score():
    bundle = trajectory()
    result = evaluate(
        bundle,
        torch.zeros(len(bundle.latents), 8, 8, 3),
        judge(Plan(3, 2, (20, 15, 10, 5)).attribute(), bundle),
        ["devices", "fluid"],
    )
    assert {name: item.cfrt for name, item in result.results.items()} == {"devices": 1.0, "fluid": 1.0}
    assert result.far == ("5", "10", "15")
    assert result.report()["attributes"]["fluid"]["mean_deltas"] == pytest.approx(
        {"devices": 0.0, "fluid": 0.8}
    )


def test_labels_are_matched_without_case_and_surrounding_space():
    bundle = trajectory()
    shape, predict = (len(bundle.latents), 8, 8, 3), judge(Plan(3, 2, (20, 15, 10, 5)).attribute(), bundle)
    result = evaluate(bundle, torch.zeros(shape), predict, ["Devices ", "FLUID"])
    assert result.labels == ("Devices ", "FLUID")
    assert {name: item.cfrt for name, item in result.results.items()} == {"devices": 1.0, "fluid": 1.0}


def test_a_blind_classifier_gives_zero_because_ties_are_failures():
    bundle = trajectory()
    result = evaluate(
        bundle,
        torch.zeros(len(bundle.latents), 8, 8, 3),
        lambda images: torch.full((len(images), 2), 0.5),
        ["devices", "fluid"],
    )
    assert all(item.cfrt == 0 for item in result.results.values())


@pytest.mark.parametrize(
    ("labels", "far", "fault"),
    [
        (["ink", "ruler"], "", "classifier.*judges ink, ruler, not 'devices'"),
        (["devices", "fluid"], "45", "45"),
        (["devices", "fluid"], "x", "far points"),
    ],
)
def test_labels_and_points_that_are_not_there_are_named(labels, far, fault):
    bundle = trajectory()
    with pytest.raises(ValueError, match=fault):
        evaluate(
            bundle,
            torch.zeros(len(bundle.latents), 8, 8, 3),
            lambda images: torch.rand(len(images), 2),
            labels,
            far,
        )

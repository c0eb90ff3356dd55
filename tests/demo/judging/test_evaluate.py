"""The pure parts of demo.judging.evaluate: what each figure says of arrays whose answer is known."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from demo.judging import evaluate, oracle
from demo.judging.measurements import FAR_SWAPS, STUDIES, Readers, Store, settings_of, to_bytes
from demo.judging.scores import (
    Figure,
    agreement,
    difference,
    falls,
    nearest,
    repeat_distance,
    share,
    spread_ratios,
    successes,
    thumbnails,
    to_text,
    wins,
)

CHEST, CONFOUNDED = STUDIES["chexpert"], STUDIES["confounded"]


@given(arrays.arrays(bool, st.integers(1, 60)))
def test_share_lies_in_its_interval(flags):
    value, (low, high), n = share(flags)
    assert n == len(flags) and value == flags.mean() and 0 <= low <= value <= high <= 1


def test_share_of_nothing():
    assert share([]) == (None, None, 0)
    assert Figure("g", "n", None, 0, low=0.9).met is False


@pytest.mark.parametrize(
    ("value", "limits", "goal", "met"),
    [
        (0.99, {"low": 0.99}, "≥ 0.99", True),
        (0.989, {"low": 0.99}, "≥ 0.99", False),
        (0.05, {"high": 0.05}, "≤ 0.05", True),
        (1.3, {"low": 0.8, "high": 1.2}, "0.8 … 1.2", False),
        (0, {"low": 0, "high": 0}, "0", True),
        (5, {}, "", None),
        (float("nan"), {"low": 0}, "≥ 0", False),
    ],
)
def test_goals(value, limits, goal, met):
    figure = Figure("group", "name", value, 7, **limits)
    assert figure.goal == goal and figure.met is met
    assert figure.record()["met"] is met and figure.record()["n"] == 7


def test_unread_patients_fail():
    far = np.array([[[0.9, 0.1]], [[0.9, np.nan]], [[0.2, 0.8]], [[0.5, 0.5]]])
    won, leaked, lead = successes(far, np.zeros((4, 2)), 0)
    assert won.tolist() == [True, False, False, False] and leaked.tolist() == [-1, -1, 1, 1]
    np.testing.assert_allclose(lead, [0.8, np.nan, -0.6, 0])


@given(arrays.arrays(float, (9, 3, 3), elements=st.sampled_from([0, 0.25, 0.5, 1])), st.integers(0, 2))
def test_cfrt_asks_for_the_sign_of_the_lead(far, target):
    found = successes(far, np.zeros((9, 3)), target)
    assert (found.won == (found.lead > 0)).all()


def test_agreement_is_over_the_first_judge_s_failures():
    assert agreement([True, False, False, False], [False, False, True, False]).tolist() == [True, False, True]
    assert agreement([True, True], [False, False]).size == 0


@given(arrays.arrays(bool, st.integers(5, 40)), arrays.arrays(bool, st.integers(5, 40)))
def test_difference_lies_in_its_interval(first, second):
    drop, (low, high) = difference(first, second)
    assert (
        drop == pytest.approx(first.mean() - second.mean())
        and -1 - 1e-9 <= low <= drop + 1e-9
        and drop <= high + 1e-9 <= 1 + 2e-9
    )


def test_newcombe_s_published_example():
    # Newcombe 1998, table II, case a: 56/70 against 48/80, method 10.
    drop, interval = difference(np.arange(70) < 56, np.arange(80) < 48)
    assert drop == pytest.approx(0.2) and interval == pytest.approx((0.0524, 0.3339), abs=1e-4)


@given(arrays.arrays(float, (6, 3), elements=st.floats(0, 1)))
def test_a_repeated_computation_wins_nothing(neutral):
    assert not wins(neutral, neutral).any()
    noise = 1e-7 * np.random.default_rng(0).standard_normal(neutral.shape)
    # Rounding may still part two values; hardly ever, and never in both directions.
    assert wins((neutral + noise).clip(0, 1), neutral).sum() <= 1
    raised = neutral * 0.5
    raised[:, 1] += 0.4
    assert wins(raised, neutral * 0.5).all()


def test_falls():
    assert falls([0.1, 0.2, 0.2, 0.3]) == 0 and falls([0.1, 0.3, 0.2, 0.1]) == 2


def test_spread_ratio():
    rng = np.random.default_rng(1)
    phantoms = rng.standard_normal((4000, 3))
    generated = rng.standard_normal((4000, 3)) * (0.5, 1, 2) + 7
    generated[::9, 0] = np.nan
    np.testing.assert_allclose(spread_ratios(generated, phantoms), (0.5, 1, 2), rtol=0.07)


def test_memorised_images_are_found():
    rng = np.random.default_rng(2)
    coarse = rng.random((30, 8, 8, 3)).repeat(8, 1).repeat(8, 2)  # [30, 64, 64, 3]
    training = thumbnails(to_bytes(coarse))
    grain = [np.clip(coarse + 0.03 * rng.standard_normal(coarse.shape), 0, 1) for _ in range(2)]
    threshold = repeat_distance(*map(thumbnails, grain))
    fresh = rng.random((10, 8, 8, 3)).repeat(8, 1).repeat(8, 2)
    distances = nearest(thumbnails(np.concatenate([grain[0][:5], fresh])), training)
    assert (distances[:5] < threshold).all() and (distances[5:] > 5 * threshold).all()
    assert nearest(training, training).max() < 1e-3


def test_distance_is_in_units_of_grey():
    dark, light = np.full((1, 64, 64, 3), 0.2), np.full((1, 64, 64, 3), 0.5)
    assert nearest(thumbnails(dark), thumbnails(light))[0] == pytest.approx(0.3, abs=1e-4)


def _measurements(study, patients=40, leak=0.0, seed=0):
    """Measurements of a model whose attributes appear as asked.

    On a share `leak` of patients they bring a stronger other one along.
    """
    rng = np.random.default_rng(seed)
    kinds, points = len(study.labels), 1 + len(study.swap_steps)
    scores = np.full((patients, kinds, points, kinds), 0.01)
    depth = np.linspace(0, 1, points)
    for target in range(kinds):
        scores[:, target, :, target] += 0.8 * depth
        scores[: round(leak * patients), target, 1:, 1 - target] = 0.95
    size = len(oracle.DOMAINS[study.phantoms][1].ANATOMY)
    anatomy = rng.standard_normal((patients, 1, 1, size)) + 0.3 * depth[:, None] * rng.standard_normal(
        (patients, kinds, 1, size)
    )
    data = {"number": np.arange(patients), "classifier": scores, "oracle": scores.copy(), "anatomy": anatomy}
    far = np.repeat(scores[:, :, -1:], 20, axis=2)
    return data | {
        "curve_classifier": far,
        "curve_oracle": far,
        "control": np.repeat(scores[:, :1, 0], 2, axis=1),
    }


def _drawn(study, patients=40, error=0.1):
    """Anatomy of phantoms without and with each attribute, read with an error."""
    rng, size = np.random.default_rng(5), len(oracle.DOMAINS[study.phantoms][1].ANATOMY)
    return rng.standard_normal((patients, 1, size)) + error * rng.standard_normal(
        (patients, 1 + len(study.labels), size)
    )


def test_a_good_model_meets_its_goals():
    data = _measurements(CHEST)
    phantoms = np.random.default_rng(3).standard_normal((4000, data["anatomy"].shape[-1]))
    figures = (
        evaluate.cfrt_figures(CHEST, data)
        + evaluate.control_figures(CHEST, data)
        + evaluate.identity_figures(CHEST, data, phantoms, _drawn(CHEST))
    )
    assert [figure.name for figure in figures if figure.met is False] == []
    assert {figure.n for figure in figures} == {40} and len(
        [figure for figure in figures if figure.group.endswith("CFRT")]
    ) == 8
    moved = [figure.value for figure in figures if figure.name.startswith("anatomy moved")]
    assert moved == sorted(moved) and moved[-1] == pytest.approx(0.3 / 2**0.5, rel=0.2)
    floor = next(figure.value for figure in figures if "drawn without and with" in figure.name)
    assert floor == pytest.approx(0.1, rel=0.2)
    stranger = next(figure.value for figure in figures if "another patient's neutral: anatomy" in figure.name)
    assert stranger == pytest.approx(1, abs=0.15)
    table = to_text(figures)
    met = sum(figure.met is True for figure in figures)
    assert sum(" met" in line for line in table.splitlines()[:-1]) == met and table.endswith(
        f"{met} of {met} goals met"
    )


def test_a_poor_model_misses_them():
    data = _measurements(CHEST)
    data["classifier"][:, :, :, 0] = 0.7  # devices everywhere
    data["oracle"][:, 0, -1, 0] = 0.2
    figures = {
        figure.name: figure
        for figure in evaluate.cfrt_figures(CHEST, data) + evaluate.control_figures(CHEST, data)
    }
    assert figures["support devices, swaps λ 5,10,15, by classifier"].value == 0
    assert (
        figures["neutrals with a spurious attribute"].value == 1
        and figures["neutrals with a spurious attribute"].met is False
    )
    assert figures["wires found by the oracle at λ = 5"].value == 0


def test_confounding_shows():
    plain, leaking = _measurements(CHEST), _measurements(CONFOUNDED, leak=0.5)
    leaking["oracle"][:2] = plain["oracle"][:2][
        :, :, [0, -3, -2, -1]
    ]  # the oracle sees no leak in two of the twenty
    figures = {
        figure.name: figure for figure in evaluate.confounded_figures(CONFOUNDED, leaking, CHEST, plain)
    }
    assert figures["CFRT support devices, by classifier"].value == 0.5
    assert figures["support devices asked for: pleural effusion too, λ = 5"].value == 0.5
    assert figures["CFRT support devices, by classifier"].note == "pleural effusion leaked in 20"
    assert (
        figures["drop of CFRT support devices"].value == 0.5 and figures["drop of CFRT support devices"].met
    )
    agreed = figures["failing patients that fail by the oracle too"]
    assert agreed.value == pytest.approx(0.9) and agreed.n == 20 and agreed.met
    clear = figures["patients in whom another rises most by 0.05: failing by the oracle too"]
    assert clear.value == pytest.approx(0.9) and clear.n == 20 and clear.goal == ""
    assert figures["support devices asked for: another rises most by 0.05, by oracle"].value == pytest.approx(
        0.45
    )


def test_ties_of_a_confounded_model_are_no_clear_leaks():
    plain, leaking = _measurements(CHEST), _measurements(CONFOUNDED, leak=0.5)
    far = [1 + CONFOUNDED.swap_steps.index(step) for step in FAR_SWAPS]
    failed = np.flatnonzero(~evaluate.verdicts(CONFOUNDED, leaking, "classifier", 0)[0])
    for judge, ahead in (
        ("classifier", 1),
        ("oracle", 0),
    ):  # both rise to 1.0, and each judge sees another a hair ahead
        leaking[judge][np.ix_(failed, [0], far, [ahead])] = 1.0
        leaking[judge][np.ix_(failed, [0], far, [1 - ahead])] = 0.999
        leaking[judge][failed, 0, 0] = 0.0
    figures = {
        figure.name: figure for figure in evaluate.confounded_figures(CONFOUNDED, leaking, CHEST, plain)
    }
    assert figures["failing patients that fail by the oracle too"].value == 0
    assert figures["patients in whom another rises most by 0.05: failing by the oracle too"].n == 0
    for judge in ("classifier", "oracle"):
        assert (
            figures[f"support devices asked for: support devices rises most by 0.05, by {judge}"].value == 0.5
        )
        assert figures[f"support devices asked for: another rises most by 0.05, by {judge}"].value == 0


def test_too_few_patients_for_a_spread():
    data = _measurements(CHEST, patients=4)
    assert all(
        figure.value is None
        for figure in evaluate.identity_figures(CHEST, data, np.zeros((4, 8)), _drawn(CHEST))
    )


def test_the_store_goes_on_and_refuses_other_settings(tmp_path):
    store = Store(tmp_path / "s", {"guidance": 7.5}, resume=False)
    for first, last in ((3, 5), (0, 3)):
        store.save({"number": np.arange(first, last), "value": np.arange(first, last) * 2.0})
    again = Store(tmp_path / "s", {"guidance": 7.5}, resume=True)
    assert again.done() == set(range(5))
    assert again.load(4)["value"].tolist() == [0, 2, 4, 6] and not list(tmp_path.rglob(".medtraverse-*"))
    with pytest.raises(ValueError, match="out: .* other settings"):
        Store(tmp_path / "s", {"guidance": 3.0}, resume=True)
    assert (
        again.kept("report.json", lambda: {"a": 1}) == again.kept("report.json", lambda: {"a": 2}) == {"a": 1}
    )
    anew = Store(tmp_path / "s", {"guidance": 3.0}, resume=False)
    assert anew.done() == set() and anew.kept("report.json", lambda: {"a": 2}) == {"a": 2}


def test_settings_name_the_oracle_and_the_weights(tmp_path):
    from demo.training.architecture import WEIGHTS
    from medtraverse.classifier import load_classifier

    classifier = load_classifier(WEIGHTS.parent / "classifier-isic.safetensors")
    found = settings_of(
        STUDIES["isic"],
        WEIGHTS,
        WEIGHTS.parent / "phantom-isic.safetensors",
        classifier,
        7.5,
        50,
        True,
        False,
    )
    assert found["bfloat16"] and not found["compiled"]
    assert {name.split("/")[0] for name in found["sha256"]} == {
        "weights",
        "vae",
        "text_encoder",
        "demo.judging.oracle",
        "demo.judging.oracle_dermoscopy",
        "classifier",
    }


def test_studies_ask_for_what_they_need():
    for study in STUDIES.values():
        assert set(FAR_SWAPS) <= set(study.swap_steps) and list(study.swap_steps) == sorted(
            study.swap_steps, reverse=True
        )
        neutral, attributes = study.prompts(range(4))
        assert len(attributes[0]) == len(study.labels) and (neutral[0] != neutral[1]) == (
            study.name == "isic"
        )
    # The same patients, so that they can be compared one by one.
    assert dataclasses.replace(CONFOUNDED, name="chexpert", swap_steps=CHEST.swap_steps, curve=True) == CHEST


def test_patients_of_the_evaluation_were_seen_by_no_training():
    from demo.judging import judge_classifier as classifier
    from demo.judging.phantom_references import UNSEEN_SEED
    from demo.phantoms import layouts
    from demo.phantoms import phantom_set as dataset

    used = [
        range(dataset.FIRST_SEED, dataset.FIRST_SEED + 10 * 100_000),
        range(layouts.FIRST_SEED, layouts.FIRST_SEED + 20 * layouts.STRIDE),
    ]
    used += [
        range(*classifier.TRAINING_SEEDS),
        range(classifier.EVALUATION_SEEDS, classifier.EVALUATION_SEEDS + 100_000),
    ]
    ends = sorted((seeds.start, seeds.stop) for seeds in used)
    assert (
        all(stop <= start for (_, stop), (start, _) in itertools.pairwise(ends))
        and ends[-1][1] <= UNSEEN_SEED
    )


def test_reading_gives_scores_then_anatomy():
    from demo.phantoms import chest

    images = to_bytes(
        [
            chest.render(chest.sample_factors(7_000_000, support_devices=flag, pleural_effusion=False)).image
            for flag in (True, False)
        ]
    )
    with Readers(1) as readers:
        found = readers.read("chest", CHEST.labels, images)
    assert (
        found.shape == (2, 2 + len(oracle.DOMAINS["chest"][1].ANATOMY))
        and found[0, 0] > 0.5 > found[1, 0]
        and (found[:, 1] < 0.5).all()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patients", "1"], "--patients is 1"),
        (["--unet", "chest=a.safetensors"], "--unet is 'chest=a.safetensors'"),
    ],
)
def test_bad_command_lines_are_named(capsys, arguments, message):
    with pytest.raises(SystemExit):
        evaluate.main(arguments)
    assert message in capsys.readouterr().err

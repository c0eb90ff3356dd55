import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medtraverse.direction import direction_cosines, measure_directions
from medtraverse.published import published
from medtraverse.trajectory import Trajectory


def latents(seed, patients=3, swaps=9, shape=(4, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(patients, *shape, generator=generator), torch.randn(
        patients, swaps, *shape, generator=generator
    )


seeds = st.integers(0, 2**31)


@given(seeds, st.integers(1, 9))
def test_against_torch_cosine_similarity(seed, swaps):
    neutral, z = latents(seed, swaps=swaps)
    directions = (z.double() - neutral.double()[:, None]).flatten(2)
    expected = torch.cosine_similarity(directions, directions[:, :1], dim=2)
    cosines = direction_cosines(neutral, z)
    assert cosines.dtype == torch.float64
    assert torch.allclose(cosines, expected, atol=1e-12)
    assert torch.equal(cosines[:, 0], torch.ones(3, dtype=torch.float64))


@given(seeds, st.floats(-80, 80), st.lists(st.floats(0.01, 100), min_size=9, max_size=9))
def test_length_and_origin_of_the_directions_do_not_matter(seed, exponent, lengths):
    neutral, z = (x.double() for x in latents(seed))
    lengths = torch.tensor(lengths, dtype=torch.float64).reshape(1, 9, 1, 1, 1)
    scaled = direction_cosines(neutral * 0, (z - neutral[:, None]) * lengths * 10.0**exponent)
    assert torch.allclose(scaled, direction_cosines(neutral, z), atol=1e-9)


def test_half_precision_does_not_leave_the_range():
    neutral, z = latents(1, patients=20, shape=(4, 64, 64))
    cosines = direction_cosines(neutral.half(), (neutral[:, None] + 1e-2 * z).half())
    assert cosines.abs().max() <= 1 and torch.equal(cosines[:, 0], torch.ones(20, dtype=torch.float64))


def test_known_angles():
    neutral = torch.tensor([[1.0, 1.0]])
    swaps = neutral[:, None] + torch.tensor([[[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [-1.0, 0.0]]])
    assert torch.allclose(
        direction_cosines(neutral, swaps)[0], torch.tensor([1, 0.5**0.5, 0, -1], dtype=torch.float64)
    )


def test_no_movement_is_nan():
    neutral, z = latents(2)
    z[0, 3] = neutral[0]
    z[1, 0] = neutral[1]
    cosines = direction_cosines(neutral, z)
    assert cosines[0].isnan().tolist() == [i == 3 for i in range(9)]
    assert cosines[1].isnan().all() and not cosines[2].isnan().any()


@pytest.mark.parametrize(
    ("neutral", "swaps", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(3, 9, 4), r"swaps: \[3, 9, 4\] do not fit neutral \[2, 4\]"),
        (torch.zeros(2, 4), torch.zeros(2, 0, 4), "do not fit"),
        (torch.zeros(2, 4), torch.zeros(2), "do not fit"),
        (torch.zeros(2, 4), torch.full((2, 3, 4), torch.inf), "NaN or infinite"),
    ],
)
def test_bad_input_is_named(neutral, swaps, message):
    with pytest.raises(ValueError, match=message):
        direction_cosines(neutral, swaps)


def bundle(seeds, neutral, attributes, seed, kind="swap"):
    patients = len(seeds)
    points = ("neutral", "45", "25", "5")
    index = torch.arange(patients * len(attributes) * 4).reshape(patients, -1, 4)
    index[:, :, 0] = index[:, :1, 0]
    return Trajectory(
        torch.randn(index.numel(), 4, 8, 8, generator=torch.Generator().manual_seed(seed)),
        index,
        seeds,
        attributes,
        tuple("#000000" for _ in attributes),
        tuple((name,) for name in attributes),
        points,
        kind,
        neutral,
        {"domain": "CheXpert"},
    )


def test_several_trajectories_make_one_result():
    first = bundle((7, 8, 9), "no finding", ("pleural effusion", "edema"), 1)
    second = bundle((7,), "old age", ("edema",), 2)
    result = measure_directions([first, second])
    assert result.names == ("no finding pleural effusion", "no finding edema", "old age edema")
    assert result.swap_steps == (45, 25, 5) and result.cosines.shape == (3, 3, 3)
    z = second.gather(second.latents)
    own = direction_cosines(z[:, 0, 0], z[:, 0, 1:])
    assert torch.equal(result.cosines[2, :1], own) and bool(result.cosines[2, 1:].isnan().all())
    lines = [line.split(",")[:2] for line in result.csv.splitlines()[1:]]
    assert lines == [[name, seed] for name in result.names[:2] for seed in "789"] + [["old age edema", "7"]]
    report = json.loads(json.dumps(result.report()))
    assert report["patients"] == 3 and report["mean"]["old age edema"] == own[0].tolist()
    spread = result.cosines[0].std(dim=0, correction=0)
    assert report["standard_deviation"]["no finding pleural effusion"] == pytest.approx(spread.tolist())


def test_the_papers_means_stand_below_their_own_attribute():
    domain, values = next(iter(published()["direction cosine"].items()))
    neutral, attributes = next(iter(values.items()))
    item = replace(bundle((1,), neutral, (next(iter(attributes)), "another"), 3), settings={"domain": domain})
    result = measure_directions([item])
    name = item.attributes[0]
    assert set(result.published) == {name}
    added = result.csv_with_published.removeprefix(result.csv).split(",")
    known = result.published[name]
    assert added[:5] == [name, '"mean', ' from the paper"', str(known[45]), str(known[25])]
    dashed = [line for line in result.figure().axes[0].lines if "from the paper" in line.get_label()]
    assert [line.get_label() for line in dashed] == [f"{name}, from the paper"]
    plain = measure_directions([item], published=False)
    assert not plain.published and plain.csv == plain.csv_with_published == result.csv


def test_trajectories_that_do_not_go_together_are_named():
    item = bundle((1,), "none", ("a",), 1)
    for other in (replace(item, kind="curve"), replace(item, points=("neutral", "45", "25", "6"))):
        with pytest.raises(ValueError, match=r"trajectory: .* swap steps differ; wire .* same swap steps"):
            measure_directions([item, other])

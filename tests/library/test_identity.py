import csv
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtraverse.identity import correlation, identity_table, measure_identity, mse, ssim
from medtraverse.trajectory import Trajectory


def images(seed, *shape):
    """Smooth noise: images with structure at several scales, in 0..1."""
    x = torch.rand(
        int(np.prod(shape[:-3])), shape[-1], *shape[-3:-1], generator=torch.Generator().manual_seed(seed)
    )
    x = 0.5 * x + 0.5 * torch.nn.functional.interpolate(
        x[..., ::8, ::8], size=x.shape[2:], mode="bicubic"
    ).clamp(0, 1)
    return x.permute(0, 2, 3, 1).reshape(shape)


seeds = st.integers(0, 2**31)


@given(seeds, st.sampled_from([1, 3]))
@settings(max_examples=15)
def test_ssim_equals_scikit_image(seed, channels):
    metrics = pytest.importorskip("skimage.metrics")
    a = images(seed, 2, 32, 40, channels)
    b = (a + 0.3 * images(seed + 1, 2, 32, 40, channels)).clamp(0, 1)
    expected = [
        metrics.structural_similarity(
            x.astype(np.float64),
            y.astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=-1,
        )
        for x, y in zip(a.numpy(), b.numpy())
    ]
    assert np.allclose(ssim(a, b), expected, atol=2e-6)


def test_ssim_of_a_single_window_by_hand():
    a, b = images(1, 1, 11, 11, 1), images(2, 1, 11, 11, 1)
    g = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    w = np.outer(g, g) / g.sum() ** 2
    x, y = a[0, ..., 0].double().numpy(), b[0, ..., 0].double().numpy()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, c = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
    expected = (2 * mx * my + 1e-4) * (2 * c + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert ssim(a, b).item() == pytest.approx(expected, abs=1e-6)


@given(seeds)
@settings(max_examples=20)
def test_measures_are_symmetric_and_know_equal_images(seed):
    a, b = images(seed, 3, 16, 16, 3), images(seed + 1, 3, 16, 16, 3)
    for measure, equal in ((ssim, 1.0), (mse, 0.0), (correlation, 1.0)):
        assert torch.allclose(measure(a, a), torch.full((3,), equal, dtype=torch.float64), atol=1e-9)
        assert torch.allclose(measure(a, b), measure(b, a), atol=1e-6)
        assert measure(a, b).dtype == torch.float64 and measure(a, b).shape == (3,)


@given(seeds, st.floats(0.1, 1), st.floats(0, 0.5))
@settings(max_examples=20)
def test_correlation_ignores_brightness_and_contrast(seed, contrast, brightness):
    a, b = images(seed, 2, 16, 16, 3).double(), images(seed + 1, 2, 16, 16, 3).double()
    assert torch.allclose(correlation(a, b * contrast * 0.5 + brightness), correlation(a, b), atol=1e-9)
    assert np.allclose(correlation(a, b), [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b)])
    assert torch.allclose(correlation(a, 1 - a), -torch.ones(2, dtype=torch.float64))


def test_correlation_with_a_uniform_image_is_nan():
    assert correlation(torch.full((1, 16, 16, 1), 0.5), images(0, 1, 16, 16, 1)).isnan().all()


def test_identity_table_sets_the_control_beside_the_own_neutral():
    patients = images(3, 4, 1, 1, 24, 24, 3).expand(4, 2, 3, 24, 24, 3).clone()
    change = 0.2 * images(4, 4, 2, 1, 24, 24, 3)
    x = (patients + change * torch.arange(3).reshape(1, 1, 3, 1, 1, 1)).clamp(0, 1)
    table = identity_table(x)
    assert table.patients == 4 and table.controls == 3
    assert torch.allclose(table.own["ssim"][:, 0], torch.ones(2, dtype=torch.float64))
    for name in ("ssim", "correlation"):
        assert (table.own[name].diff(dim=1) < 0).all()
        assert (table.own[name] > table.other[name]).all()
    assert (table.own["mse"] < table.other["mse"]).all() and (table.own["mse"][:, 0] == 0).all()
    expected = torch.stack(
        [mse(x[i : i + 1, 1, 2], x[j : j + 1, 1, 0]) for i in range(4) for j in range(4) if i != j]
    )
    assert table.other["mse"][1, 2] == pytest.approx(expected.mean().item())


def test_one_patient_has_no_control():
    table = identity_table(images(3, 1, 2, 3, 16, 16, 3))
    assert table.controls == 0 and table.other["ssim"].isnan().all() and not table.own["ssim"].isnan().any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ssim(torch.zeros(1, 10, 30, 3), torch.zeros(1, 10, 30, 3)),
            "10x30, and SSIM's window needs 11",
        ),
        (
            lambda: mse(torch.zeros(1, 16, 16, 3), torch.zeros(2, 16, 16, 3)),
            "references: the shape is .2, 16, 16, 3., .* give one",
        ),
        (
            lambda: mse(torch.zeros(16, 16, 3), torch.zeros(16, 16, 3)),
            r"images: the shape is .* give \[N, H, W, C\]",
        ),
        (
            lambda: mse(torch.full((1, 4, 4, 1), 255.0), torch.zeros(1, 4, 4, 1)),
            "from 255 to 255; give images in 0..1",
        ),
        (lambda: mse(torch.full((1, 4, 4, 1), torch.nan), torch.zeros(1, 4, 4, 1)), "give images in 0..1"),
        (
            lambda: identity_table(torch.zeros(2, 3, 16, 16, 3)),
            r"images: the shape is .* give \[P, A, N, H, W, C\]",
        ),
        (lambda: identity_table(torch.zeros(2, 1, 1, 16, 16, 3), controls=0), "controls: it is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_shared_between_comparisons_changes_no_number():
    """Each cell against the measure of that pair alone, also where neutrals differ by attribute."""
    for shared in (True, False):
        x = torch.rand(3, 2, 4, 16, 20, 3, generator=torch.Generator().manual_seed(int(shared)))
        if shared:
            x[:, :, 0] = x[:, :1, 0]
        table = identity_table(x, controls=2)
        for name, measure in (("ssim", ssim), ("mse", mse), ("correlation", correlation)):
            for p in range(3):
                for a in range(2):
                    for n in range(4):
                        to = [
                            measure(x[p, a, n][None], x[(p + shift) % 3, a, 0][None]).item()
                            for shift in range(3)
                        ]
                        assert table.own_patients[name][p, a, n].item() == pytest.approx(to[0], abs=1e-7)
                        other = (to[1] + to[2]) / 2
                        assert table.other_patients[name][p, a, n].item() == pytest.approx(other, abs=1e-7)


def test_table_report_and_figure_say_the_same():
    index = torch.tensor([[[0, 1, 2]], [[3, 4, 5]]])
    points = ("neutral", "45", "5")
    trajectory = Trajectory(torch.zeros(6, 4, 2, 2), index, (11, 12), ("a",), ("#112233",), (("a",),), points)
    rows = images(5, 6, 16, 16, 3)
    result = measure_identity(trajectory, rows, controls=1, wanted=False)
    table = identity_table(rows[index], 1)
    lines = list(csv.DictReader(result.csv.splitlines()))
    report = json.loads(json.dumps(result.report()))
    for whose, group in (("own neutral", table.own), ("other patients", table.other)):
        for measure, values in group.items():
            assert [float(line[f"{measure} to {whose}"]) for line in lines] == values[0].tolist()
            assert report[whose]["a"][measure] == values[0].tolist()
    assert {line["perceptual distance"] for line in lines} == {report["perceptual distance"]} == {"none"}
    assert report["seeds"] == [11, 12] and report["controls"] == 1
    curve = next(line for line in result.figure().axes[0].lines if line.get_label() == "a")
    assert np.allclose(curve.get_ydata(), 1 - table.own["ssim"][0, 1:]) and not result.published
    assert measure_identity(trajectory, rows).perceptual.startswith("left out: neither lpips")
    with pytest.raises(ValueError, match="images: 5 do not match"):
        measure_identity(trajectory, rows[:5])


def test_one_patient_has_null_for_other_patients():
    trajectory = Trajectory(
        torch.zeros(2, 4, 2, 2),
        torch.tensor([[[0, 1]]]),
        (3,),
        ("a",),
        ("#112233",),
        (("a",),),
        ("neutral", "5"),
    )
    report = measure_identity(trajectory, images(6, 2, 16, 16, 3)).report()
    assert report["other patients"]["a"]["ssim"] == [None, None] and report["own neutral"]["a"]["mse"][0] == 0

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtraverse.curve import METHODS, SPACINGS, bernstein, interpolate


def control_points(seed, count=10, shape=(4, 3, 3), dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


seeds = st.integers(0, 2**31)
counts = st.integers(2, 14)


def de_casteljau(points, t):
    while len(points) > 1:
        points = (1 - t) * points[:-1] + t * points[1:]
    return points[0]


@given(
    seeds,
    counts,
    st.sampled_from(METHODS),
    st.sampled_from(SPACINGS),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
@settings(max_examples=60)
def test_ends_are_the_end_points_bit_for_bit(seed, count, method, spacing, dtype):
    points = control_points(seed, count, dtype=dtype)
    curve = interpolate(points, 7, method, spacing)
    assert curve.dtype == dtype and curve.shape == (7, *points.shape[1:])
    assert torch.equal(curve[0], points[0]) and torch.equal(curve[-1], points[-1])
    assert torch.isfinite(curve).all()


@given(seeds, counts, st.floats(0, 1))
def test_bezier_equals_de_casteljau(seed, count, t):
    points = control_points(seed, count, (5,))
    assert torch.allclose(
        bernstein(count - 1, torch.tensor([t], dtype=torch.float64)) @ points,
        de_casteljau(points, t)[None],
        rtol=0,
        atol=1e-13,
    )


@given(seeds, counts, st.sampled_from(["bezier", "linear"]))
def test_affine_invariance(seed, count, method):
    points = control_points(seed, count, (6,))
    matrix, shift = control_points(seed + 1, 6, (6,)), control_points(seed + 2, 1, (6,))
    mapped = interpolate(points @ matrix + shift, 20, method)
    assert torch.allclose(mapped, interpolate(points, 20, method) @ matrix + shift, atol=1e-11)


@given(seeds, counts, st.floats(0.1, 50), st.sampled_from(SPACINGS))
@settings(max_examples=40)
def test_catmull_rom_follows_shifts_and_scales(seed, count, scale, spacing):
    points = control_points(seed, count, (6,))
    mapped = interpolate(points * scale + 3, 20, "catmull-rom", spacing)
    assert torch.allclose(
        mapped, interpolate(points, 20, "catmull-rom", spacing) * scale + 3, atol=1e-8 * scale
    )


@given(st.integers(0, 60), st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_bernstein_is_a_partition_of_unity_with_the_right_mean(degree, t):
    t = torch.tensor(t, dtype=torch.float64)
    basis = bernstein(degree, t)
    assert basis.dtype == torch.float64 and basis.shape == (len(t), degree + 1)
    assert (basis >= 0).all()
    assert torch.allclose(basis.sum(1), torch.ones_like(t), atol=1e-13)
    assert torch.allclose(basis @ torch.arange(degree + 1, dtype=torch.float64), degree * t, atol=1e-11)


def test_bernstein_against_exact_binomials():
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    exact = torch.stack([math.comb(9, k) * t**k * (1 - t) ** (9 - k) for k in range(10)], dim=1)
    assert torch.allclose(bernstein(9, t), exact, rtol=1e-13, atol=0)


def test_bernstein_of_high_degree_is_the_binomial_distribution():
    from scipy.stats import binom

    basis = bernstein(1500, torch.tensor([0.0, 0.013, 0.5, 1.0]))
    assert torch.equal(basis[0], torch.eye(1501, dtype=torch.float64)[0])
    assert torch.equal(basis[3], torch.eye(1501, dtype=torch.float64)[1500])
    expected = torch.tensor(binom.pmf(range(1501), 1500, 0.5))
    assert torch.allclose(basis[2], expected, rtol=1e-9, atol=1e-300)


@given(seeds, st.sampled_from(["bezier", "linear", "catmull-rom"]))
@settings(max_examples=30)
def test_two_points_make_a_straight_line(seed, method):
    points = control_points(seed, 2)
    weights = torch.linspace(0, 1, 11, dtype=torch.float64)
    line = torch.stack([torch.lerp(points[0], points[1], w) for w in weights])
    for spacing in SPACINGS:
        assert torch.allclose(interpolate(points, 11, method, spacing), line, atol=1e-9)


@given(seeds, st.integers(2, 6), st.sampled_from(["linear", "slerp", "catmull-rom"]))
@settings(max_examples=40)
def test_piecewise_methods_go_through_every_point(seed, count, method):
    points = control_points(seed, count)
    curve = interpolate(points, 4 * (count - 1) + 1, method)
    assert torch.allclose(curve[::4], points, atol=1e-12)


@given(seeds, counts)
def test_slerp_stays_on_the_sphere_at_constant_speed(seed, count):
    points = torch.nn.functional.normalize(control_points(seed, count, (8,)), dim=1) * 5
    curve = interpolate(points, 8 * (count - 1) + 1, "slerp")
    assert torch.allclose(curve.norm(dim=1), torch.full((len(curve),), 5.0, dtype=torch.float64), atol=1e-6)
    steps = curve.diff(dim=0).norm(dim=1).reshape(count - 1, 8)
    assert torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-6)


def test_slerp_falls_back_to_straight_lines():
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for b in (2 * a, a + 1e-9, -a, 0 * a):
        curve = interpolate(torch.stack([a, b]), 5, "slerp")
        assert torch.allclose(curve[2], (a + b) / 2, atol=1e-12)


@given(seeds, st.integers(2, 8), st.sampled_from(METHODS))
@settings(max_examples=40)
def test_arc_length_makes_equal_steps_along_the_curve(seed, count, method):
    points = control_points(seed, count, (3,))
    fine = (
        interpolate(points, 60 * 20 + 1, method, "arc length").diff(dim=0).norm(dim=1).reshape(60, 20).sum(1)
    )
    assert fine.std() / fine.mean() < 0.02


def test_arc_length_repairs_unequal_gaps():
    points = torch.tensor([[0.0], [1.0], [10.0]])
    assert torch.allclose(
        interpolate(points, 11, "linear", "arc length")[:, 0], torch.arange(11.0), atol=1e-4
    )
    assert interpolate(points, 3, "linear")[1, 0] == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_coincident_points_stay_finite(method, spacing):
    still = interpolate(torch.ones(4, 2), 9, method, spacing)
    assert torch.allclose(still, torch.ones(9, 2))
    pause = torch.tensor([[0.0, 1], [1, 0], [1, 0], [2, 1]])
    assert torch.isfinite(interpolate(pause, 30, method, spacing)).all()


def test_half_precision_is_summed_in_float32():
    points = control_points(3, 10, (4, 64, 64))
    half = points.half()
    exact = interpolate(half.double(), 50)
    assert torch.equal(interpolate(half, 50)[1:-1], interpolate(half.float(), 50)[1:-1].half())
    assert (interpolate(half, 50).double() - exact).abs().max() < 2**-10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "spline"}, "bezier, linear, slerp, catmull-rom"),
        ({"spacing": "equal"}, "parameter, arc length"),
        ({"frames": 1}, "frames: 1 "),
        ({"frames": 2.5}, "frames: 2.5 "),
        ({"points": torch.zeros(1, 4)}, "give 2 control points or more"),
        ({"points": torch.zeros(())}, "give 2 control points or more"),
        ({"points": torch.zeros(3, 4, dtype=torch.long)}, "floating-point"),
        ({"points": torch.full((3, 4), torch.nan)}, "NaN"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        interpolate(**{"points": torch.zeros(3, 4), **change})


@pytest.mark.parametrize(("degree", "t"), [(-1, [0.5]), (2, [1.5]), (2, [math.nan])])
def test_bernstein_refuses_what_it_is_not_defined_for(degree, t):
    with pytest.raises(ValueError, match="degree: -1 is below 0|t: it has values outside"):
        bernstein(degree, torch.tensor(t))

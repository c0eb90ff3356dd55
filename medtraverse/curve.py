"""Curves along a trajectory's control points (section 3, "interpolate"; Fig. 6).

TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623: the N latents of a trajectory are the control points of one
Bezier curve of degree N - 1. Every method here is a table of weights [frames, N] that multiplies the points.
"""

import math

import torch
from torch import Tensor

METHODS = ("bezier", "linear", "slerp", "catmull-rom")
SPACINGS = ("parameter", "arc length")

_ARC_SAMPLES = 4096
_PARALLEL = 1e-6


def bernstein(degree: int, t: Tensor) -> Tensor:
    """Bernstein basis by de Casteljau's recurrence, stable for any degree: no binomials, only convex sums.

    Parameters
    ----------
    degree : int
        Degree of the polynomials, 0 or more.
    t : Tensor [T]
        Parameters in 0..1.

    Returns
    -------
    Tensor [T, degree + 1], float64
        Rows are non-negative and sum to 1; t = 0 and t = 1 give exact unit rows.
    """
    if degree < 0:
        raise ValueError(f"degree: {degree} is below 0; give 0 or more.")
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1)
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError("t: it has values outside 0…1; a Bézier curve's parameters run from 0 to 1.")
    basis = t.new_zeros(len(t), degree + 1)
    basis[:, 0] = 1
    for n in range(1, degree + 1):
        basis[:, 1 : n + 1] = (1 - t) * basis[:, 1 : n + 1] + t * basis[:, :n]
        basis[:, :1] *= 1 - t
    return basis


def interpolate(
    points: Tensor, frames: int = 50, method: str = "bezier", spacing: str = "parameter"
) -> Tensor:
    """Frames of a curve along control points.

    Parameters
    ----------
    points : Tensor [N, ...]
        Control points in trajectory order (neutral, lambda 45 ... 5), N >= 2, any floating dtype. One entry
        along the first axis is one point of the space: angles and lengths are those of the flattened entry.
    frames : int
        Number of frames, 2 or more.
    method : str
        "bezier": the paper's curve, touches only the first and last point. "linear": piecewise linear.
        "slerp": piecewise along great circles; segments whose ends are nearly parallel, opposite or zero
        are linear.
        "catmull-rom": centripetal (exponent 1/2), through every point, one-sided tangents at the ends.
        The last three reach point k at parameter k / (N - 1).
    spacing : str
        "parameter": parameters are linspace(0, 1, frames), as in the paper. "arc length": frames lie equally
        far apart along the curve.

    Returns
    -------
    Tensor [frames, ...]
        Same dtype and device as `points`; weights in float64, sums in float32 or better. The first and last
        frame equal the first and last point bit for bit.

    Raises
    ------
    ValueError
        Unknown method or spacing, fewer than two points or frames, or points that are not finite floats.
    """
    if method not in METHODS:
        raise ValueError(f"method: {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    if spacing not in SPACINGS:
        raise ValueError(f"spacing: {spacing!r} is unknown; choose one of {', '.join(SPACINGS)}.")
    if int(frames) != frames or frames < 2:
        raise ValueError(f"frames: {frames} make no curve; give a whole number, 2 or more.")
    if points.ndim < 1 or len(points) < 2:
        raise ValueError(
            f"points: they have shape {list(points.shape)}; give 2 control points or more, [N, ...]."
        )
    if not points.is_floating_point():
        raise ValueError(f"points: they are {points.dtype}; give floating-point latents.")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points: they hold NaN or infinite values; check the latents that the curve joins.")

    precision = torch.float64 if points.dtype == torch.float64 else torch.float32
    flat = points.reshape(len(points), -1).to(precision)
    t = torch.linspace(0, 1, int(frames), dtype=torch.float64)
    if spacing == "arc length":
        t = _equally_far(method, flat, t)
    curve = (_weights(method, flat, t).to(flat) @ flat).to(points.dtype).reshape(len(t), *points.shape[1:])
    curve[0], curve[-1] = points[0], points[-1]
    return curve


def _weights(method: str, flat: Tensor, t: Tensor) -> Tensor:
    """How much each point [N, D] counts in the curve at each parameter: [T, N], float64 on the CPU."""
    last = len(flat) - 1
    if method == "bezier":
        return bernstein(last, t)
    segment = (t * last).floor().long().clamp(0, last - 1)
    u = t * last - segment
    if method == "catmull-rom":
        return _catmull_rom(segment, u, flat)
    weights, rows = t.new_zeros(len(t), last + 1), torch.arange(len(t))
    left, right = (1 - u, u) if method == "linear" else _spherical(u, _angles(flat)[segment])
    weights[rows, segment] = left
    weights[rows, segment + 1] = right
    return weights


def _angles(flat: Tensor) -> Tensor:
    """Angles between neighbouring points, in radians: [N - 1]. Zero vectors count as parallel."""
    unit = torch.nn.functional.normalize(flat, dim=1)
    a, b = unit[:-1], unit[1:]
    # the arc cosine of a dot product has no digits left near 0 and pi; this form (Kahan) has them all
    angle = 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)).cpu().double()
    zero = (unit.norm(dim=1) == 0).cpu()
    angle[zero[:-1] | zero[1:]] = 0
    return angle


def _spherical(u: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Slerp (Shoemake 1985) between neighbours at fraction u; straight where no great circle is defined."""
    sine = torch.sin(angle)
    straight = sine < _PARALLEL
    sine = sine.masked_fill(straight, 1)
    left = torch.where(straight, 1 - u, torch.sin((1 - u) * angle) / sine)
    right = torch.where(straight, u, torch.sin(u * angle) / sine)
    return left, right


def _catmull_rom(segment: Tensor, u: Tensor, flat: Tensor) -> Tensor:
    """Centripetal Catmull-Rom (Barry, Goldman 1988) in Hermite form, tangents from unequal differences."""
    knots = (flat[1:] - flat[:-1]).norm(dim=1).cpu().double().sqrt()[:, None]
    points = torch.eye(len(flat), dtype=torch.float64)
    steps = points[1:] - points[:-1]
    # coincident points leave no knot interval: that segment stays put and lends its neighbours no slope
    moves = knots > 0
    slopes = steps / knots.masked_fill(~moves, torch.inf)
    tangents = torch.cat([slopes[:1], slopes[1:] + slopes[:-1], slopes[-1:]])
    spans = (knots[1:] + knots[:-1]).masked_fill(~(moves[1:] & moves[:-1]), torch.inf)
    tangents[1:-1] -= (steps[1:] + steps[:-1]) / spans
    u, knot = u[:, None], knots[segment]
    weights: Tensor = (
        (1 + 2 * u) * (1 - u) ** 2 * points[segment]
        + u * (1 - u) ** 2 * knot * tangents[segment]
        + u**2 * (3 - 2 * u) * points[segment + 1]
        - u**2 * (1 - u) * knot * tangents[segment + 1]
    )
    return weights


def _equally_far(method: str, flat: Tensor, t: Tensor) -> Tensor:
    """Parameters at which the curve has gone the fractions t of its length, by about 4,096 chords."""
    pieces = len(flat) - 1
    fine = torch.linspace(0, 1, pieces * math.ceil(_ARC_SAMPLES / pieces) + 1, dtype=torch.float64)
    chords = _weights(method, flat, fine).diff(dim=0)
    # lengths through the Gram matrix: the finely sampled curve itself may not fit into memory
    exact = flat.cpu().double()
    if method != "slerp":  # whose weights do not sum to one, so that its points may not be shifted
        exact = exact - exact[0]
    gram = exact @ exact.T
    travelled = ((chords @ gram) * chords).sum(dim=1).clamp(min=0).sqrt().cumsum(dim=0)
    length = travelled[-1]
    if length == 0:
        return t
    travelled = torch.cat([length.new_zeros(1), travelled]) / length
    after = torch.searchsorted(travelled, t).clamp(1, len(fine) - 1)
    before = after - 1
    share = (t - travelled[before]) / (travelled[after] - travelled[before]).clamp(min=1e-300)
    return torch.lerp(fine[before], fine[after], share.clamp(0, 1))

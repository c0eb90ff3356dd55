"""Map of final latents (Fig. 4; TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .sheet import FOOTER, HEADER, INK, LABEL, MUTED, NEUTRAL, SMALL, axes_in, check_colours, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# inches
WIDTH, HEIGHT, EDGE, LEGEND, FRAME = 11.0, 9.0, 0.25, 0.45, 0.035
LARGEST, SMALLEST, SHARE, UNDER = 1.15, 0.5, 0.24, 0.2
CROWD = 32


def latent_map_figure(
    coordinates: Any,
    attributes: Sequence[str],
    colours: Sequence[str],
    points: Sequence[str],
    seeds: Sequence[int],
    images: Any = None,
    shown: Sequence[int] | None = None,
    title: str = "Latent map (t-SNE)",
    note: str = "",
) -> "Figure":
    """Trajectories in the plane, joined from the neutral to the last point, with framed
    thumbnails beside points.

    Parameters
    ----------
    coordinates : array [P, A, N, 2]
        Of `medtraverse.latent_map.latent_map`, gathered per patient, attribute and point; point 0 is the
        neutral one, which a patient's attributes share.
    attributes, colours : sequences, A
    points : sequence of str, N
    seeds : sequence, P
    images : array or tensor [P, A, N, H, W, 3] in 0..1, optional
        Thumbnails: the neutral framed in black, the others in their attribute's colour.
    shown : sequence of int, optional
        Which points get a thumbnail; unless given, the neutral, the last and, where that makes at most 32,
        the middle one.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    ValueError
        Coordinates that are not finite, and arrays or names that are not as many as the coordinates have.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    expected = (len(seeds), len(attributes), len(points), 2)
    if coordinates.shape != expected or not coordinates.size:
        raise ValueError(
            f"coordinates: they have shape {list(coordinates.shape)}; seeds, attributes and points ask for "
            f"{list(expected)}."
        )
    if not np.isfinite(coordinates).all():
        raise ValueError(
            "coordinates: they hold NaN or infinite values; check the latents of the trajectory."
        )
    colours = check_colours(colours, attributes)
    if images is not None:
        images = np.asarray(images.detach().cpu().float() if hasattr(images, "detach") else images)
        if images.ndim != 6 or images.shape[:3] != expected[:3] or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"images: they have shape {list(images.shape)}; give {[*expected[:3], 'H', 'W', 3]}."
            )
    last = len(points) - 1
    if shown is None:
        crowded = len(seeds) * (1 + 2 * len(attributes)) > CROWD
        shown = (0, last) if crowded else (0, last // 2, last)
    shown = sorted(set(shown))
    if any(not 0 <= point <= last for point in shown):
        raise ValueError(f"shown: {shown} is not there; points are numbered 0 to {last}.")

    figure: Figure = sheet(WIDTH, HEIGHT, title, note)
    room = np.array([WIDTH - 2 * EDGE, HEIGHT - HEADER - FOOTER - LEGEND])
    axes = axes_in(figure, EDGE, FOOTER, *room)
    axes.set(xlim=(0, room[0]), ylim=(0, room[1]))
    axes.axis("off")

    wanted = _wanted(expected, shown) if images is not None else []
    side = np.clip(np.sqrt(SHARE * room.prod() / max(len(wanted), 1)), SMALLEST, LARGEST) if wanted else 0.3
    places = _spread(coordinates, room, margin=side + 0.15)
    _trajectories(axes, places, colours)
    if images is None:
        for patient, seed in enumerate(seeds):
            axes.annotate(
                f"seed {seed}",
                places[patient, 0, 0],
                (7, 7),
                textcoords="offset points",
                fontsize=SMALL,
                color=INK,
            )
    for (p, a, n), corner in zip(wanted, _beside_points(places, wanted, side, room)):
        _thumbnail(axes, images[p, a, n], corner, side, places[p, a, n], colours[a] if n else NEUTRAL)
        if n == 0:
            below = corner + np.array((side / 2, -0.03))
            name = f"seed {seeds[p]}" if side > 0.8 else str(seeds[p])
            axes.text(
                below[0],
                below[1],
                name,
                fontsize=SMALL,
                color=INK,
                ha="center",
                va="top",
                zorder=6,
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6},
            )
    axes.set(xlim=(0, room[0]), ylim=(0, room[1]), aspect="auto")
    _legend(figure, attributes, colours, points)
    return figure


def _wanted(shape: Sequence[int], shown: Sequence[int]) -> list[tuple[int, int, int]]:
    """(patient, attribute, point) of every thumbnail, far points first; a patient's neutral once."""
    patients, attributes = shape[:2]
    return [
        (p, a, n) for n in reversed(shown) for p in range(patients) for a in range(attributes) if n or not a
    ]


def _spread(coordinates: np.ndarray, room: np.ndarray, margin: float) -> Any:
    """Coordinates in inches, filling the room up to a margin, without changing their proportions."""
    low, high = coordinates.min(axis=(0, 1, 2)), coordinates.max(axis=(0, 1, 2))
    scale = ((room - 2 * margin) / np.maximum(high - low, 1e-12)).min()
    return (coordinates - (low + high) / 2) * scale + room / 2


def _trajectories(axes: Any, places: np.ndarray, colours: Sequence[str]) -> None:
    patients, attributes, count = places.shape[:3]
    largest = 88 if patients * attributes * count <= 150 else 45
    sizes = np.linspace(0.2, 1, max(count - 1, 1)) * largest
    for p in range(patients):
        for a in range(attributes):
            axes.plot(*places[p, a].T, color=colours[a], linewidth=1.6, alpha=0.55, zorder=2)
            axes.scatter(
                *places[p, a, 1:].T,
                s=sizes[: count - 1],
                color=colours[a],
                edgecolor="white",
                linewidth=0.7,
                zorder=3,
            )
        axes.scatter(*places[p, 0, 0], s=largest + 7, color=NEUTRAL, edgecolor="white", linewidth=1, zorder=4)


def _beside_points(
    places: np.ndarray, wanted: Sequence[tuple[int, int, int]], side: float, room: np.ndarray
) -> list[np.ndarray]:
    """Lower left corners of the thumbnails: near their points, over as few points
    and thumbnails as can be.
    """
    share = np.linspace(0, 1, 12)[:, None]
    # along the lines too, so that none disappears under a thumbnail
    lines = places[:, :, :-1, None] * (1 - share) + places[:, :, 1:, None] * share
    dots = np.concatenate([lines.reshape(-1, 2), places.reshape(-1, 2)])
    angles = np.arange(24) * np.pi / 12
    ways = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    offsets = np.concatenate([ways * side * reach for reach in (0.85, 1.1, 1.45, 1.9, 2.5, 3.2, 4.0)])
    half, taken, corners = side / 2 + 0.05, np.empty((0, 2)), []
    # between middles of thumbnails, with room for a seed under the upper one
    clear = np.array([2 * half + 0.06, 2 * half + 0.06 + UNDER])
    for p, a, n in wanted:
        dot = places[p, a, n]
        middles = np.clip(dot + offsets, (half, half + UNDER), room - half)
        outward = dot - (places[p, a, 0] if n else places[p].mean(axis=(0, 1)))
        outward = outward / (np.linalg.norm(outward) + 1e-9)
        cost = np.linalg.norm(middles - dot, axis=1) / side - 0.35 * (middles - dot) @ outward / side
        covered = (np.abs(middles[:, None] - dots[None]) < half).all(axis=2)
        cost += 0.18 * covered.sum(axis=1)
        apart = np.abs(middles[:, None] - taken[None])
        shared = np.clip(clear - apart, 0, None).prod(axis=2)
        cost += 60 * shared.sum(axis=1) / side**2 + 4 * (shared > 0).sum(axis=1)
        best = middles[cost.argmin()]
        taken = np.concatenate([taken, best[None]])
        corners.append(best - side / 2)
    return corners


def _thumbnail(
    axes: Any, image: np.ndarray, corner: np.ndarray, side: float, dot: np.ndarray, colour: str
) -> None:
    from matplotlib.patches import Rectangle

    middle = corner + side / 2
    axes.plot(*zip(dot, middle), color=colour, linewidth=0.9, alpha=0.8, zorder=2.5)
    axes.add_patch(
        Rectangle(
            (corner[0] - FRAME, corner[1] - FRAME),
            side + 2 * FRAME,
            side + 2 * FRAME,
            facecolor=colour,
            edgecolor="white",
            zorder=5,
        )
    )
    picture = np.clip(np.broadcast_to(image, (*image.shape[:2], 3)), 0, 1)
    axes.imshow(picture, extent=(corner[0], corner[0] + side, corner[1], corner[1] + side), zorder=5.5)


def _legend(
    figure: "Figure", attributes: Sequence[str], colours: Sequence[str], points: Sequence[str]
) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markeredgecolor": "white"}
    handles: list[Any] = [Line2D([], [], color=NEUTRAL, markersize=10, **dot)]
    handles += [Line2D([], [], color=colour, markersize=10, **dot) for colour in colours]
    labels = ["neutral", *attributes]
    if len(points) > 2:
        first, last = (
            f"λ = {point}" if str(point).isdecimal() else str(point) for point in (points[1], points[-1])
        )
        handles.append(
            (
                Line2D([], [], color=MUTED, markersize=4, **dot),
                Line2D([], [], color=MUTED, markersize=10, **dot),
            )
        )
        labels.append(f"  {first} to {last}")
    figure.legend(
        handles,
        labels,
        handler_map={tuple: HandlerTuple(ndivide=None)},
        ncols=len(labels),
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(0.005, 1 - (HEADER - 0.08) / HEIGHT),
        fontsize=LABEL - 1,
        labelcolor=INK,
        handletextpad=0.2,
        columnspacing=1.4,
    )

"""Images that memory cannot hold, told before the hours of sampling that would end in the machine's death.

ComfyUI keeps every output of a prompt in memory while it runs, so what a workflow decodes is there at once.
The sampler reads the graph that it stands in, and counts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import psutil

from ..medtraverse.predictions import far_points
from ..medtraverse.traversal import TraversalSettings
from .early_labels import PASSED_ON
from .graph import Graph, source_of, upstream_ids

DECODERS = ("VAEDecode", "VAEDecodeTiled")


@dataclass(frozen=True)
class Extent:
    """A trajectory's size: ``frames`` of a curve, or 0 for neutral and ``points`` swap steps."""

    patients: int
    attributes: int
    points: tuple[str, ...]
    frames: int = 0

    @property
    def rows(self) -> int:
        """Latents of the trajectory."""
        if self.frames:
            return self.patients * self.attributes * self.frames
        return self.patients * (1 + self.attributes * len(self.points))


def check_size(
    graph: Graph,
    sampler: str,
    settings: TraversalSettings,
    channels: int,
    asked: Collection[str] | None = None,
    free: int | None = None,
) -> None:
    """Check that memory holds the latents and images that a prompt makes of a sampler's trajectory.

    Parameters
    ----------
    graph : mapping
        In API format.
    sampler : str
        Id of the node that is about to sample.
    settings : TraversalSettings
    channels : int
        Of a latent.
    asked : collection of str, optional
        Ids of the output nodes that this run is for. Default: all.
    free : int, optional
        Bytes; what the machine has free, swap space included, if not given.

    Raises
    ------
    ValueError
        It does not. What the graph does not show, such as a decoder of another pack, is not counted.
    """
    if free is None:
        free = psutil.virtual_memory().available + psutil.swap_memory().free
    whole = Extent(settings.patients, len(settings.prompts), tuple(map(str, settings.swap_steps)))
    pixels = settings.width * settings.height
    latents = 4 * channels * math.prod((settings.width // 8, settings.height // 8))
    wanted = None
    if asked is not None:
        wanted = {found for output in map(str, asked) for found in (output, *upstream_ids(graph, output))}
    bytes_of, images = {sampler: latents * whole.rows}, 0
    for number, node in graph.items():
        if wanted is not None and number not in wanted:
            continue
        kind, inputs = node["class_type"], node["inputs"]
        if kind in PASSED_ON:
            extent = _extent(graph, [number, 0], sampler, whole)
            bytes_of[number] = latents * extent.rows if extent else 0
        elif kind in DECODERS and (extent := _extent(graph, inputs.get("samples"), sampler, whole)):
            bytes_of[number] = 4 * 3 * pixels * extent.rows
            images += extent.rows
    total = sum(bytes_of.values())
    if total <= free:
        return
    made = f"{images:,} images of {settings.width}×{settings.height}" if images else f"{whole.rows:,} latents"
    raise ValueError(
        f"patients: {settings.patients:,} make {made}, {_gigabytes(total)} of memory where "
        f"{_gigabytes(free)} are free; use the node Traversal Study, which keeps no images, or take fewer "
        "patients in one run."
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.0f} GB" if size >= 1e10 else f"{size / 1e9:.1f} GB"


def _extent(graph: Graph, link: Any, sampler: str, whole: Extent) -> Extent | None:
    """Return the size of the trajectory that a link carries; None where it is not the sampler's."""
    node = source_of(graph, link)
    if node is None:
        return None
    if str(link[0]) == sampler:
        return whole
    kind, inputs = node["class_type"], node["inputs"]
    if kind not in PASSED_ON:
        return None
    extent = _extent(graph, inputs.get(PASSED_ON[kind]), sampler, whole)
    if extent is None:
        return None
    if kind == "BezierLatentInterpolate":
        frames = inputs.get("frames")
        return replace(extent, frames=frames) if isinstance(frames, int) else None
    return _selected(extent, inputs)


def _selected(extent: Extent, inputs: Mapping[str, Any]) -> Extent | None:
    """Return what Trajectory Select keeps; None where another node says it."""
    patients, names, points = (inputs.get(name) for name in ("patients", "attributes", "points"))
    if not isinstance(patients, int) or not isinstance(names, str) or not isinstance(points, str):
        return None
    count = len([name for name in names.split(",") if name.strip()])
    kept = replace(
        extent,
        patients=min(patients or extent.patients, extent.patients),
        attributes=min(count or extent.attributes, extent.attributes),
    )
    if not points.strip():
        return kept
    available = [str(frame) for frame in range(1, extent.frames)] if extent.frames else extent.points
    try:
        chosen = far_points(points, available)
    except ValueError:  # the node itself says it
        return kept
    return replace(kept, frames=len(chosen) + 1) if extent.frames else replace(kept, points=tuple(chosen))

"""Labels that no classifier judges, told before the hours of sampling that would end in that message.

A link from a classifier to the sampler would say it too, but then another classifier, or other labels, would
be a reason for ComfyUI to sample anew. So the sampler reads the graph that it stands in.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ..medtraverse.evaluation import judged_columns
from ..medtraverse.labels import position
from ..medtraverse.prompts import AttributeSet
from .graph import Graph, source_of
from .live import running_server
from .nodes_classifier import MedicalClassifierLoader

# Which input of a node its trajectory comes from.
PASSED_ON = {"TrajectorySelect": "trajectory", "BezierLatentInterpolate": "source"}


def check_labels(
    graph: Graph, sampler: str, attributes: AttributeSet, asked: Collection[str] | None = None
) -> None:
    """Check that every CFRT Evaluator behind a sampler has a classifier for the attributes that reach it.

    Parameters
    ----------
    graph : mapping
        In API format.
    sampler : str
        Id of the node that is about to sample.
    attributes : AttributeSet
    asked : collection of str, optional
        Ids of the output nodes that this run is for. Default: all.

    Raises
    ------
    ValueError
        A classifier judges no label of an attribute, or cannot be loaded. What the graph does not show, such
        as a classifier of another pack, is left to the evaluator.
    """
    for number, node in graph.items():
        if node["class_type"] != "CFRTEvaluator" or (asked is not None and number not in asked):
            continue
        kept = _kept(graph, node["inputs"].get("trajectory"), sampler, attributes)
        labels = kept and _labels(graph, node["inputs"].get("image_classifier"))
        if kept and labels:
            chosen = [attributes.attributes[place] for place in kept]
            judged_columns(
                [item.name for item in chosen], [item.labels for item in chosen], labels, attributes.aliases
            )


def asked_outputs() -> Collection[str] | None:
    """Return the ids of the output nodes that the running prompt is for; None outside a server."""
    queue = getattr(running_server(), "prompt_queue", None)
    if queue is None:
        return None
    running = list(queue.currently_running.values())
    return {str(output) for item in running for output in item[4]} or None


def _kept(graph: Graph, link: Any, sampler: str, attributes: AttributeSet) -> list[int] | None:
    """Return the places of the attributes that a link carries; None where it is not the sampler's."""
    node = source_of(graph, link)
    if node is None:
        return None
    if str(link[0]) == sampler:
        return list(range(len(attributes.attributes)))
    if node["class_type"] not in PASSED_ON:
        return None
    kept = _kept(graph, node["inputs"].get(PASSED_ON[node["class_type"]]), sampler, attributes)
    wanted = node["inputs"].get("attributes", "")
    if kept is None or not isinstance(wanted, str):
        return None
    names = [attributes.attributes[place].name for place in kept]
    places = [position(name.strip(), names) for name in wanted.split(",") if name.strip()]
    return [kept[place] for place in places if place is not None] if places else kept


def _labels(graph: Graph, link: Any) -> Sequence[str] | None:
    """Return the labels of the classifier that a link carries; None where the graph does not show them."""
    node = source_of(graph, link)
    if node is None or node["class_type"] != "MedicalClassifierLoader":
        return None
    inputs = dict(node["inputs"])
    others = inputs.pop("others", None)
    further = () if others is None else _labels(graph, others)
    if further is None or any(isinstance(value, list) for value in inputs.values()):
        return None
    return [*MedicalClassifierLoader.labels_of(**inputs), *further]

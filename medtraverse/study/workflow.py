"""The graph of a study: its one Traversal Study, with what that needs, over some seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..published import published_cfrt
from ..remote.node_inputs import Record, label, title_of

NODE = "MedicalStudy"


def study_node(graph: Record, name: str = "") -> str:
    """Return the id of a graph's Traversal Study.

    Parameters
    ----------
    graph : dict
        API format.
    name : str
        Id or title of the one that is meant; empty where there is only one.

    Raises
    ------
    ValueError
        There is none, or several.
    """
    studies = [key for key, node in graph.items() if node["class_type"] == NODE]
    if not studies:
        raise ValueError("workflow: it has no Traversal Study; add one, or take 16-study-chexpert.")
    found = [key for key in studies if not name or name in (key, title_of(graph, key))]
    if len(found) != 1:
        raise ValueError(
            f"--node: {repr(name) if name else 'none'} is named of {len(studies)} studies; name one of "
            f"{', '.join(title_of(graph, key) for key in studies)}."
        )
    return found[0]


def pruned(graph: Record, node: str) -> Record:
    """Return a node and what it needs, without what takes its outputs."""
    needed, waiting = set(), [node]
    while waiting:
        key = waiting.pop()
        if key in needed or key not in graph:
            continue
        needed.add(key)
        waiting += [
            str(value[0])
            for value in graph[key]["inputs"].values()
            if isinstance(value, list) and len(value) == 2
        ]
    return {key: graph[key] for key in graph if key in needed}


def number_of(graph: Record, node: str, name: str) -> int:
    """Return a whole number among a node's inputs. Raises ValueError where it is linked."""
    value = graph[node]["inputs"].get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{label(graph, node)}: {name} is linked; give it a number of its own.")
    return value


def over_seeds(graph: Record, node: str, seeds: Sequence[int], pictured: int) -> Record:
    """Return the graph that makes the patients of some seeds in a row, and sends them back.

    ``pictured`` of them, the first, keep their latents.
    """
    changed = {
        "folder": "",
        "first_seed": seeds[0],
        "patients": len(seeds),
        "block_size": len(seeds),
        "pictured": pictured,
        "interval_width": 0.0,
    }
    inputs = {**graph[node]["inputs"], **changed}
    return {**graph, node: {**graph[node], "inputs": inputs}}


def differing_inputs(graph: Record, node: str, settings: Mapping[str, Any]) -> list[str]:
    """Say which of the node's numbers and choices are not a study's: what can be told before a patient."""
    inputs = graph[node]["inputs"]
    names = ("steps", "cfg", "sampler", "scheduler", "noise")
    return [
        f"{name}: {settings[name]} there, {inputs[name]} here"
        for name in names
        if name in settings and not isinstance(inputs.get(name), (list, type(None)))
        if inputs[name] != settings[name]
    ]


def published_of(graph: Record) -> dict[str, float]:
    """Return the paper's CFRT of the domain and the neutral that a graph names; empty where it names none."""
    named: dict[str, str] = {}
    for node in graph.values():
        for name in ("domain", "neutral"):
            value = node["inputs"].get(name)
            if isinstance(value, str):
                named.setdefault(name, value)
    return published_cfrt("swap", named.get("domain", ""), named.get("neutral", ""))

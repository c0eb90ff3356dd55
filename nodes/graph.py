"""The graph that a node stands in, in API format: which nodes it depends on, and where a link comes from."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Graph = Mapping[str, Mapping[str, Any]]


def upstream_ids(graph: Graph, node_id: str, inputs: Iterable[str] | None = None) -> Iterator[str]:
    """Yield the ids of the nodes that a node depends on, each once.

    ``inputs`` narrows it to what comes in by these inputs of the node.
    """
    start = graph.get(node_id, {}).get("inputs", {})
    waiting = [value for name, value in start.items() if inputs is None or name in inputs]
    seen = {node_id}
    while waiting:
        link = waiting.pop()
        if source_of(graph, link) is None or str(link[0]) in seen:
            continue
        seen.add(str(link[0]))
        yield str(link[0])
        waiting += graph[str(link[0])].get("inputs", {}).values()


def upstream(graph: Graph, node_id: str, inputs: Iterable[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """Yield the nodes that a node depends on, as `upstream_ids` does."""
    return (graph[number] for number in upstream_ids(graph, node_id, inputs))


def source_of(graph: Graph, link: Any) -> Mapping[str, Any] | None:
    """Return the node that the value of an input comes from; None of what is no link into the graph."""
    return graph.get(str(link[0])) if isinstance(link, list) and len(link) == 2 else None

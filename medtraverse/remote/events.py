"""What a server tells of a run: progress while it goes, its result, and how it can fail."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .node_inputs import Record

_TEXT_EVENT = 3  # first four bytes of the websocket's binary messages; 1 and 4 are preview images


class GraphRejected(ValueError):
    """The server refused to queue a graph; `node_errors` is its own record, node id to errors."""

    def __init__(self, error: Record, node_errors: Record) -> None:
        self.error, self.node_errors = error, node_errors
        lines = [" ".join(filter(None, (error.get("message"), error.get("details"))))]
        for node_id, record in node_errors.items():
            lines += [
                f"node {node_id} ({record.get('class_type')}): {one.get('message')}: {one.get('details')}"
                for one in record.get("errors", ())
            ]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type, tuple[Record, Record]]:
        """Made again from the server's records, wherever it is sent to."""
        return type(self), (self.error, self.node_errors)


class NodeFailed(RuntimeError):
    """A node raised while the graph ran. The message is the node's own."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.node_id = record.get("node_id")
        self.node_type = record.get("node_type")
        self.exception_type = record.get("exception_type", "")
        self.exception_message = (record.get("exception_message") or "").strip()
        self.traceback = "".join(record.get("traceback") or ())
        super().__init__(f"{self.node_type} (node {self.node_id}): {self.exception_message}")

    def __reduce__(self) -> tuple[type, tuple[Record]]:
        """Made again from the server's record, wherever it is sent to."""
        return type(self), (self.record,)


class RunInterrupted(RuntimeError):
    """The run was cancelled, while queued or while it ran."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: `finished` of `nodes` nodes, and step `value` of `maximum` of the one at work."""

    node_id: str
    node_type: str
    value: float
    maximum: float
    finished: int
    nodes: int


@dataclass
class RunResult:
    """What a run left.

    `outputs` maps a node id to its ui values, `texts` to the progress text it sent last.
    """

    prompt_id: str
    outputs: Record = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def files(self, node_id: Any, kind: str = "images") -> list[Record]:
        """The files that a node saved or previewed, as `Client.fetch` takes them."""
        return list(self.outputs.get(str(node_id), {}).get(kind, []))


class Following:
    """Turns the websocket's events of one run into progress."""

    def __init__(
        self, prompt_id: str, graph: Record, on_progress: Callable[[Progress], object] | None
    ) -> None:
        self.prompt_id, self.graph, self.on_progress = prompt_id, graph, on_progress
        self.ended = False
        self.texts: dict[str, str] = {}
        self._done: set[str] = set()
        self._current: str | None = None

    def take(self, kind: str, data: Record) -> None:
        """Take an event of the websocket; those of other runs are left alone."""
        if data.get("prompt_id") != self.prompt_id:
            return
        if kind in ("execution_success", "execution_error", "execution_interrupted"):
            self.ended = True
        elif kind == "execution_cached":
            self._done.update(data.get("nodes") or ())
        elif kind == "executing":
            if self._current is not None:
                self._done.add(self._current)
            self._current = data.get("node")
            self._tell(self._current, 0, 1)
        elif kind == "progress":
            self._tell(data.get("node") or self._current, data["value"], data["max"])

    def take_binary(self, data: bytes) -> None:
        """Take a binary message: the text of a node at work; pictures are left alone."""
        if struct.unpack(">I", data[:4])[0] == _TEXT_EVENT:
            end = 8 + struct.unpack(">I", data[4:8])[0]
            self.texts[data[8:end].decode()] = data[end:].decode("utf-8", "replace")

    def _tell(self, node_id: str | None, value: float, maximum: float) -> None:
        if self.on_progress and node_id is not None:
            node_type = self.graph.get(str(node_id), {}).get("class_type", "")
            self.on_progress(
                Progress(str(node_id), node_type, value, maximum, len(self._done), len(self.graph))
            )


def result_of(prompt_id: str, record: Record) -> RunResult:
    """The RunResult in the server's history of a run.

    Raises NodeFailed or RunInterrupted where it did not succeed.
    """
    cached: list[str] = []
    for kind, data in (record.get("status") or {}).get("messages", ()):
        if kind == "execution_error":
            raise NodeFailed(data)
        if kind == "execution_interrupted":
            raise RunInterrupted(
                f"Run {prompt_id} was cancelled at {data.get('node_type')} (node {data.get('node_id')})."
            )
        if kind == "execution_cached":
            cached = data.get("nodes", [])
    return RunResult(prompt_id, record.get("outputs", {}), cached=cached)

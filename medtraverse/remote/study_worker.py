"""Who makes the blocks of a study: a running server, or a ComfyUI of one's own that is started anew when it
dies.
"""

import os
import time
from collections.abc import Callable, Sequence

from .client import Client
from .events import Progress
from .headless import PACK, Headless
from .node_inputs import Record

Files = dict[str, bytes]
# Seconds in which a server that went away may come back before its work is given to others for good.
PATIENCE = 120.0
_STARTS = 3


class ServerWorker:
    """A running ComfyUI.

    Parameters
    ----------
    url : str
    """

    def __init__(self, url: str) -> None:
        self.client = Client(url)
        self.name = self.client.url

    def object_info(self) -> Record:
        """The server's description of its nodes."""
        return self.client.object_info()

    def run(self, graph: Record, node: str, check: Callable[[], None] = lambda: None) -> Files:
        """Run a graph, and return the files of a study's node by name.

        Parameters
        ----------
        graph : dict
            API format.
        node : str
            Id of the node.
        check : callable
            Called at each of the server's steps; may raise to cancel.

        Raises
        ------
        ConnectionError, GraphRejected, NodeFailed, RunInterrupted
            As `Client.run`.
        """

        def heard(progress: Progress) -> None:
            check()

        result = self.client.run(graph, heard)
        listed = result.files(node, "files")
        if not listed:
            raise ConnectionError(f"{self.name} sent no files of the study's node.")
        return {str(file["filename"]): self.client.fetch(file) for file in listed}

    def recover(self, check: Callable[[], None] = lambda: None) -> bool:
        """Wait for a server that went away; return whether it is back."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            check()
            try:
                self.client.queue()
                return True
            except ConnectionError:
                time.sleep(2)
        return False

    def close(self) -> None:
        """Nothing: the server is somebody's own."""


class OwnWorker:
    """A ComfyUI that is started for the study, and again when it dies.

    Parameters
    ----------
    comfyui, python, arguments, pack, threads
        As of `Headless`.
    name : str
        What to call it.
    """

    def __init__(
        self,
        comfyui: str | os.PathLike[str],
        python: str | os.PathLike[str] | None = None,
        arguments: Sequence[str] = (),
        name: str = "",
        pack: str | os.PathLike[str] = PACK,
        threads: int | None = None,
    ) -> None:
        self.headless = Headless(comfyui, python, arguments, pack, threads)
        self.name = name or f"ComfyUI in {self.headless.comfyui}"

    def object_info(self) -> Record:
        """The description of its nodes."""
        return self._server().object_info()

    def run(self, graph: Record, node: str, check: Callable[[], None] = lambda: None) -> Files:
        """As `ServerWorker.run`; a ComfyUI that dies is started anew, and the graph runs once more."""
        for start in range(1, _STARTS + 1):
            try:
                return self._server(check).run(graph, node, check)
            except ConnectionError:
                self.headless.stop()
                if start == _STARTS:
                    raise
        raise AssertionError("not reached")

    def recover(self, check: Callable[[], None] = lambda: None) -> bool:
        """False: it has been started often enough."""
        return False

    def close(self) -> None:
        """End it."""
        self.headless.stop()

    def pids(self) -> tuple[int, int]:
        """Process ids of this worker and of its ComfyUI, 0 where that does not run."""
        process = self.headless._process
        return os.getpid(), process.pid if process else 0

    def _server(self, check: Callable[[], None] = lambda: None) -> ServerWorker:
        return ServerWorker(self.headless.start(wait=check))

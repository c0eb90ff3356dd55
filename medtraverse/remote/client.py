"""A client of a running ComfyUI: queue a graph in API format, follow it, fetch what it made, cancel it."""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from .events import Following, GraphRejected, NodeFailed, Progress, RunInterrupted, RunResult, result_of
from .node_inputs import Record

if TYPE_CHECKING:
    from aiohttp import ClientSession

__all__ = ["Client", "GraphRejected", "NodeFailed", "Progress", "RunInterrupted", "RunResult"]

_T = TypeVar("_T")
_PATIENCE = 15  # seconds in which a lost server may come back


class Client:
    """Blocking calls to one server. An instance may be used from several threads, one call at a time in each.

    Parameters
    ----------
    url : str
        For example "http://127.0.0.1:8188"; https and a path prefix are fine.

    Raises
    ------
    ValueError
        The URL is none of http or https.
    """

    def __init__(self, url: str) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(
                f"server: {url!r} is no address of a ComfyUI; give one like http://127.0.0.1:8188."
            )

    def run(
        self,
        graph: Record,
        on_progress: Callable[[Progress], object] | None = None,
        timeout: float | None = None,
    ) -> RunResult:
        """Queue a graph and follow it to its end; Ctrl-C cancels it.

        Parameters
        ----------
        graph : dict
            API format: node id to {"class_type", "inputs"}.
        on_progress : callable, optional
            Called with a `Progress` at each node and step.
        timeout : float, optional
            Seconds, after which the run is cancelled and TimeoutError raised.

        Returns
        -------
        RunResult

        Raises
        ------
        GraphRejected, NodeFailed, RunInterrupted, TimeoutError, ConnectionError
        """
        return self._call(lambda session: self._run(session, graph, on_progress, timeout))

    def submit(self, graph: Record) -> str:
        """Queue a graph and return its prompt id at once. Raises GraphRejected."""
        return self._call(lambda session: self._submit(session, graph, uuid.uuid4().hex, str(uuid.uuid4())))

    def wait(self, prompt_id: str, timeout: float | None = None) -> RunResult:
        """The RunResult of a submitted graph once it has ended; raises as `run` does. Texts are not known."""
        return self._call(lambda session: self._wait(session, prompt_id, timeout))

    def cancel(self, prompt_id: str) -> None:
        """End one run, whether queued or at work; others go on."""
        self._call(lambda session: self._cancel(session, prompt_id))

    def fetch(self, file: Record) -> bytes:
        """Bytes of an output: a {"filename", "subfolder", "type"} of `RunResult.outputs`."""
        query = {key: file.get(key, "") for key in ("filename", "subfolder", "type")}
        content: bytes = self._call(lambda session: self._get(session, "/view", query, as_bytes=True))
        return content

    def history(self, prompt_id: str) -> Record | None:
        """The server's record of an ended run, or None."""
        return self._call(lambda session: self._history(session, prompt_id))

    def queue(self) -> tuple[list[str], list[str]]:
        """Prompt ids at work and waiting: (running, pending)."""
        return self._call(self._queued)

    def object_info(self, node_type: str | None = None) -> Record:
        """The server's description of all nodes, or of one; an unknown one gives {}."""
        path = "/object_info" + (f"/{quote(node_type)}" if node_type else "")
        described: Record = self._call(lambda session: self._get(session, path))
        return described

    def versions(self) -> Record:
        """Versions of ComfyUI, Python and torch on the server, and its devices."""
        stats = self.get("/system_stats")
        system = stats["system"]
        return {
            "comfyui": system.get("comfyui_version"),
            "python": system.get("python_version"),
            "torch": system.get("pytorch_version"),
            "devices": [device["name"] for device in stats.get("devices", [])],
        }

    def get(self, path: str, **query: Any) -> Any:
        """JSON of any other route, such as "/system_stats"."""
        return self._call(lambda session: self._get(session, path, query))

    def upload_image(self, name: str, data: bytes) -> str:
        """Put an image file's bytes into the server's input folder; the name for LoadImage."""

        import aiohttp

        async def post(session: "ClientSession") -> str:
            form = aiohttp.FormData({"overwrite": "true"})
            form.add_field("image", data, filename=name)
            return str((await self._post(session, "/upload/image", data=form))["name"])

        return self._call(post)

    def _call(self, task: "Callable[[ClientSession], Awaitable[_T]]") -> _T:
        import aiohttp

        async def within_session() -> _T:
            # trust_env stays off: a proxy from the environment has no business before a local server.
            async with aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30)
            ) as session:
                return await task(session)

        try:
            return asyncio.run(within_session())
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise ConnectionError(f"No ComfyUI answers at {self.url}: {error}") from error
        except aiohttp.ClientResponseError as error:
            raise ConnectionError(
                f"{error.request_info.url.with_query(None)} answers {error.status} {error.message}: "
                "that is not what a ComfyUI says."
            ) from error

    async def _get(
        self, session: "ClientSession", path: str, query: Record | None = None, as_bytes: bool = False
    ) -> Any:
        async with session.get(self.url + path, params=query) as response:
            response.raise_for_status()
            return await (response.read() if as_bytes else response.json())

    async def _post(self, session: "ClientSession", path: str, **body: Any) -> Any:
        async with session.post(self.url + path, **body) as response:
            response.raise_for_status()
            return json.loads(await response.text() or "null")

    async def _submit(self, session: "ClientSession", graph: Record, client_id: str, prompt_id: str) -> str:
        body = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id}
        async with session.post(self.url + "/prompt", json=body) as response:
            answer = await response.json(content_type=None)
            if response.status == 400:
                raise GraphRejected(answer["error"], answer.get("node_errors") or {})
            response.raise_for_status()
        # An output node that fails validation is dropped while the others run: that is no success.
        if answer.get("node_errors"):
            await self._cancel(session, answer["prompt_id"])
            raise GraphRejected(
                {"message": "Some outputs of the graph failed validation"}, answer["node_errors"]
            )
        return str(answer["prompt_id"])

    async def _cancel(self, session: "ClientSession", prompt_id: str) -> None:
        # First out of the queue, then what runs: the other way round it could start in between.
        await self._post(session, "/queue", json={"delete": [prompt_id]})
        # Again, since a run that is just starting resets the flag that the first one set; never where
        # another's runs.
        for _ in range(10):
            if prompt_id not in (await self._queued(session))[0]:
                return
            await self._post(session, "/interrupt", json={"prompt_id": prompt_id})
            await asyncio.sleep(0.1)

    async def _history(self, session: "ClientSession", prompt_id: str) -> Record | None:
        records: dict[str, Record] = await self._get(session, f"/history/{prompt_id}")
        return records.get(prompt_id)

    async def _run(
        self,
        session: "ClientSession",
        graph: Record,
        on_progress: Callable[[Progress], object] | None,
        timeout: float | None,
    ) -> RunResult:
        client_id, started = uuid.uuid4().hex, time.monotonic()
        # The socket first: events of a run that starts at once would be lost.
        socket = await self._connect(session, client_id)
        # An id of our own: Ctrl-C may come before the server has answered with one.
        prompt_id = str(uuid.uuid4())
        try:
            prompt_id = await self._submit(session, graph, client_id, prompt_id)
            state = Following(prompt_id, graph, on_progress)
            await asyncio.wait_for(self._follow(session, socket, client_id, state), timeout)
        except BaseException as error:  # Ctrl-C and a raising on_progress among them
            if not isinstance(error, (ConnectionError, GraphRejected)):
                await self._cancel(session, prompt_id)
            if isinstance(error, asyncio.TimeoutError):
                raise TimeoutError(
                    f"The graph was not done after {timeout} s; it has been cancelled."
                ) from None
            raise
        result = await self._wait(session, prompt_id, 60)
        result.texts, result.seconds = state.texts, time.monotonic() - started
        return result

    # a socket is Any: its type has a parameter in some versions of aiohttp only
    async def _connect(self, session: "ClientSession", client_id: str) -> Any:
        return await session.ws_connect(f"{self.url}/ws?clientId={client_id}", max_msg_size=0)

    async def _follow(self, session: "ClientSession", socket: Any, client_id: str, state: Following) -> None:
        """Take events until the run has ended, over as many connections as it needs."""
        import aiohttp

        while True:
            async with socket:
                try:
                    await self._listen(session, socket, state)
                    return
                except aiohttp.ClientConnectionError:
                    pass
            socket = await self._reconnect(session, client_id)
            # Events were lost meanwhile: the end may have been one of them.
            running, pending = await self._queued(session)
            if state.prompt_id not in running + pending:
                if await self._history(session, state.prompt_id) is None:
                    raise ConnectionError(
                        f"ComfyUI at {self.url} no longer knows the run: it was started anew."
                    )
                return

    async def _reconnect(self, session: "ClientSession", client_id: str) -> Any:
        import aiohttp

        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return await self._connect(session, client_id)
            except aiohttp.ClientError as error:
                if time.monotonic() > deadline:
                    raise ConnectionError(
                        f"ComfyUI at {self.url} closed the connection while a graph ran: {error}"
                    ) from error
            await asyncio.sleep(0.5)

    async def _listen(self, session: "ClientSession", socket: Any, state: Following) -> None:
        import aiohttp

        while not state.ended:
            try:
                message = await socket.receive(timeout=5)
            except asyncio.TimeoutError:
                # One step may take long; but a run deleted from the queue sends nothing at all.
                running, pending = await self._queued(session)
                if state.prompt_id not in running + pending:
                    return
                continue
            if message.type is aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                state.take(event["type"], event.get("data") or {})
            elif message.type is aiohttp.WSMsgType.BINARY:
                state.take_binary(message.data)
            elif message.type in (
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSING,
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.ERROR,
            ):
                raise aiohttp.ServerDisconnectedError("the websocket closed")

    async def _queued(self, session: "ClientSession") -> tuple[list[str], list[str]]:
        """Prompt ids at work and waiting."""
        state = await self._get(session, "/queue")
        running, pending = ([entry[1] for entry in state[key]] for key in ("queue_running", "queue_pending"))
        return running, pending

    async def _wait(self, session: "ClientSession", prompt_id: str, timeout: float | None) -> RunResult:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # The queue before the history: a run leaves the one and enters the other in one step.
            running, pending = await self._queued(session)
            record = await self._history(session, prompt_id)
            if record:
                return result_of(prompt_id, record)
            if prompt_id not in running + pending:
                raise RunInterrupted(f"Run {prompt_id} was taken out of the queue.")
            if deadline and time.monotonic() > deadline:
                raise TimeoutError(f"Run {prompt_id} was not done after {timeout} s.")
            await asyncio.sleep(0.1)

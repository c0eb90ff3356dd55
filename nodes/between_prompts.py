"""Work for the thread that runs prompts, between two of them: images that a viewer asks for, decoded.

ComfyUI's models and the list of those that are loaded belong to that thread. Whoever decodes on another may
find his weights moved away, or move them from under a run.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from aiohttp import web

from . import views
from .live import running_server

# A page waits this long for an image that a prompt has come in front of, then asks again.
SECONDS = 30


class BetweenPrompts:
    """What waits for a moment in which no prompt runs or waits.

    ComfyUI's worker asks ``PromptQueue.get`` for the next prompt, and takes None for an answer. So work is
    done there, a piece at a call, and a prompt goes first. A prompt that comes meanwhile waits for one piece.
    """

    def __init__(self, queue: Any) -> None:
        self.queue, self.take = queue, queue.get
        self.waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        queue.get = self.get

    def get(self, timeout: float | None = None) -> Any:
        """Return the next prompt as the queue does, None after ``timeout`` seconds or a piece of work."""
        with self.queue.mutex:  # else work that comes just now would not wake this thread
            item = self.take(timeout=0 if self.waiting else timeout)
        if item is None and self.waiting:
            future, work = self.waiting.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # the thread must live
                    future.set_exception(error)
        return item

    def busy(self) -> bool:
        """Return whether a prompt runs or waits."""
        with self.queue.mutex:
            return bool(self.queue.queue or self.queue.currently_running)

    def do(self, work: Callable[[], Any]) -> "Future[Any]":
        """Let the thread do something as soon as no prompt runs or waits."""
        future: Future[Any] = Future()
        with self.queue.mutex:
            self.waiting.append((future, work))
            self.queue.not_empty.notify()
        return future


def serve_decoded_images() -> None:
    """Serve ``views.DECODER``, if this process is a server.

    The answer is a PNG, or 202 while prompts are in the way, or 204 where the image cannot be decoded.
    """
    server = running_server()
    if server is None:
        return
    try:
        worker = BetweenPrompts(server.prompt_queue)
        routes = server.routes
    except AttributeError as error:
        logging.warning("MedTraverse: viewers decode nothing on this ComfyUI (%s)", error)
        return

    @routes.get(f"{views.DECODER}{{view:[0-9a-f]+}}/{{row:[0-9]{{1,9}}}}")
    async def decoded(request: web.Request) -> web.StreamResponse:
        view, row = request.match_info["view"], int(request.match_info["row"])
        file = views.decoded_file(view, row)
        if not file.is_file():
            if not views.can_decode(view):
                return _nothing(204)
            if worker.busy():
                return _nothing(202)
            work = asyncio.wrap_future(worker.do(partial(views.decode, view, row)))
            try:
                made = await asyncio.wait_for(work, SECONDS)
            except asyncio.TimeoutError:
                return _nothing(202)
            if not made:
                return _nothing(204)
        return web.FileResponse(file)


def _nothing(status: int) -> web.Response:
    return web.Response(status=status, headers={"Cache-Control": "no-store"})

"""Long work that hears a cancel: libraries that say no step, and single calls that take many seconds."""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
Report = Callable[[int, int], None]

_POLL_SECONDS, _END_SECONDS = 0.2, 0.3


def watched(work: Callable[[Report], Result], progress: Report) -> Result:
    """Do work on a thread of its own; ask here meanwhile whether to go on, and end the work where not.

    Parameters
    ----------
    work : callable
        Given a callable (steps done, steps in all), which it may call as it goes on.
    progress : callable
        Called here with the same numbers a few times a second, (0, 1) before the first, and at the end with
        all steps done; may raise to cancel, which is heard at once.

    Returns
    -------
    object
        What `work` returns.

    Raises
    ------
    BaseException
        What `work` raised, or `progress`. In the second case the work has ended, or ends between two of its
        own steps: a thread cannot be stopped within a call of compiled code.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    state = [0, 1]
    finished = threading.Event()

    def report(done: int, total: int) -> None:
        state[:] = done, total

    def run() -> None:
        try:
            results.append(work(report))
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while not finished.wait(_POLL_SECONDS):
            progress(*state)
    except BaseException:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        )
        thread.join(_END_SECONDS)
        raise
    if errors:
        raise errors[0]
    progress(state[1], state[1])
    return results[0]

"""One driver a folder: a lock that a dead owner does not hold, whatever the clocks say.

The owner counts up in the lock's file. Who comes later watches the count by a clock of its own that nobody
can set: a count that stands still is that of a dead owner. No time of day is ever compared, so a clock that
was moved, or two hosts whose clocks differ, change nothing.
"""

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from ..whole_file import UNFINISHED, write_text

NAME = "lock.json"
# Seconds from one count to the next, and those after which a standing count is a dead owner's.
BEAT, PATIENCE = 2.0, 20.0


class FolderLock:
    """The right to write into a study's folder: ``with FolderLock(folder) as lock: …``.

    Parameters
    ----------
    folder : path
        Of the study; it must be there.
    patience : float
        Seconds for which a standing count is watched where the owner cannot be asked, because it runs on
        another host.
    wait : callable, optional
        Called a few times a second while watching; may raise to cancel.

    Raises
    ------
    ValueError
        Another process writes into the folder, or the folder cannot be written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        patience: float = PATIENCE,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self.patience, self.wait = Path(folder) / NAME, patience, wait
        self.token = uuid.uuid4().hex
        self._count = 0
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> "FolderLock":
        while not self._create():
            held = self._read()
            if held is not None:
                self._refuse_if_alive(held)
                self._remove(held.get("token"))
        self._sweep()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._beating:
            self._beating.join()
        self._remove(self.token)

    def check(self) -> None:
        """Raise ValueError where the lock is another's by now: this process slept, and was taken for dead."""
        held = self._read()
        if held is None or held.get("token") != self.token:
            raise ValueError(
                f"folder: {self.path.parent} was taken over by {_told(held or {})} while this run stood "
                "still; let that one end, then run again: what is done is kept."
            )

    def _sweep(self) -> None:
        """Take away what killed owners were about to write: no block is in it."""
        for path in self.path.parent.glob(f"{UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.path.parent.glob(f".{NAME}-*"):
            path.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Make the lock; False where there is one."""
        try:
            # the content first, then the name: nobody reads a lock without an owner
            apart = self.path.with_name(f".{NAME}-{self.token}")
            apart.write_text(self._text(), encoding="utf-8")
            try:
                os.link(apart, self.path)
            finally:
                apart.unlink()
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if self.path.exists():
                return False
            try:  # a file system without links
                with open(self.path, "x", encoding="utf-8") as file:
                    file.write(self._text())
                return True
            except FileExistsError:
                return False
            except OSError:
                refuse_unwritable(self.path.parent, error)

    def _text(self) -> str:
        owner = {"pid": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname()}
        return json.dumps({**owner, "token": self.token, "count": self._count})

    def _read(self) -> dict[str, Any] | None:
        """The lock as it stands; None where there is none, {} where it cannot be read."""
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}
        return held if isinstance(held, dict) else {}

    def _remove(self, token: object) -> None:
        held = self._read()
        if held is not None and held.get("token") == token:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                refuse_unwritable(self.path.parent, error)

    def _refuse_if_alive(self, held: dict[str, Any]) -> None:
        here = held.get("host") == socket.gethostname()
        started = _started(held.get("pid"))
        if here and started is not None:
            if started != held.get("started"):
                return  # dead: its number is another process's, or nobody's
            if started:
                self._refuse(held)
        # another host, or a system that does not say who runs: the count tells
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            self.wait()
            time.sleep(0.2)
            now = self._read()
            if now is None:
                return
            if now != held and now:
                self._refuse(now)

    def _refuse(self, held: dict[str, Any]) -> NoReturn:
        raise ValueError(
            f"folder: {_told(held)} writes into the study in {self.path.parent}; let it end, or give another "
            "folder."
        )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            held = self._read()
            if held is None or held.get("token") != self.token:
                return
            self._count += 1
            try:
                write_text(self.path, self._text())
            except OSError:
                continue  # a full disk: the next beat tries again, and whoever writes a block says it


def refuse_unwritable(folder: Path, error: OSError) -> NoReturn:
    """Raise ValueError for a folder that takes no file."""
    raise ValueError(
        f"folder: {folder} cannot be written to ({error.strerror or error}); make room or give another "
        "folder. What is done is kept."
    ) from error


def _told(held: dict[str, Any]) -> str:
    if not held.get("host"):
        return "another run"
    return f"process {held.get('pid')} on {held['host']}"


def _started(pid: Any) -> str | None:
    """Return when a process began, in the kernel's own ticks, which no clock moves.

    "" where no such process runs; None where the system does not tell.
    """
    if not isinstance(pid, int) or not Path("/proc/self/stat").is_file():
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id")
    session = boot.read_text(encoding="utf-8").strip() if boot.is_file() else ""
    return "" if fields[0] in "ZX" else f"{session} {fields[19]}"

"""A ComfyUI of one's own, without a browser: on a free port, with folders of its own, ended with its "
"owner."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[2]
_FOLDERS = ("input", "output", "temp", "user")
# Of an environment in ComfyUI's folder, or beside it.
_PYTHONS = (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe")
_PR_SET_PDEATHSIG = 1


class Headless:
    """A ComfyUI process.

    Parameters
    ----------
    comfyui : path
        Folder of an installation; its models and custom nodes are used, nothing in it changes.
    python : path, optional
        What runs it. Default: that of an environment in the folder, else this process's own.
    arguments : sequence of str
        More arguments for ComfyUI, such as --cpu.
    pack : path, optional
        A folder of the pack for an installation without it; used where it is there. Default: this one.
    threads : int, optional
        Of its computation on a CPU, unless OMP_NUM_THREADS says it already. Default: as many as it finds
        processors. Processes that take more threads together than there are wait for each other at every
        step, and are many times as slow.

    Raises
    ------
    ValueError
        There is no ComfyUI in the folder.
    """

    def __init__(
        self,
        comfyui: str | os.PathLike[str],
        python: str | os.PathLike[str] | None = None,
        arguments: Sequence[str] = (),
        pack: str | os.PathLike[str] = PACK,
        threads: int | None = None,
    ) -> None:
        self.comfyui, self.pack, self.threads = Path(comfyui).resolve(), Path(pack), threads
        if not (self.comfyui / "main.py").is_file():
            raise ValueError(f"--comfyui: there is no ComfyUI in {self.comfyui}; give its folder.")
        own = (self.comfyui / place for place in _PYTHONS)
        self.python = Path(python) if python else next(filter(Path.is_file, own), Path(sys.executable))
        self.arguments = list(arguments)
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 300, wait: Callable[[], None] = lambda: None) -> str:
        """Start it, or leave it where it runs; return its address.

        Parameters
        ----------
        timeout : float
            Seconds until it must answer.
        wait : callable
            Called while waiting; may raise to give up.

        Raises
        ------
        ConnectionError
            It ended, or did not answer in time; the end of what it said is in the message.
        """
        if self.alive:
            return self.url
        self.stop()
        self._folder = tempfile.TemporaryDirectory(prefix="medtraverse-", ignore_cleanup_errors=True)
        base = Path(self._folder.name)
        for name in _FOLDERS:
            (base / name).mkdir()
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        with open(base / "log.txt", "wb") as log:
            self._process = subprocess.Popen(
                self._command(base, port),
                cwd=self.comfyui,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=os.name != "nt",
                **_bound_to_owner(),
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            wait()
            if not self.alive:
                break
            if _answers(self.url):
                return self.url
            time.sleep(0.2)
        said = (base / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        self.stop()
        raise ConnectionError("\n".join([f"ComfyUI in {self.comfyui} did not start. Its log ends:", *said]))

    def stop(self) -> None:
        """End it, and remove what it wrote."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            if os.name == "nt":
                subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
            else:
                for sign in (signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, sign)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=5)
                        break
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def environment(self) -> dict[str, str]:
        """Return the environment variables that it starts with."""
        variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
        # A path to the pack would hide ComfyUI's own module `nodes` behind the pack's.
        variables.pop("PYTHONPATH", None)
        # glibc gives large blocks back at once and faults every page in again: a third of the time on a CPU.
        variables.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
        variables.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))
        if self.threads is not None:
            variables.setdefault("OMP_NUM_THREADS", str(self.threads))
        return variables

    def _command(self, base: Path, port: int) -> list[str]:
        command = [str(self.python), "main.py", "--listen", "127.0.0.1", "--port", str(port)]
        command += [
            "--disable-auto-launch",
            "--database-url",
            f"sqlite:///{(base / 'comfyui.db').as_posix()}",
        ]
        for name, folder in (("input", "input"), ("output", "output"), ("user", "user"), ("temp", "")):
            command += [f"--{name}-directory", str(base / folder)]
        if not self._has_pack():
            # beside the installation's own custom nodes, without a change in its folder
            (base / "nodes").mkdir()
            (base / "nodes" / "MedTraverse").symlink_to(self.pack, target_is_directory=True)
            paths = base / "paths.yaml"
            paths.write_text(f"medtraverse:\n  custom_nodes: {base / 'nodes'}\n", encoding="utf-8")
            command += ["--extra-model-paths-config", str(paths)]
        return [*command, *self.arguments]

    def _has_pack(self) -> bool:
        if not (self.pack / "nodes" / "extension.py").is_file():
            return True  # the library alone is here: the installation must have the pack
        nodes = self.comfyui / "custom_nodes"
        return any((entry / "nodes" / "nodes_study.py").is_file() for entry in nodes.glob("*"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _bound_to_owner() -> dict[str, Any]:
    """Options of Popen by which Linux ends the process with its owner, even if that is killed."""
    if not sys.platform.startswith("linux"):
        return {}
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    return {"preexec_fn": lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)}


def _answers(url: str) -> bool:
    # A proxy from the environment must not stand between this process and its own child.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"{url}/system_stats", timeout=10).read()
        return True
    except (urllib.error.URLError, OSError):
        return False

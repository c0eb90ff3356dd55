"""A ComfyUI server as a child process, for the demo, the tests and `serve`. Standard library only."""

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]
Process: TypeAlias = subprocess.Popen[bytes]

PACK = Path(__file__).resolve().parent.parent
LINK_NAME = "MedTraverse"
BASE_FOLDERS = ("custom_nodes", "models", "input", "output", "user", "temp")


class SetupError(RuntimeError):
    """Something outside the program is wrong: what happened, and what to do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}\n{remedy}")
        self.what, self.remedy = what, remedy


@dataclass(frozen=True)
class Installation:
    """A ComfyUI folder, the interpreter that runs it, and whether it is somebody's own (then only read)."""

    folder: Path
    python: Path
    foreign: bool = False

    def environment(self) -> dict[str, str]:
        """Environment variables by which `installation` finds it again in a child process."""
        return {
            "MEDTRAVERSE_COMFYUI": str(self.folder),
            "MEDTRAVERSE_COMFYUI_PYTHON": str(self.python),
            "MEDTRAVERSE_COMFYUI_FOREIGN": "1" if self.foreign else "",
        }


def installation() -> Installation:
    """The ComfyUI that run.py chose, else the checkout's own `.comfyui` with the interpreter in use."""
    folder = Path(os.environ.get("MEDTRAVERSE_COMFYUI") or PACK / ".comfyui")
    if not (folder / "main.py").is_file():
        raise SetupError(
            f"There is no ComfyUI in {folder}.",
            "Run `python run.py test` once, or set MEDTRAVERSE_COMFYUI to a ComfyUI folder.",
        )
    return Installation(
        folder,
        Path(os.environ.get("MEDTRAVERSE_COMFYUI_PYTHON") or sys.executable),
        bool(os.environ.get("MEDTRAVERSE_COMFYUI_FOREIGN")),
    )


@contextlib.contextmanager
def start_server(
    comfyui: Installation | None = None,
    base: PathLike | None = None,
    port: int | None = None,
    log_path: PathLike | None = None,
    *,
    own_folders: bool = False,
    cpu: bool | None = None,
    timeout: float = 300,
    arguments: Iterable[str] = (),
) -> Iterator[str]:
    """Run a ComfyUI with the pack in it for the length of a `with` block.

    Parameters
    ----------
    comfyui : Installation, optional
        Default: `installation()`.
    base : path, optional
        Holds this server's custom_nodes (the pack, linked), models, input, output, user and temp folders;
        made if missing. Default: `.comfyui-base` in the checkout.
    port : int, optional
        None or 0: a free one.
    log_path : path, optional
        What the server prints. Default: `server.log` in `base`.
    own_folders : bool
        Leave models and custom_nodes to the installation; only what a server writes goes to `base`.
    cpu : bool, optional
        Compute on the CPU. Default: only where torch sees no GPU.
    timeout : float
        Seconds until the server must answer.
    arguments : sequence of str
        More arguments for ComfyUI's main.py.

    Yields
    ------
    url : str
        For example "http://127.0.0.1:8188".

    Raises
    ------
    SetupError
        Port taken; the server died or did not answer in time, at start or inside the block.
    """
    comfyui = comfyui or installation()
    base = prepare_base(base or PACK / ".comfyui-base")
    log_path = Path(log_path or base / "server.log").resolve()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    port = _usable_port(port)
    url = f"http://127.0.0.1:{port}"
    command = [
        str(comfyui.python),
        "main.py",
        "--listen",
        "127.0.0.1",
        "--port",
        str(port),
        "--disable-auto-launch",
        *_folder_arguments(base, own_folders),
    ]
    if cpu or (cpu is None and not gpu_present(comfyui.python)):
        command.append("--cpu")
    with open(log_path, "wb") as log, _terminated_on_sigterm():
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=comfyui.folder,
            env=_server_environment(comfyui),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            **_OWN_GROUP,
        )
        try:
            _wait_until_up(process, url, log_path, timeout)
            yield url
        except SetupError:
            raise
        except Exception as error:
            # Time for the operating system to tell: a dying server's socket closes before its process ends.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
                raise _died(process, log_path) from error
            raise
        finally:
            stop_tree(process)


def prepare_base(base: PathLike) -> Path:
    """Make ComfyUI's folders under `base`, with the pack in custom_nodes, and return the absolute path."""
    base = Path(base).resolve()
    for name in BASE_FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    link_pack(base / "custom_nodes")
    return base


def link_pack(custom_nodes: PathLike) -> Path:
    """Have this checkout in a custom_nodes folder: an entry that is it already, else a link."""
    custom_nodes = Path(custom_nodes)
    for entry in custom_nodes.iterdir():
        if entry.resolve() == PACK:
            return entry
    link = custom_nodes / LINK_NAME
    if link.exists():
        raise SetupError(
            f"{link} is another copy of the pack, and ComfyUI would load that one.",
            "Move it away, or run the commands from that copy.",
        )
    return link_folder(link, PACK)


def link_folder(link: Path, target: Path) -> Path:
    """Make `link` a symlink to a folder (on Windows a junction); one that leads nowhere is made anew."""
    if os.path.lexists(link):
        if link.exists() and link.resolve() == target:
            return link
        os.unlink(link)  # left by a checkout that has moved
    try:
        if os.name == "nt":  # symlinks need a privilege there, junctions do not
            subprocess.run(
                ["cmd", "/c", "mklink", "/J", str(link), str(target)], check=True, capture_output=True
            )
        else:
            link.symlink_to(target, target_is_directory=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"Cannot link {target} as {link}: {error}.", "Make that folder writable.") from error
    return link


def gpu_present(python: PathLike) -> bool:
    """Whether the torch of this interpreter can compute on a GPU. Costs nothing on a machine without one."""
    if os.environ.get("MEDTRAVERSE_CPU"):
        return False
    driver = (
        shutil.which("nvidia-smi")
        or os.path.exists("/dev/nvidia0")
        or os.path.exists("/dev/kfd")
        or (sys.platform == "darwin" and platform.machine() == "arm64")
    )
    # A machine with a GPU may still have a torch without: ComfyUI started without --cpu would die on it.
    code = (
        "import torch; raise SystemExit(not (torch.cuda.is_available() or torch.backends.mps.is_available()))"
    )
    return bool(driver) and subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0


def log_tail(log_path: PathLike, lines: int = 25) -> str:
    """The last lines of a server's log."""
    return "\n".join(Path(log_path).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def stop_tree(process: Process) -> None:
    """End a server with everything it has started; first kindly, after 10 s by force."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
        process.wait()
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(
            ProcessLookupError, PermissionError
        ):  # macOS says the latter of a group that has ended
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            return


# A group of its own: Ctrl-C reaches this process only, which then ends the server in order.
_OWN_GROUP = (
    {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    if os.name == "nt"
    else {"start_new_session": True}
)


def _folder_arguments(base: Path, own_folders: bool) -> list[str]:
    folders = ["--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
    if own_folders:
        return [
            *folders,
            "--output-directory",
            str(base / "output"),
            "--input-directory",
            str(base / "input"),
            "--temp-directory",
            str(base),
            "--user-directory",
            str(base / "user"),
        ]
    return [*folders, "--base-directory", str(base), "--disable-api-nodes"]


def _server_environment(comfyui: Installation) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # The checkout on the path would hide ComfyUI's own module `nodes` behind the pack's.
    environment.pop("PYTHONPATH", None)
    # glibc gives large blocks back at once and faults every page in again: a third of the time on a CPU.
    environment.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
    environment.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))
    if comfyui.foreign:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return environment


def _usable_port(port: int | None) -> int:
    with socket.socket() as probe:
        if os.name != "nt":  # there it would allow a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except (OSError, OverflowError) as error:
            raise SetupError(
                f"Port {port} cannot be had: {error}.",
                "Stop the program that uses it, or give another: --port N (0 takes a free one).",
            ) from error
        return int(probe.getsockname()[1])


def _wait_until_up(process: Process, url: str, log_path: Path, timeout: float) -> None:
    # A proxy from the environment must not stand between this process and its own child.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _died(process, log_path)
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(url + "/system_stats", timeout=10).read()
            return _check_pack_imported(log_path)
        time.sleep(0.1)
    raise SetupError(
        f"ComfyUI did not answer at {url} within {timeout:.0f} s. Its log ends:\n{log_tail(log_path)}\n",
        f"The whole log: {log_path}",
    )


def _check_pack_imported(log_path: Path) -> None:
    for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines():
        _head, failed, path = line.partition("(IMPORT FAILED):")
        if failed and Path(path.strip()).resolve() == PACK:
            raise SetupError(
                f"ComfyUI could not import the pack. Its log ends:\n{log_tail(log_path, 60)}\n",
                f"The whole log: {log_path}",
            )


def _died(process: Process, log_path: Path) -> SetupError:
    return SetupError(
        f"ComfyUI ended with exit code {process.returncode}. Its log ends:\n{log_tail(log_path)}\n",
        f"The whole log: {log_path}",
    )


@contextlib.contextmanager
def _terminated_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that the server does not outlive its parent."""
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if ours:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

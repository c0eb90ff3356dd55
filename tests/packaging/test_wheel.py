"""The wheel in an environment of its own, where nothing of this checkout is: the library works alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from launcher.environment import venv_program
from medtraverse.domain import load_domains

ROOT = Path(__file__).resolve().parents[2]
UV = [sys.executable, "-m", "uv"]
OFFLINE = re.compile(
    r"error sending request|dns error|failed to fetch|timed out|network connectivity is disabled"
)

# Far part 5 and 10: B rises most in the first two patients, A in the third.
TABLE = """seed,neutral_A,neutral_B,5_A,5_B,10_A,10_B
1,0.1,0.1,0.2,0.9,0.1,0.8
2,0.3,0.1,0.3,0.7,0.4,0.7
3,0.1,0.2,0.8,0.3,0.9,0.2
"""


def run(command, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=environment,
        timeout=250,
        **options,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what git would hand to a stranger, so that no old build/ is in it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py"):
        shutil.copy(ROOT / name, source)
    for name in ("medtraverse", "nodes", "demo", "launcher", "benchmarks", "workflows"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    built = run(
        [*UV, "build", "--offline", "--wheel", "--no-build-isolation", "--python", sys.executable, source]
    )
    assert built.returncode == 0, built.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The interpreter of an environment that holds the wheel and its requirements."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    made = run([*UV, "venv", "--python", sys.executable, folder])
    assert made.returncode == 0, made.stderr
    python = venv_program("python", folder)
    install = [*UV, "pip", "install", "--python", python, "-c", ROOT / "requirements-dev.txt", wheel]
    # What .venv was made of is in uv's cache, where uv made it.
    done = run([*install, "--offline"])
    if done.returncode:
        done = run(install)
    if done.returncode and OFFLINE.search(done.stderr):
        pytest.skip("the package index does not answer")
    assert done.returncode == 0, done.stderr
    return python


def test_the_wheel_holds_the_library_and_all_of_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    library = ROOT / "medtraverse"
    assert sorted(names) == sorted(
        path.relative_to(ROOT).as_posix()
        for path in library.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def test_it_scores_a_table(installed, tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    command = [installed, "-m", "medtraverse", "cfrt", "table.csv", "--target", "B", "--points", "5,10"]
    done = run([*command, "--json"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["successes"], report["patients"]) == (2, 3)
    assert report["failures"] == [{"seed": 3, "leaked": "A"}]
    assert "not for clinical use" in report["notice"].lower()
    assert "B  0.667" in run(command, cwd=tmp_path).stdout


def test_its_data_came_with_it(installed, tmp_path):
    code = (
        "import medtraverse.domain as domain, medtraverse.published as published;"
        "print(sorted(domain.load_domains()), sorted(published.published()), domain.__file__)"
    )
    done = run([installed, "-c", code], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        str(sorted(load_domains())) in done.stdout
        and "'cfrt'" in done.stdout
        and str(ROOT) not in done.stdout
    )


def test_a_command_that_needs_more_says_what(installed, tmp_path):
    (tmp_path / "graph.json").write_text('{"1": {"class_type": "EmptyLatentImage", "inputs": {}}}')
    done = run([installed, "-m", "medtraverse", "run", "graph.json"], cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "medtraverse[standalone]" in done.stderr
    (tmp_path / "films.csv").write_text("file_name,text\na.png,one\n")
    done = run([installed, "-m", "medtraverse", "data", "audit", "films.csv"], cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "medtraverse[train]" in done.stderr


def test_the_readme_names_the_extras_that_there_are():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = project.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = ", table, re.MULTILINE))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"medtraverse\[(\w+)\]", readme)) == extras

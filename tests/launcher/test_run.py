"""run.py, launcher/environment.py and launcher/comfyui.py, mostly on stand-ins: a fake ComfyUI, and
a bare copy of the checkout.
"""

import ast
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from launcher import comfyui, environment
from launcher.comfyui import PACK, Installation, SetupError, link_pack, start_server

posix = pytest.mark.skipif(os.name == "nt", reason="a POSIX shell script or signal")

ANSWERS = """
    import http.server, subprocess, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/die":
                print("last words", flush=True)
                __import__("os")._exit(7)
            self.send_response(200); self.end_headers(); self.wfile.write(repr(sys.argv).encode())
        def log_message(self, *arguments): pass
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("child", child.pid, flush=True)
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def fake(tmp_path):
    """Makes a ComfyUI folder whose main.py is the given code."""

    def make(code):
        folder = tmp_path / "ComfyUI"
        for name in ("comfy", "custom_nodes"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "main.py").write_text(textwrap.dedent(code))
        return Installation(folder, Path(sys.executable), foreign=True)

    return make


@pytest.fixture
def bare(tmp_path):
    """A copy of the checkout with nothing in it but what run.py needs, and no environment."""
    folder = tmp_path / "bare"
    (folder / "launcher").mkdir(parents=True)
    for name in (
        "run.py",
        "pyproject.toml",
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-tools.in",
        "launcher/__init__.py",
        "launcher/check.py",
        "launcher/comfyui.py",
        "launcher/environment.py",
    ):
        shutil.copy(PACK / name, folder / name)
    return folder


def launch(folder, *arguments, **variables):
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("MEDTRAVERSE_", "COMFYUI_"))
    }
    return subprocess.run(
        [sys.executable, "run.py", *arguments],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie still has a number; nobody may be there to reap it.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def ends(pid):
    """Whether a process that was told to end does so; on a busy machine that takes a moment."""
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_an_old_python_can_read_run_py():
    ast.parse((PACK / "run.py").read_text(), feature_version=(3, 4))


def test_an_old_python_is_told_so():
    code = (
        "import sys, runpy; sys.version_info = (3, 8, 0, 'final', 0); runpy.run_path('run.py', "
        "run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACK, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("MedTraverse needs Python 3.10 or later; this is Python 3.8")
    assert "Traceback" not in done.stderr


def test_needs_the_standard_library_only():
    done = subprocess.run(
        [sys.executable, "-S", "run.py", "demo", "--help"], cwd=PACK, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--patients" in done.stdout


def test_the_launcher_imports_the_standard_library_only():
    for path in [PACK / "run.py", *(PACK / "launcher").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module)
            for name in names:
                assert name.split(".")[0] in {"launcher", *sys.stdlib_module_names}, (path, name)


def test_requirements_are_hashed_and_name_no_host():
    text = environment.REQUIREMENTS.read_text()
    assert "://" not in text and "--index-url" not in text
    packages = [line for line in text.splitlines() if line[:1].isalnum()]
    assert len(packages) > 100
    assert all(line.endswith("\\") and "==" in line for line in packages)


def test_no_network_is_told(bare, tmp_path):
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    done = launch(
        bare,
        "demo",
        UV_CACHE_DIR=str(tmp_path / "cache"),
        PIP_NO_CACHE_DIR="1",
        NO_PROXY="",
        no_proxy="",
        **nowhere,
        **{key.lower(): value for key, value in nowhere.items()},
    )
    assert done.returncode == 1
    assert "the Python package index does not answer" in done.stderr
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (bare / ".venv" / "medtraverse-stamp").exists()


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ("error: failed to copy: No space left on device (os error 28)", "the disk is full"),
        (
            "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE",
            "not the one that the requirements name",
        ),
        ("Retrying after connection broken by NewConnectionError", "does not answer"),
        ("error: dns error: failed to lookup address information", "does not answer"),
        ("has no wheels with a matching platform tag", "Could not install the packages (Python"),
    ],
)
def test_an_install_that_fails_is_explained(output, what):
    with pytest.raises(SetupError) as caught:
        environment._check_installed(1, output)
    assert what in caught.value.what and caught.value.remedy


def ready_venv(bare, name, requirements, pytest_script):
    """Make an environment that run.py takes for complete, with a script for pytest."""
    programs = bare / name / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "pytest").write_text("#!/bin/sh\n" + pytest_script)
    (programs / "pytest").chmod(0o755)
    stamp = (
        "import sys; from pathlib import Path; from launcher import environment as e;"
        "Path(sys.argv[1], 'medtraverse-stamp').write_text(e._venv_stamp(map(Path, sys.argv[2:])))"
    )
    subprocess.run([sys.executable, "-c", stamp, name, *requirements], cwd=bare, check=True)


def ready_made(bare, pytest_script):
    """Give a bare copy its environment and a ComfyUI."""
    ready_venv(bare, ".venv", ["requirements-dev.txt"], pytest_script)
    (bare / ".comfyui").mkdir()
    (bare / ".comfyui" / "main.py").touch()
    stamps = (
        "from launcher import environment as e; (e.COMFYUI / "
        "'medtraverse-stamp').write_text(f'{e.COMFYUI_WHEEL} {e.COMFYUI_WHEEL_SHA256}\\n')"
    )
    subprocess.run([sys.executable, "-c", stamps], cwd=bare, check=True)
    for stage in ("library", "nodes", "server"):
        (bare / "tests" / stage).mkdir(parents=True)


@posix
@pytest.mark.parametrize(
    ("failing", "returncode", "ran"),
    [
        ("none", 0, ["tests/library -n 2", "tests/nodes -n 2", "tests/server -n 2 --dist loadfile"]),
        ("tests/nodes", 1, ["tests/library -n 2", "tests/nodes -n 2"]),
        ("tests/library", 1, ["tests/library -n 2"]),
    ],
)
def test_the_library_comes_first_and_a_failure_ends_it(bare, failing, returncode, ran):
    ready_made(bare, f'echo "$@ in $MEDTRAVERSE_COMFYUI" >> ran\n[ "$1" != "{failing}" ]\n')
    done = launch(bare, "test", "-q")
    assert done.returncode == returncode, done.stderr
    assert (bare / "ran").read_text().splitlines() == [f"{stage} -q in {bare}/.comfyui" for stage in ran]


def source_of_comfyui(tmp_path, requirements="einops\n"):
    """Stand in for ComfyUI's repository: one release, v7.8.9; the variables by which git goes there."""
    source = tmp_path / "Comfy-Org" / "ComfyUI"
    for name in ("comfy", "custom_nodes"):
        (source / name).mkdir(parents=True)
        (source / name / "kept").touch()
    (source / "main.py").touch()
    (source / "comfyui_version.py").write_text('__version__ = "7.8.9"\n')
    (source / "requirements.txt").write_text(requirements)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x", "-C", str(source)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"], ["tag", "v7.8.9"]):
        subprocess.run([*git, *command], check=True)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{tmp_path.as_uri()}/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
    }


@posix
def test_a_release_is_taken_by_git_and_tested_in_its_own_environment(bare, tmp_path):
    variables = source_of_comfyui(tmp_path)
    ready_made(bare, "exit 1\n")
    taken = tmp_path / "Comfy-Org" / "ComfyUI" / "requirements.txt"
    ready_venv(
        bare,
        ".venv-7.8.9",
        ["requirements-tools.in", str(taken)],
        'echo "$@ in $MEDTRAVERSE_COMFYUI by $MEDTRAVERSE_COMFYUI_PYTHON" >> ran\n',
    )
    for asked in ("v7.8.9", "7.8.9"):
        done = launch(bare, "--comfyui", asked, "test", "-q", **variables)
        assert done.returncode == 0, done.stderr
    ran = (bare / "ran").read_text().splitlines()
    assert len(ran) == 6
    assert ran[0] == f"tests/library -n 2 -q in {bare}/.comfyui-7.8.9 by {bare}/.venv-7.8.9/bin/python"
    assert done.stdout.count("Taking ComfyUI") == 0


@pytest.mark.parametrize(
    ("asked", "reachable", "told"),
    [
        ("v7.8.8", True, "ComfyUI has no release v7.8.8"),
        ("v7.8.9", False, "https://github.com/Comfy-Org/ComfyUI does not answer git"),
    ],
)
def test_a_release_that_cannot_be_taken_is_told(bare, tmp_path, asked, reachable, told):
    variables = source_of_comfyui(tmp_path)
    if not reachable:
        shutil.rmtree(tmp_path / "Comfy-Org")
    done = launch(bare, "--comfyui", asked, "test", **variables)
    assert done.returncode == 1
    assert told in done.stderr and "Traceback" not in done.stderr
    assert not list(bare.glob(".comfyui*"))


@posix
def test_a_release_without_git_is_told(bare, tmp_path):
    done = launch(bare, "--comfyui", "v7.8.9", "test", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "there is no git here" in done.stderr and "--comfyui" in done.stderr


def test_an_install_shows_a_few_lines(capfd):
    lines = ["Resolved 184 packages in 17ms", "Downloading torch (812.5MiB)", "Downloading tqdm (1.2MiB)"]
    lines += ["Prepared 184 packages in 3.03s", *[f" + package-{n}==1.0" for n in range(184)]]
    returncode, output = environment._call([sys.executable, "-c", f"print(*{lines}, sep='\\n')"])
    assert returncode == 0 and output.splitlines() == lines
    assert capfd.readouterr().out.split("\n") == [
        "  Resolved 184 packages in 17ms",
        "  Downloading torch (812.5MiB)",
        "  Prepared 184 packages in 3.03s",
        "",
    ]


@posix
def test_no_test_anywhere_is_no_success(bare):
    ready_made(bare, "exit 5\n")
    assert launch(bare, "test", "-k", "nothing").returncode == 5


@posix
def test_a_second_call_adds_under_five_seconds(bare):
    ready_made(bare, "exit 0\n")
    started = time.monotonic()
    done = launch(bare, "python", "-c", "print('here')")
    assert done.stdout == "here\n"
    assert time.monotonic() - started < 5


@posix
@pytest.mark.parametrize("failing", [None, "ruff", "lint-imports", "mypy"])
def test_check_runs_every_check_and_fails_if_one_does(bare, tmp_path, failing):
    ready_made(bare, "exit 0\n")
    for name in ("ruff", "lint-imports", "mypy"):
        script = bare / ".venv" / "bin" / name
        script.write_text(
            f"#!/bin/sh\necho {name} says so >> ran\necho {name} says so\nexit {int(name == failing)}\n"
        )
        script.chmod(0o755)
    done = launch(bare, "check", PATH=str(tmp_path))
    assert done.returncode == int(failing is not None), done.stderr
    assert (bare / "ran").read_text().split("\n")[:-1] == [
        f"{name} says so" for name in ("ruff", "ruff", "lint-imports", "mypy")
    ]
    assert ("says so" in done.stdout) == bool(failing)
    assert "tsc: left out, for node is missing; install Node.js" in done.stdout


@posix
def test_demo_passes_its_options_on(bare):
    (bare / "demo").mkdir()
    (bare / "demo" / "__init__.py").touch()
    ready_made(bare, "exit 0\n")
    (bare / "demo" / "whole_method.py").write_text(
        "import os, sys; print(*sys.argv[1:], os.environ['MEDTRAVERSE_COMFYUI'])"
    )
    done = launch(bare, "demo", "--patients", "3", "--seed", "11")
    assert done.stdout.split() == [
        "--out",
        f"{bare}/output/demo",
        "--patients",
        "3",
        "--seed",
        "11",
        f"{bare}/.comfyui",
    ]


def test_the_server_answers_and_all_of_it_ends(fake, tmp_path):
    installation = fake(ANSWERS)
    with start_server(installation, base=tmp_path / "base", log_path=tmp_path / "log") as url:
        arguments = urllib.request.urlopen(url + "/").read().decode()
    assert str(tmp_path / "base") in arguments and "--disable-auto-launch" in arguments
    assert {path.name for path in (tmp_path / "base").iterdir()} >= set(comfyui.BASE_FOLDERS)
    grandchild = int((tmp_path / "log").read_text().split()[1])
    if os.name != "nt":
        assert ends(grandchild)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url + "/", timeout=5)


def test_a_taken_port_is_told(fake, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SetupError, match="Port .* cannot be had(.|\n)*--port"):
            with start_server(fake(ANSWERS), base=tmp_path / "base", port=taken.getsockname()[1]):
                pass


def test_a_server_that_dies_at_start_shows_its_log(fake, tmp_path):
    installation = fake("raise SystemExit('no such driver')")
    with pytest.raises(SetupError, match="exit code 1(.|\n)*no such driver(.|\n)*server.log"):
        with start_server(installation, base=tmp_path / "base"):
            pass


def test_a_server_that_dies_later_shows_its_log(fake, tmp_path):
    with pytest.raises(SetupError, match="exit code 7(.|\n)*last words"):
        with start_server(fake(ANSWERS), base=tmp_path / "base") as url:
            urllib.request.urlopen(url + "/die", timeout=10)


def test_a_server_that_never_answers_is_given_up(fake, tmp_path):
    installation = fake("import time; print('thinking', flush=True); time.sleep(600)")
    started = time.monotonic()
    with pytest.raises(SetupError, match="did not answer(.|\n)*thinking"):
        with start_server(installation, base=tmp_path / "base", timeout=1.5):
            pass
    assert time.monotonic() - started < 15


def test_a_pack_that_comfyui_cannot_import_is_told(fake, tmp_path):
    code = (
        f"print('ModuleNotFoundError: skl')\nprint('   0.1 seconds (IMPORT FAILED): {PACK.as_posix()}', "
        "flush=True)\n"
    )
    with pytest.raises(SetupError, match="could not import the pack(.|\n)*skl"):
        with start_server(fake(code + textwrap.dedent(ANSWERS)), base=tmp_path / "base"):
            pass


@posix
def test_a_terminated_run_leaves_no_server(fake, tmp_path):
    installation = fake(ANSWERS)
    log = tmp_path / "log"
    code = f"""if True:
        import time
        from pathlib import Path
        from launcher.comfyui import *
        comfyui = Installation(Path({str(installation.folder)!r}), Path({sys.executable!r}))
        with start_server(comfyui, base={str(tmp_path / "base")!r}, log_path={str(log)!r}):
            print("up", flush=True)
            time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=PACK, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert ends(int(log.read_text().split()[1]))


def test_the_pack_is_linked_once(tmp_path):
    link = link_pack(tmp_path)
    assert link.resolve() == PACK and link.name == "MedTraverse"
    assert link_pack(tmp_path) == link
    assert list(tmp_path.iterdir()) == [link]


def test_a_link_under_another_name_will_do(tmp_path):
    link_pack(tmp_path).rename(tmp_path / "medtraverse-clone")
    assert link_pack(tmp_path).name == "medtraverse-clone"
    assert len(list(tmp_path.iterdir())) == 1


@posix
def test_a_link_left_by_a_moved_checkout_is_renewed(tmp_path):
    (tmp_path / "MedTraverse").symlink_to(tmp_path / "gone")
    assert link_pack(tmp_path).resolve() == PACK


def test_another_copy_of_the_pack_is_left_alone(tmp_path):
    (tmp_path / "MedTraverse").mkdir()
    with pytest.raises(SetupError, match="another copy"):
        link_pack(tmp_path)
    assert not (tmp_path / "MedTraverse").is_symlink()


def test_an_existing_comfyui_gets_the_link_and_nothing_else(fake, monkeypatch):
    folder = fake("").folder
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    before = set(folder.rglob("*"))
    found = environment.existing_comfyui(folder)
    assert (found.folder, found.python, found.foreign) == (folder, Path(sys.executable), True)
    added = {
        path for path in folder.rglob("*") if path not in before and "MedTraverse" not in path.parent.parts
    }
    assert added == {folder / "custom_nodes" / "MedTraverse"}


@posix
def test_its_own_interpreter_is_found_and_asked_for_what_the_pack_needs(fake, monkeypatch):
    folder = fake("").folder
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    with pytest.raises(SetupError, match="venv/bin/python(.|\n)*torch(.|\n)*COMFYUI_PYTHON"):
        environment.existing_comfyui(folder)
    assert list((folder / "custom_nodes").iterdir()) == []


def test_a_folder_that_is_no_comfyui_is_told(tmp_path):
    with pytest.raises(SetupError, match="not a ComfyUI folder: it has no main.py(.|\n)*COMFYUI_PATH"):
        environment.existing_comfyui(tmp_path)

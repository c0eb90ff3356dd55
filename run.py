#!/usr/bin/env python3
"""One command from a bare Python to a running MedTraverse:

  python run.py demo        the whole method on a real ComfyUI; pictures, video and report in output/demo
  python run.py test        the tests; more arguments go to pytest
  python run.py check       style, types and imports of the code; what .ci/run runs before the tests
  python run.py serve       ComfyUI with the pack, for the browser; more arguments go to ComfyUI
  python run.py python ...  the environment's own interpreter

The first call makes .venv and .comfyui here. To use a ComfyUI that you have:

  python run.py --comfyui PATH demo      or set COMFYUI_PATH
  python run.py --comfyui v0.33.0 test   that release of ComfyUI, taken by git
"""

from __future__ import print_function

import sys

# Nothing above or in this file may need a newer syntax: an old Python must get as far as this message.
if sys.version_info < (3, 10):
    sys.exit(
        "MedTraverse needs Python 3.10 or later; this is Python {0}.{1} ({2}).\n"
        "Install a newer one and call it by its name, for example: python3.12 run.py demo".format(
            sys.version_info[0], sys.version_info[1], sys.executable
        )
    )

import argparse
import os
import re
import signal
import socket
import subprocess
import time
import webbrowser
from urllib.parse import urlsplit

from launcher import environment
from launcher.check import check as run_checks
from launcher.comfyui import PACK, SetupError, start_server

# What is tested, and how it is dealt out to processes. The tests of a server and of its page stay with their
# file, whose runs and tabs they share.
STAGES = {
    "tests/library": ["-n", "2"],
    "tests/demo": ["-n", "2"],
    "tests/nodes": ["-n", "2"],
    "tests/server": ["-n", "2", "--dist", "loadfile"],
    "tests/web": ["-n", "2", "--dist", "loadfile"],
    "tests/launcher": [],
    "tests/packaging": [],
}
NO_TESTS_COLLECTED = 5


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--comfyui",
        metavar="PATH|vX.Y.Z",
        default=os.environ.get("COMFYUI_PATH") or None,
        help="a ComfyUI to use instead of a fetched one, in which nothing is changed but a link to the pack; "
        "or a release of ComfyUI to take by git",
    )
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU even where there is a GPU")
    parser.add_argument("command", choices=("demo", "test", "check", "serve", "python"))
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="arguments of the command")
    options = parser.parse_args(arguments)
    if options.command != "python":
        # Behind the command as well as before it; what follows `python` is the interpreter's alone.
        parser = argparse.ArgumentParser(prog="run.py " + options.command, add_help=False, allow_abbrev=False)
        parser.add_argument("--comfyui", default=options.comfyui)
        parser.add_argument("--cpu", action="store_true", default=options.cpu)
        behind, options.rest = parser.parse_known_args(options.rest)
        options.comfyui, options.cpu = behind.comfyui, behind.cpu
    if options.cpu:
        os.environ["MEDTRAVERSE_CPU"] = "1"
    return {"demo": demo, "test": test, "check": check, "serve": serve, "python": python}[options.command](
        options.comfyui, options.rest
    )


def demo(comfyui, arguments):
    parser = argparse.ArgumentParser(
        prog="run.py demo", description="Traverse, join, score and plot both demo domains."
    )
    parser.add_argument(
        "--out", default="output/demo", help="where the pictures and report.json go (default: %(default)s)"
    )
    parser.add_argument("--patients", type=int, default=8, help="patients per domain (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="seed of the first patient")
    options, rest = parser.parse_known_args(arguments)
    chosen = choose(comfyui)
    command = [
        str(chosen.python),
        "-m",
        "demo.whole_method",
        "--out",
        os.path.abspath(options.out),
        "--patients",
        str(options.patients),
    ]
    if options.seed is not None:
        command += ["--seed", str(options.seed)]
    return call(command + rest, chosen)


def test(comfyui, arguments):
    chosen = choose(comfyui)
    # With that ComfyUI's requirements, for tests/nodes imports it.
    venv = environment.make_venv(chosen.folder if comfyui else None).parent.parent
    # The script, not `python -m pytest`: that puts this folder first on the path, where `nodes` hides core's.
    pytest = str(environment.venv_program("pytest", venv))
    if any(os.path.exists(os.path.join(str(PACK), argument.split("::")[0])) for argument in arguments):
        return call([pytest] + arguments, chosen)
    # Processes of its own for each stage, so that the library is tested without ComfyUI anywhere near.
    ran = False
    for stage, processes in STAGES.items():
        if (PACK / stage).exists():
            print("\n{0}:".format(stage), flush=True)
            returncode = call([pytest, stage] + processes + arguments, chosen)
            if returncode not in (0, NO_TESTS_COLLECTED):
                return returncode
            ran = ran or returncode == 0
    return 0 if ran else NO_TESTS_COLLECTED


def check(comfyui, arguments):
    argparse.ArgumentParser(
        prog="run.py check", description="ruff, mypy, import-linter and tsc over the whole checkout."
    ).parse_args(arguments)
    environment.make_venv()
    return 1 if run_checks() else 0


def serve(comfyui, arguments):
    parser = argparse.ArgumentParser(prog="run.py serve", description="ComfyUI with the pack, until Ctrl-C.")
    parser.add_argument("--port", type=int, default=8188, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    options, rest = parser.parse_known_args(arguments)
    chosen = choose(comfyui)
    log = PACK / ".comfyui-base" / "server.log"
    print("Starting ComfyUI.", flush=True)
    with start_server(
        chosen, port=options.port, log_path=log, own_folders=chosen.foreign, arguments=rest
    ) as url:
        print("ComfyUI is at {0} (log: {1}). Ctrl-C ends it.".format(url, log), flush=True)
        desktop = (
            os.name == "nt"
            or sys.platform == "darwin"
            or os.environ.get("DISPLAY")
            or os.environ.get("WAYLAND_DISPLAY")
        )
        if desktop and not options.no_browser:
            webbrowser.open(url)
        while True:
            time.sleep(2)
            # Refused once the server has died: start_server then says so with its log.
            address = urlsplit(url)
            socket.create_connection((address.hostname, address.port or 80), timeout=60).close()


def python(comfyui, arguments):
    chosen = choose(comfyui)
    interpreter = environment.make_venv(chosen.folder if comfyui else None)
    return call([str(interpreter)] + arguments, chosen, os.getcwd())


def choose(comfyui):
    if comfyui and re.match(r"v?\d+\.\d+\.\d+$", comfyui) and not os.path.exists(comfyui):
        return environment.released_comfyui(comfyui)
    if comfyui:
        return environment.existing_comfyui(comfyui)
    return environment.fetch_comfyui(environment.make_venv())


def call(command, chosen, folder=str(PACK)):
    variables = dict(os.environ)
    variables.update(chosen.environment())
    process = subprocess.Popen(command, cwd=folder, env=variables)
    signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Ctrl-C went to the child too, which needs time to end the server: subprocess.call would kill it.
            pass


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit("\nrun.py: {0}".format(error))
    except OSError as error:
        sys.exit(
            "\nrun.py: {0}\nCheck that the disk is not full and that {1} is writable; run it again.".format(
                error, PACK
            )
        )
    except KeyboardInterrupt:
        sys.exit(130)

"""For all tests: one live ComfyUI a process, for those that ask for it. Only tests/nodes
has ComfyUI on its own path.
"""

import os
import signal

import pytest

from launcher.comfyui import log_tail, start_server
from medtraverse.remote.client import Client

# The tests' arrays are small: more threads cost more than they bring, most of all beside a running server.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts what runs in its background with Ctrl-C ignored, and so would be every command that
# the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The server's own folders: `base / "input"`, `base / "models"`, ... ."""
    return tmp_path_factory.mktemp("comfyui")


@pytest.fixture(scope="session")
def server(base):
    with start_server(base=base, log_path=base / "server.log") as url:
        yield url


@pytest.fixture(scope="session")
def client(server):
    return Client(server)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Put the end of the server's log under a failure: the node's own traceback is there."""
    report = (yield).get_result()
    base = getattr(item, "funcargs", {}).get("base")
    if report.failed and base and (base / "server.log").is_file():
        report.sections.append(("ComfyUI's log", log_tail(base / "server.log", 60)))

"""One live ComfyUI for all tests of this folder, a client of it, and a builder of small graphs."""
import pytest

from demo.comfyui import log_tail, start_server
from medtraverse.client import Client


class Graph(dict):
    """A graph in API format, built node by node.

    >>> graph = Graph()
    >>> image = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0)
    >>> graph.add("PreviewImage", images=image[0])      # an added node's outputs are its items
    """

    def add(self, class_type, **inputs):
        node = Node(len(self) + 1)
        self[node.id] = {"class_type": class_type, "inputs": inputs}
        return node


class Node:
    """What `Graph.add` returns: `id`, and `node[i]` for output i as a link."""

    def __init__(self, number):
        self.id = str(number)

    def __getitem__(self, output):
        return [self.id, output]


@pytest.fixture
def graph():
    return Graph()


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

"""Every bundled workflow in the real frontend.

It is found in the Templates browser, opens whole and laid out, and is the same graph as its API file.
"""

import json
import urllib.request

import pytest

from launcher.comfyui import PACK
from workflows.build import files
from workflows.graphs import names

FOLDER = PACK / "workflows"
BOXES = """app.graph._nodes.map(node => ({title: node.title,
  box: [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]]}))"""
GROUPS = """app.graph._groups.map(group => ({title: group.title,
  box: [group.pos[0], group.pos[1], group.pos[0] + group.size[0], group.pos[1] + group.size[1]]}))"""


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def within(inner, outer):
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def fetch(url):
    """Not by the client: it runs an event loop, and in this thread the browser has one."""
    with urllib.request.urlopen(url) as answer:
        return answer.read()


def test_the_files_are_what_the_graphs_say(server):
    texts = files(json.loads(fetch(f"{server}/object_info")))
    assert set(texts) == {*FOLDER.glob("*.json"), *(FOLDER / "api").glob("*.json")}
    stale = [path.name for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"run `python -m workflows.build`: {stale}"


def test_the_templates_browser_lists_every_workflow_with_its_picture(server):
    assert sorted(json.loads(fetch(f"{server}/workflow_templates"))["MedTraverse"]) == sorted(names())
    for name in names():
        assert fetch(f"{server}/api/workflow_templates/MedTraverse/{name}.jpg")[:2] == b"\xff\xd8", name


@pytest.mark.parametrize("name", names())
def test_it_opens_whole_and_is_its_api_file(tab, bare_errors, name):
    tab.template(name)
    nodes, groups = tab.evaluate(BOXES), tab.evaluate(GROUPS)
    wanted = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert [node["title"] for node in nodes] == [node["title"] for node in wanted["nodes"]]
    assert (
        tab.evaluate(
            """app.graph._nodes.filter(node => node.has_errors || !LiteGraph.registered_node_types[node.type])
              .map(node => node.type)"""
        )
        == []
    )
    assert tab.evaluate("document.querySelectorAll('.p-dialog').length") == 0
    for number, node in enumerate(nodes):
        for other in nodes[number + 1 :]:
            assert not overlap(node["box"], other["box"]), f"{node['title']} lies over {other['title']}"
        assert sum(within(node["box"], group["box"]) for group in groups) == 1, (
            f"{node['title']} is not in one group"
        )
    for number, group in enumerate(groups):
        assert not any(overlap(group["box"], other["box"]) for other in groups[number + 1 :])
    prompt = tab.evaluate("app.graphToPrompt().then(prompt => prompt.output)")
    assert prompt == json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    assert set(tab.errors) <= bare_errors

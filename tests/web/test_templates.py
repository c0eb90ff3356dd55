"""Every bundled workflow in the real frontend.

Found in the Templates browser, opened whole, laid out in both renderers, and the same graph as its API file.
"""

import json
import urllib.request

import pytest

from launcher.comfyui import PACK
from medtraverse.remote.node_inputs import default_value, input_specs, is_widget, option_inputs
from workflows.build import files
from workflows.graphs import names

FOLDER = PACK / "workflows"
# Where the renderer is Vue's, a node is as tall as its element, whatever its size says.
BOXES = """app.graph._nodes.map(node => {
  const element = document.querySelector(`[data-node-id="${node.id}"]`)
  const [left, top] = node.pos, [width, height] = node.size
  const tall = element ? element.getBoundingClientRect().height / app.canvas.ds.scale - 30 : height
  return {title: node.title, box: [left, top - 30, left + width, top + Math.max(height, tall)]}
})"""
GROUPS = """app.graph._groups.map(({title, pos, size}) =>
  ({title, box: [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]]}))"""
UNKNOWN = """app.graph._nodes
  .filter(node => node.has_errors || !LiteGraph.registered_node_types[node.type])
  .map(node => node.type)"""
VUE = "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
# All of the workflow in sight: an element out of sight has no size.
FIT = """() => {
  const right = Math.max(...app.graph._groups.map(group => group.pos[0] + group.size[0]))
  const bottom = Math.max(...app.graph._groups.map(group => group.pos[1] + group.size[1]))
  const {clientWidth, clientHeight} = app.canvas.canvas
  app.canvas.ds.scale = Math.min(clientWidth / right, clientHeight / bottom)
  app.canvas.ds.offset = [0, 0]
  app.canvas.setDirty(true, true)
}"""
DRAWN = 'app.graph._nodes.every(node => document.querySelector(`[data-node-id="${node.id}"]`)?.offsetHeight)'


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
    shipped = (FOLDER, FOLDER / "api", PACK / "subgraphs")
    assert set(texts) == {path for folder in shipped for path in folder.glob("*.json")}
    stale = [path.name for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"run `python -m workflows.build`: {stale}"


def test_the_templates_browser_lists_every_workflow_with_its_picture(server):
    assert sorted(json.loads(fetch(f"{server}/workflow_templates"))["MedTraverse"]) == sorted(names())
    for name in names():
        assert fetch(f"{server}/api/workflow_templates/MedTraverse/{name}.jpg")[:2] == b"\xff\xd8", name


def laid_out(tab):
    """Nodes each in one group, and nothing over anything else."""
    nodes, groups = tab.evaluate(BOXES), tab.evaluate(GROUPS)
    for number, node in enumerate(nodes):
        for other in nodes[number + 1 :]:
            assert not overlap(node["box"], other["box"]), f"{node['title']} lies over {other['title']}"
        assert sum(within(node["box"], group["box"]) for group in groups) == 1, (
            f"{node['title']} is not in one group"
        )
    for number, group in enumerate(groups):
        assert not any(overlap(group["box"], other["box"]) for other in groups[number + 1 :])


def completed(graph, object_info):
    """The graph with what the frontend adds for this server: defaults of core's optional inputs."""
    for node in graph.values():
        schema, inputs = object_info[node["class_type"]], node["inputs"]
        if schema["python_module"].startswith("custom_nodes."):
            continue
        specs = list(input_specs(schema).items())
        while specs:
            name, spec = specs.pop(0)
            if is_widget(name, spec):
                inputs.setdefault(name, default_value(spec))
                specs += option_inputs(name, spec, inputs[name]).items()
    return graph


@pytest.mark.parametrize("name", names())
def test_it_opens_whole_and_is_its_api_file(tab, server, bare_errors, name):
    tab.template(name)
    wanted = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert tab.evaluate("app.graph._nodes.map(node => node.title)") == [
        node["title"] for node in wanted["nodes"]
    ]
    assert tab.evaluate(UNKNOWN) == []
    assert tab.evaluate("document.querySelectorAll('.p-dialog').length") == 0
    prompt = tab.evaluate("app.graphToPrompt().then(prompt => prompt.output)")
    api = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    assert prompt == completed(api, json.loads(fetch(f"{server}/object_info")))
    laid_out(tab)
    try:
        tab.page.evaluate(VUE, True)
        tab.evaluate(FIT)
        tab.page.wait_for_function(DRAWN, timeout=30_000)
        tab.page.wait_for_timeout(500)
        laid_out(tab)
    finally:
        tab.page.evaluate(VUE, False)
    assert set(tab.errors) <= bare_errors

"""Subgraph blueprints: listed by the server, put on the canvas by the node search, joined, and run."""

import json
import urllib.request

from launcher.comfyui import PACK
from medtraverse.remote.api_format import to_api
from workflows.blueprints import BLUEPRINTS

TRAVERSE, JUDGE = BLUEPRINTS
BOX = "title => app.graph._nodes.find(node => node.title === title)"
# The checkpoint beside the two boxes, all joined by the names of inputs and outputs.
JOIN = """([traverse, judge]) => {
  const box = title => app.graph._nodes.find(node => node.title === title)
  const loader = LiteGraph.createNode('MedicalCheckpointLoader')
  loader.pos = [-500, 0]
  app.graph.add(loader)
  const join = (from, to, names) => {
    for (const name of names) from.connect(from.findOutputSlot(name), to, to.findInputSlot(name))
  }
  for (const widget of loader.widgets) {
    if (widget.name === 'unet') widget.value = 'MedTraverse demo CheXpert (phantoms)'
    if (widget.name === 'domain') widget.value = 'CheXpert'
  }
  join(loader, box(traverse), ['model', 'clip', 'vae', 'domain'])
  join(box(traverse), box(judge), ['trajectory', 'images'])
  const values = {steps: 8, swap_steps: '5,2', patients: 2, far_points: '2'}
  for (const widget of [...box(traverse).widgets, ...box(judge).widgets]) {
    const name = widget.name.replace(/^\\d+: /, '') // older frontends put the inner node's number before it
    if (name in values) widget.value = values[name]
  }
}"""
ENDED = """() => {
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
    app.api.addEventListener(kind, ({ detail }) => { window.ended = detail })
}"""


def fetch(url):
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def test_the_server_lists_them_whole(server):
    listed = {
        entry["name"]: fetch(f"{server}/global_subgraphs/{key}")
        for key, entry in fetch(f"{server}/global_subgraphs").items()
        if entry["info"]["node_pack"] == "custom_nodes.MedTraverse"
    }
    assert set(listed) == set(BLUEPRINTS)
    for name, entry in listed.items():
        text = (PACK / "subgraphs" / f"{name}.json").read_bytes()
        assert entry["data"].encode() == text and text.isascii()


def put(tab, name, place):
    """Find a blueprint by the node search and put it on the canvas."""
    search = tab.page.locator("input:focus")
    for _ in range(10):
        tab.page.wait_for_timeout(1000)  # soon after a click, a double click is one click more
        if not search.count():
            tab.page.mouse.dblclick(*place)
        tab.page.wait_for_timeout(
            1500
        )  # on a busy machine two clicks may come too late to be one double click
        if search.count():
            break
    search.fill(name.split(" (")[0], timeout=30_000)
    tab.page.wait_for_timeout(2000)  # the list follows the words late
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_function(f"name => ({BOX})(name)", arg=name, timeout=30_000)
    tab.page.wait_for_timeout(500)
    # Newer frontends let a new node follow the mouse until a click.
    tab.page.mouse.click(*place)


def test_two_boxes_are_a_graph_that_runs(tab, server, bare_errors):
    tab.open()
    tab.page.wait_for_timeout(2500)  # the frontend's own first workflow comes late
    tab.evaluate("app.graph.clear()")
    put(tab, TRAVERSE, (450, 350))
    put(tab, JUDGE, (1200, 350))
    tab.page.evaluate(JOIN, [TRAVERSE, JUDGE])
    tab.evaluate(ENDED)
    prompt = tab.evaluate("app.graphToPrompt().then(prompt => prompt.output)")
    (sampler,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "PromptSwapKSampler")
    assert (sampler["patients"], sampler["steps"], sampler["swap_steps"]) == (2, 8, "5,2")
    assert to_api(tab.evaluate("app.graph.serialize()"), fetch(f"{server}/object_info")) == prompt
    tab.evaluate("app.queuePrompt(0)")
    tab.page.wait_for_function("window.ended", timeout=200_000)
    assert tab.evaluate("window.ended.exception_message ?? null") is None
    outputs = fetch(f"{server}/history?max_items=1").popitem()[1]["outputs"]
    (report,) = (json.loads(value["medtraverse"][0]) for value in outputs.values() if "medtraverse" in value)
    assert {item["patients"] for item in report["attributes"].values()} == {2}
    assert any(
        file["filename"].startswith("cfrt") for value in outputs.values() for file in value.get("images", ())
    )
    assert set(tab.errors) <= bare_errors

"""The widgets on the canvas in both renderers: a run by clicking Run, then looked at as a user does."""

import itertools
import json
import os
import re
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

REFERENCE = Path(__file__).with_name("reference")

SEEDS = itertools.count(1600, 10)
# What the server has kept is not run again, and shows nothing on a page opened later: hence the seed.
FEWER = """seed => { for (const node of app.graph._nodes) for (const widget of node.widgets ?? []) {
  const sampler = node.type === 'PromptSwapKSampler'
  if (sampler && widget.name === 'steps') widget.value = 18
  if (sampler && widget.name === 'patients') widget.value = Math.min(widget.value, 2)
  if (sampler && widget.name === 'seed') widget.value = seed
  if (widget.name === 'swap_steps') widget.value = '15,10,5'
} }"""
SET = """app.graphToPrompt().then(prompt => Object.values(prompt.output).filter(node =>
  node.class_type === 'PromptSwapKSampler').map(({ inputs }) =>
    [inputs.steps, inputs.seed, inputs.swap_steps]))"""
CENTRE = """id => { const node = app.graph._nodes.find(node => node.type === id); app.canvas.ds.scale = 1
  app.canvas.ds.offset = [-node.pos[0] + 300, -node.pos[1] + 100]; app.canvas.setDirty(true, true) }"""
PIXELS = "canvas => canvas.toDataURL()"
STATE = "id => app.graph._nodes.find(node => node.type === id).properties.medtraverse_view?.state"
PROMPT = "app.graphToPrompt().then(prompt => prompt.output)"


def setting(server, **values):
    body = json.dumps({name.replace("_", "."): value for name, value in values.items()}).encode()
    urllib.request.urlopen(
        urllib.request.Request(f"{server}/settings", body, {"Content-Type": "application/json"})
    ).close()


@pytest.fixture(params=["legacy canvas", "Nodes 2.0"])
def canvas(request, tab, server):
    """A tab in one of the frontend's renderers."""
    setting(server, Comfy_VueNodes_Enabled=request.param == "Nodes 2.0", Comfy_Workflow_Persist=True)
    tab.seed, tab.renderer = next(SEEDS), request.param.replace(" ", "-").lower()
    # The frontend logs this by itself when a template opens, with the pack's scripts blocked too.
    tab.own_errors = lambda: {error for error in tab.errors if "reading 'id')\n    at onChange" not in error}
    yield tab
    setting(server, Comfy_VueNodes_Enabled=False, Comfy_Workflow_Persist=False)


def view(tab, node):
    return tab.page.locator(f".mt-view[data-mt-node={node}]").first


def opened(tab, name):
    """The tab with a workflow of fewer steps, patients and λ."""
    tab.template(name)
    # Nodes 2.0 writes its own values into the widgets for a while, on a busy machine for seconds.
    kept = 0
    for _ in range(30):
        tab.page.evaluate(FEWER, tab.seed)
        tab.page.wait_for_timeout(900)
        kept = kept + 1 if tab.evaluate(SET) == [[18, tab.seed, "15,10,5"]] else 0
        if kept == 2:
            return tab
    raise AssertionError(f"the widgets keep other values: {tab.evaluate(SET)}")


def run(tab, node, part):
    """Click Run and wait for a node's view; return it, in the middle of the window."""
    tab.page.get_by_role("button", name=re.compile("^Run")).first.click()
    tab.page.wait_for_function(
        f"document.querySelector('.mt-view[data-mt-node={node}] .{part}')", timeout=240_000
    )
    tab.page.evaluate(CENTRE, node)
    tab.page.wait_for_timeout(800)
    return view(tab, node)


def settled(tab, picture):
    """The picture's pixels once two looks agree."""
    before = None
    for _ in range(40):
        after = picture.evaluate(PIXELS)
        if after == before:
            return after
        before = after
        tab.page.wait_for_timeout(150)
    raise AssertionError("the picture does not come to rest")


def keep(tab, shown, name):
    """Write what a person should compare with, where MEDTRAVERSE_SCREENSHOTS is set."""
    if os.environ.get("MEDTRAVERSE_SCREENSHOTS"):
        tab.page.wait_for_timeout(500)
        shown.screenshot(path=REFERENCE / f"{name}-{tab.renderer}.jpg", type="jpeg", quality=85)


def press(tab, viewer, key):
    viewer.locator(".mt-viewer").focus()
    tab.page.keyboard.press(key)


def test_a_trajectory_is_moved_through(canvas, bare_errors):
    tab = opened(canvas, "00-start-here")
    before = tab.evaluate(PROMPT)
    viewer = run(tab, "TrajectoryGrid", "mt-viewer")
    picture, slider = viewer.locator("canvas"), viewer.locator("input[type=range]")
    assert "not for clinical use" in viewer.inner_text().lower()
    # The node grows for the figure below, and the canvas with it.
    tab.page.wait_for_timeout(2000)
    at_the_end = settled(tab, picture)
    assert viewer.locator("output").inner_text() == "λ = 5"

    box = slider.bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2, steps=5)
    tab.page.mouse.up()
    assert viewer.locator("output").inner_text() == "neutral"
    at_neutral = settled(tab, picture)
    assert at_neutral != at_the_end

    press(tab, viewer, "ArrowRight")
    assert viewer.locator("output").inner_text() == "λ = 15"
    press(tab, viewer, "End")
    assert settled(tab, picture) == at_the_end
    press(tab, viewer, "d")
    assert (
        viewer.get_by_role("button", name=re.compile("^Difference")).get_attribute("aria-pressed") == "true"
    )
    assert settled(tab, picture) != at_the_end
    press(tab, viewer, "d")
    press(tab, viewer, "p")
    press(tab, viewer, "Home")
    press(tab, viewer, "p")
    assert len(tab.page.evaluate(STATE, "TrajectoryGrid")["pins"]) == 2
    press(tab, viewer, "End")
    keep(tab, viewer, "viewer")
    with tab.page.expect_download() as download:
        viewer.get_by_role("button", name="Download strip").click()
    assert download.value.suggested_filename == f"trajectory-seed-{tab.seed}.png"

    viewer.get_by_role("button", name=re.compile("^Play")).click()
    tab.page.wait_for_function(
        "document.querySelector('.mt-view[data-mt-node=TrajectoryGrid] output').textContent === 'λ = 10'",
        timeout=15_000,
    )
    viewer.get_by_role("button", name=re.compile("^Pause")).click()
    assert tab.evaluate(PROMPT) == before
    assert tab.own_errors() <= bare_errors

    state = tab.page.evaluate(STATE, "TrajectoryGrid")
    tab.page.wait_for_timeout(1500)
    tab.page.reload()
    tab.page.wait_for_function(
        "document.querySelector('.mt-view[data-mt-node=TrajectoryGrid] .mt-viewer')", timeout=60_000
    )
    assert tab.page.evaluate(STATE, "TrajectoryGrid") == state
    assert view(tab, "TrajectoryGrid").locator("output").inner_text() != ""


UNDO = "app.extensionManager.workflow.activeWorkflow.changeTracker.undo()"
GRIDS = "app.graph._nodes.filter(node => node.type === 'TrajectoryGrid')"


def on_canvas(tab, *keys):
    """Press keys as somebody does who has clicked the first grid's title."""
    tab.evaluate(f"document.activeElement?.blur(); app.canvas.selectNode({GRIDS}[0])")
    for key in keys:
        tab.page.keyboard.press(key)
        tab.page.wait_for_timeout(800)


def grids(tab, count):
    """What the grids' properties keep, once there are that many."""
    tab.page.wait_for_function(f"{GRIDS}.length === {count}", timeout=10_000)
    tab.page.wait_for_timeout(800)
    return tab.evaluate(f"{GRIDS}.map(node => node.properties.medtraverse_view)")


def test_a_view_survives_copy_paste_and_undo(canvas, bare_errors):
    tab = opened(canvas, "00-start-here")
    viewer = run(tab, "TrajectoryGrid", "mt-viewer")
    press(tab, viewer, "Home")
    on_canvas(tab, "Control+c", "Control+v")
    kept = grids(tab, 2)
    assert kept[0]["file"] == kept[1]["file"] and [one["state"]["point"] for one in kept] == [0, 0]
    press(tab, viewer, "End")
    assert [one["state"]["point"] for one in grids(tab, 2)] == [3, 0]
    # The slider's own step, then the paste; between them the frontend may count changes of size. By its
    # tracker, not by keys: after a key it looks for changes while it still restores, and counts those.
    seen = []
    while len(seen) < 8 and (not seen or len(seen[-1]) > 1):
        tab.evaluate(UNDO)
        tab.page.wait_for_timeout(800)
        seen.append(tab.evaluate(f"{GRIDS}.map(node => node.properties.medtraverse_view?.state.point)"))
    assert [0, 0] in seen and seen[-1] == [0], seen
    tab.page.evaluate(CENTRE, "TrajectoryGrid")
    viewer = view(tab, "TrajectoryGrid")
    viewer.locator(".mt-viewer").wait_for()
    assert viewer.locator("output").inner_text() == "neutral"
    assert tab.own_errors() <= bare_errors


def test_a_view_comes_back_with_its_collapsed_node_and_ends_with_it(canvas, bare_errors):
    tab = opened(canvas, "00-start-here")
    viewer = run(tab, "TrajectoryGrid", "mt-viewer")
    tab.evaluate(f"() => {{ const [node] = {GRIDS}; node.collapse(); node.collapse() }}")
    tab.page.wait_for_timeout(800)
    assert viewer.locator("canvas").is_visible()
    tab.evaluate(f"() => app.graph.remove({GRIDS}[0])")
    tab.page.wait_for_function(
        "!document.querySelector('.mt-view[data-mt-node=TrajectoryGrid] .mt-viewer')", timeout=10_000
    )
    assert tab.own_errors() <= bare_errors


def test_a_view_inside_a_subgraph_shows_its_run(canvas, bare_errors):
    tab = opened(canvas, "00-start-here")
    tab.evaluate(
        """() => { app.graph.convertToSubgraph(new Set(app.graph._nodes.filter(node =>
          ['VAEDecode', 'TrajectoryGrid'].includes(node.type)))) }"""
    )
    tab.page.get_by_role("button", name=re.compile("^Run")).first.click()
    tab.page.wait_for_function(
        """app.graph._nodes.some(node =>
          node.subgraph?._nodes.some(inner => inner.properties.medtraverse_view))""",
        timeout=240_000,
    )
    tab.evaluate(
        """() => { const node = app.graph._nodes.find(node => node.subgraph)
          app.canvas.openSubgraph(node.subgraph, node) }"""
    )
    tab.page.wait_for_timeout(1500)
    tab.page.evaluate(CENTRE.replace("app.graph", "app.canvas.graph"), "TrajectoryGrid")
    viewer = view(tab, "TrajectoryGrid")
    at_the_end = settled(tab, viewer.locator("canvas"))
    press(tab, viewer, "Home")
    assert settled(tab, viewer.locator("canvas")) != at_the_end
    assert (
        tab.evaluate(
            """app.canvas.graph._nodes.find(node => node.type === 'TrajectoryGrid')
              .properties.medtraverse_view.state.point"""
        )
        == 0
    )
    # Opening a subgraph by script, the frontend says this of its own.
    assert {error for error in tab.own_errors() if "graph that was never set up" not in error} <= bare_errors


def test_the_map_shows_the_thumbnail_under_the_pointer(canvas, bare_errors):
    tab = opened(canvas, "04-fig4-latent-tsne")
    view_of_map = run(tab, "LatentTSNE", "mt-map")
    plot = view_of_map.locator(".mt-map-plot")
    before = settled(tab, plot.locator("canvas").first)
    box = plot.bounding_box()
    tip = view_of_map.locator(".mt-map-tip")
    places = ((x, y) for y in range(6, int(box["height"]), 15) for x in range(6, int(box["width"]), 15))
    for x, y in places:
        tab.page.mouse.move(box["x"] + x, box["y"] + y)
        if tip.is_visible():
            break
    assert "seed" in tip.inner_text() and re.search("λ|normal", tip.inner_text())
    tab.page.wait_for_function(
        """new Set(document.querySelector('.mt-map-tip canvas').getContext('2d')
          .getImageData(0, 0, 96, 96).data).size > 30""",
        timeout=10_000,
    )
    keep(tab, view_of_map, "map")
    view_of_map.get_by_role("button", name="support devices").click()
    assert settled(tab, plot.locator("canvas").first) != before
    view_of_map.get_by_role("button", name="support devices").click()
    view_of_map.locator(".mt-map").focus()
    tab.page.keyboard.press("l")
    tab.page.mouse.move(box["x"] + 2, box["y"] + 2)
    tab.page.mouse.down()
    for x, y in ((1, 0), (1, 1), (0, 1), (0, 0)):
        tab.page.mouse.move(
            box["x"] + 2 + x * (box["width"] - 4), box["y"] + 2 + y * (box["height"] - 4), steps=4
        )
    tab.page.mouse.up()
    seeds = view_of_map.locator("textarea").input_value()
    widgets = {
        widget: tab.page.evaluate(
            """name => app.graph._nodes.find(node => node.type === 'PromptSwapKSampler')
              .widgets.find(widget => widget.name === name).value""",
            widget,
        )
        for widget in ("seed", "patients")
    }
    assert {int(seed) for seed in re.findall(r"\d+", seeds)} == set(
        range(widgets["seed"], widgets["seed"] + widgets["patients"])
    )
    with tab.page.expect_download() as download:
        view_of_map.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename.endswith(".csv")
    assert tab.own_errors() <= bare_errors


def test_a_bar_opens_its_patients_and_the_viewer_draws_their_probabilities(canvas, bare_errors):
    tab = opened(canvas, "07-cfrt-chexpert")
    panel = run(tab, "CFRTEvaluator", "mt-cfrt")
    bar = panel.locator(".mt-cfrt-bar").first
    assert "published" in bar.get_attribute("aria-label")
    # 1.000, 0.500 or 0.000 of the two patients, or none could flip
    assert re.search(r"flip rate\s+([01]\.\d{3}|–)\s+[0-2] of [0-2]", bar.inner_text())
    bar.click()
    assert bar.get_attribute("aria-expanded") == "true"
    panel.get_by_label("all patients").first.check()
    assert str(tab.seed) in panel.inner_text()
    assert tab.page.evaluate(STATE, "CFRTEvaluator")
    keep(tab, panel, "cfrt")
    judged = tab.page.evaluate(
        """async seed => {
      const { predictions, probabilityOf, readView } = await import('/extensions/MedTraverse/parts/server.js')
      const sampler = app.graph._nodes.find(node => node.type === 'PromptSwapKSampler')
      const sampled = await readView(sampler.properties.medtraverse_view.file)
      return probabilityOf(predictions.find(sampled.key), seed, 'support devices', '5') }""",
        tab.seed,
    )
    assert len(judged) == 2 and all(0 <= value <= 1 for value in judged)
    assert tab.own_errors() <= bare_errors


WITHOUT_GRID = """() => { const find = type => app.graph._nodes.find(node => node.type === type)
  for (const type of ['TrajectoryGrid', 'VAEDecode']) app.graph.remove(find(type))
  const [loader, sampler] = [find('MedicalCheckpointLoader'), find('PromptSwapKSampler')]
  loader.connect(2, sampler, sampler.inputs.findIndex(({ name }) => name === 'vae'))
  const cosine = LiteGraph.createNode('LatentDirectionCosine')
  app.graph.add(cosine)
  sampler.connect(1, cosine, 0) }"""


def test_with_a_vae_the_samplers_viewer_decodes_what_is_on_show(canvas, base, bare_errors):
    tab = opened(canvas, "00-start-here")
    tab.evaluate(WITHOUT_GRID)
    viewer = run(tab, "PromptSwapKSampler", "mt-viewer")
    note = viewer.locator(".mt-note")
    tab.page.wait_for_function(
        "!document.querySelector('.mt-view[data-mt-node=PromptSwapKSampler] .mt-note').textContent"
        ".includes('Rough')",
        timeout=60_000,
    )
    view = tab.page.evaluate(
        "app.graph._nodes.find(node => node.type === 'PromptSwapKSampler').properties.medtraverse_view.file"
    )
    folder, stem = base / "temp" / "medtraverse", view["filename"].removesuffix(".json")
    # The neutral image and both attributes at the last point, and no other.
    assert len(list(folder.glob(f"{stem}-*-decoded.png"))) == 3
    sharp = settled(tab, viewer.locator("canvas"))
    press(tab, viewer, "ArrowLeft")
    press(tab, viewer, "End")
    assert settled(tab, viewer.locator("canvas")) == sharp and "Rough" not in note.inner_text()
    keep(tab, viewer, "decoded")
    with tab.page.expect_download() as download:
        viewer.get_by_role("button", name="Download strip").click()
    assert Image.open(download.value.path()).width == 4 * 128
    # Nothing decodes after a restart: what was not on show stays rough, and the viewer says so.
    for path in folder.glob(f"{stem}-*-decoded.png"):
        path.unlink()
    (folder / f"{stem}-latents.npy").unlink()
    tab.page.reload()
    viewer.locator(".mt-note").filter(has_text="Rough preview of latents").wait_for(timeout=60_000)
    tab.page.evaluate(CENTRE, "PromptSwapKSampler")
    assert settled(tab, viewer.locator("canvas")) != sharp
    assert tab.own_errors() <= bare_errors


def test_what_a_run_says_is_read_on_its_node(canvas, bare_errors):
    """The room is the workflow's; a run tells the page its text as it is told here."""
    tab = canvas.template("12-real-image")
    tab.page.evaluate(CENTRE, "ProjectToLatent")
    words = tab.page.locator(".mt-view[data-mt-node=ProjectToLatent] .mt-words").first
    words.filter(has_text="Run to see whether the model knows such an image.").wait_for(timeout=20_000)
    node = "app.graph._nodes.find(node => node.comfyClass === 'ProjectToLatent')"
    size = tab.evaluate(f"[...{node}.size]")
    tab.evaluate(f"{node}.onExecuted({{text: ['Image 1 is far.\\nVAE round trip 19.1 dB']}})")
    assert words.inner_text() == "Image 1 is far.\nVAE round trip 19.1 dB"
    box = words.bounding_box()
    assert box["height"] >= 40 and tab.evaluate(f"[...{node}.size]") == size
    assert tab.own_errors() <= bare_errors


def test_a_view_that_cannot_be_written_is_a_line_on_its_node(canvas, base, bare_errors):
    """The run goes on to its end: sampler, decoder and grid, whose files the server cannot write."""
    folder, aside = base / "temp" / "medtraverse", base / "temp" / "aside"
    tab = opened(canvas, "00-start-here")
    if folder.is_dir():
        folder.rename(aside)
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file in the folder's place")
    try:
        tab.page.get_by_role("button", name=re.compile("^Run")).first.click()
        for node in ("PromptSwapKSampler", "TrajectoryGrid"):
            tab.page.wait_for_function(
                f"""document.querySelector('.mt-view[data-mt-node={node}] .mt-hint')
                  ?.textContent.includes('could not be written (File exists)')""",
                timeout=240_000,
            )
        # The figure came all the same: kept by the node, or in Nodes 2.0 by the page's outputs.
        figure = f"{GRIDS}[0].imgs?.length || app.nodeOutputs?.[{GRIDS}[0].id]?.images?.length"
        tab.page.wait_for_function(figure, timeout=60_000)
    finally:
        folder.unlink()
        if aside.is_dir():
            aside.rename(folder)
    assert "could not be written (File exists)" in (base / "server.log").read_text(encoding="utf-8")
    assert tab.own_errors() <= bare_errors


@pytest.mark.parametrize(
    ("change", "words"),
    [({"format": 2}, "format 2, which this page does not know"), ({"view": "map"}, "gone; run again")],
)
def test_a_file_of_another_form_is_not_drawn(canvas, base, change, words):
    """As after an update of the pack, or a change of its files by somebody."""
    path = base / "temp" / "medtraverse" / "0123456789abcdef.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": 1, "view": "trajectory", **change}), encoding="utf-8")
    opened(canvas, "00-start-here")
    canvas.page.evaluate(
        """name => { const graph = app.graph.serialize()
      graph.nodes.find(node => node.type === 'TrajectoryGrid').properties.medtraverse_view =
        {file: {filename: name, subfolder: 'medtraverse', type: 'temp'}, state: {}}
      return app.loadGraphData(graph) }""",
        path.name,
    )
    canvas.page.wait_for_function(
        """words => document.querySelector('.mt-view[data-mt-node=TrajectoryGrid]')
          ?.textContent.includes(words)""",
        arg=words,
        timeout=15_000,
    )
    path.unlink()


def test_files_that_are_gone_are_said_to_be_gone(canvas, bare_errors):
    tab = opened(canvas, "00-start-here")
    tab.evaluate("""() => { const graph = app.graph.serialize()
      graph.nodes.find(node => node.type === 'TrajectoryGrid').properties.medtraverse_view =
        {file: {filename: 'none.json', subfolder: 'medtraverse', type: 'temp'}, state: {}}
      return app.loadGraphData(graph) }""")
    tab.page.wait_for_function(
        "document.querySelector('.mt-view[data-mt-node=TrajectoryGrid]')?.textContent.includes('gone')",
        timeout=15_000,
    )
    # Last, because its draft is kept.
    assert all("404" in error for error in tab.own_errors() - bare_errors)

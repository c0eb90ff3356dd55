"""Load Medical Image in the browser: upload, drop on node and canvas, preview, and what stays out."""

import base64
import importlib.util
import json
import urllib.request
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "dicom_samples", Path(__file__).parents[1] / "library" / "dicom_samples.py"
)
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)

NAME = "SECRETNAME_Ada.dcm"
VALUE = "app.graph._nodes.map(node => node.widgets.find(widget => widget.name === 'file').value)"
FIELD = "node.widgets.find(widget => widget.name === 'file')"
SHOWN = "document.querySelector('.mt-medical img')?.naturalWidth > 0"
WORDS = "[...document.querySelectorAll('.mt-medical-words')].at(-1)?.textContent"
# Files as a drag from the desktop brings them, let go at a place of the page.
DROP = """([files, x, y]) => {
  const carried = new DataTransfer()
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0))
    carried.items.add(new File([bytes], name))
  }
  const target = document.elementFromPoint(x, y)
  for (const kind of ['dragenter', 'dragover', 'drop'])
    target.dispatchEvent(new DragEvent(kind, {
      dataTransfer: carried, clientX: x, clientY: y, bubbles: true, cancelable: true,
    }))
}"""
PLACE = """() => {
  const [node] = app.graph._nodes, box = app.canvas.canvas.getBoundingClientRect()
  const {scale, offset} = app.canvas.ds
  return [box.left + (node.pos[0] + 60 + offset[0]) * scale, box.top + (node.pos[1] + 40 + offset[1]) * scale]
}"""


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "Nodes 2.0"])
def opened(new_tab, request):
    """One tab for each of the renderers."""
    tab = new_tab().open()
    setting = "app.extensionManager.setting.set('Comfy.VueNodes.Enabled', {})"
    tab.evaluate(setting.format(str(request.param).lower()))
    tab.page.wait_for_timeout(500)
    tab.page.keyboard.press("Escape")
    yield tab
    tab.evaluate(setting.format("false"))
    tab.page.close()


@pytest.fixture
def page(opened):
    """The tab with an empty canvas."""
    opened.evaluate("app.graph.clear()")
    opened.page.wait_for_timeout(200)
    return opened


@pytest.fixture
def films(tmp_path):
    """Three DICOM files of one patient, by name."""
    paths = [tmp_path / NAME, tmp_path / "SECRETNAME_2.dcm", tmp_path / "SECRETNAME_10.dcm"]
    for seed, path in enumerate(paths):
        samples.saved(samples.dataset(samples.grey_values(12, seed=seed), 12, "MONOCHROME1"), path)
    return paths


def carried(paths):
    return [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]


def add_node(tab):
    tab.evaluate(
        """() => { const node = LiteGraph.createNode('LoadMedicalImage'); node.pos = [200, 150]
        app.graph.add(node); app.canvas.ds.reset?.(); app.canvas.setDirty(true, true) }"""
    )
    tab.page.wait_for_function(SHOWN, timeout=20_000)
    tab.page.wait_for_timeout(500)


def check_kept_out(tab, server, base):
    """Neither the workflow, nor the history, nor the log, nor any file but the upload names the patient."""
    workflow = tab.evaluate("JSON.stringify([app.graph.serialize()])")
    prompt = json.dumps(tab.page.evaluate("app.graphToPrompt()"))
    with urllib.request.urlopen(f"{server}/history") as answer:
        history = answer.read().decode()
    log = (base / "server.log").read_text(errors="replace")
    for secret in samples.SECRETS:
        assert secret not in workflow + prompt + history + log
    for path in base.rglob("*"):
        if path.is_file() and base / "input" not in path.parents:
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in samples.SECRETS), path


def test_a_dicom_file_is_uploaded_shown_and_run(page, films, server, base, bare_errors):
    tab = page
    add_node(tab)
    assert "CR MONOCHROME1; 128 × 128, 12 bits" in tab.evaluate(WORDS)
    with tab.page.expect_file_chooser() as chooser:
        tab.evaluate("app.graph._nodes[0].widgets.find(widget => widget.name === 'upload').callback()")
    chooser.value.set_files(str(films[0]))
    tab.page.wait_for_function(f"{VALUE}[0].startsWith('medical/')", timeout=20_000)
    tab.page.wait_for_function(f"{WORDS}.includes('56 × 40')", timeout=20_000)
    assert tab.page.evaluate("document.querySelector('.mt-medical img').naturalWidth") == 56
    (choice,) = tab.evaluate(VALUE)
    assert (base / "input" / choice).read_bytes() == films[0].read_bytes()
    # another window, and what the file does not have
    tab.evaluate(
        """() => { const [node] = app.graph._nodes, field = node.widgets.find(({name}) => name === 'window')
        field.value = 'window 2'; field.callback(field.value) }"""
    )
    tab.page.wait_for_function(f"{WORDS}.includes('which has 0 windows')", timeout=20_000)
    tab.evaluate(
        """() => { const [node] = app.graph._nodes, field = node.widgets.find(({name}) => name === 'window')
        field.value = 'whole range'; field.callback(field.value)
        const seen = LiteGraph.createNode('PreviewImage'), saved = LiteGraph.createNode('SaveMedicalImage')
        for (const each of [seen, saved]) { app.graph.add(each); node.connect(0, each, 0) }
        node.connect(2, saved, saved.findInputSlot('source')) }"""
    )
    prompt = tab.page.evaluate("app.graphToPrompt()")["output"]
    assert {node["class_type"] for node in prompt.values()} == {
        "LoadMedicalImage",
        "PreviewImage",
        "SaveMedicalImage",
    }
    loader = next(node for node in prompt.values() if node["class_type"] == "LoadMedicalImage")
    assert set(loader["inputs"]) == {
        *("file", "window", "window_center", "window_width", "frame"),
        *("fit", "size", "first", "count", "unreadable"),
    }
    before = set((base / "output").rglob("*.dcm"))
    tab.evaluate("app.queuePrompt(0)")
    for _ in range(150):
        tab.page.wait_for_timeout(200)
        made = set((base / "output").rglob("*.dcm")) - before
        if made:
            break
    (path,) = made
    import pydicom

    assert pydicom.dcmread(path).ImageType[2] == "SYNTHETIC"
    tab.page.wait_for_timeout(500)
    check_kept_out(tab, server, base)
    assert set(tab.errors) <= bare_errors


def test_files_are_dropped_on_the_node(page, films, base, bare_errors):
    tab = page
    add_node(tab)
    x, y = tab.evaluate(f"({PLACE})()")
    tab.page.mouse.move(x, y)
    tab.page.evaluate(DROP, [carried(films[:1]), x, y])
    tab.page.wait_for_function(f"{VALUE}[0].startsWith('medical/')", timeout=20_000)
    assert len(tab.evaluate(VALUE)) == 1
    tab.page.evaluate(DROP, [carried(films), x, y])
    tab.page.wait_for_function(f"{VALUE}[0].endsWith('/')", timeout=20_000)
    tab.page.wait_for_function(f"{WORDS}.startsWith('3 images')", timeout=20_000)
    (choice,) = tab.evaluate(VALUE)
    kept = sorted((base / "input" / choice).iterdir())
    # in the order in which a person counts, and without a name
    assert [path.read_bytes() for path in kept] == [films[i].read_bytes() for i in (1, 2, 0)]
    assert not any("SECRET" in path.name for path in kept)
    assert set(tab.errors) <= bare_errors


def test_a_dicom_file_dropped_on_the_canvas_brings_its_node(page, films, bare_errors):
    tab = page
    tab.page.mouse.move(900, 500)
    tab.page.evaluate(DROP, [carried(films[:1]), 900, 500])
    tab.page.wait_for_function("app.graph._nodes.length === 1", timeout=20_000)
    tab.page.wait_for_function(f"{VALUE}[0].startsWith('medical/')", timeout=20_000)
    tab.page.wait_for_function(f"{WORDS}.includes('56 × 40')", timeout=20_000)
    tab.page.wait_for_function(SHOWN, timeout=20_000)
    assert set(tab.errors) <= bare_errors


def test_a_pair_is_compared(page, bare_errors):
    """Panels, slider, zoom and window of the compare viewer, on the shipped film and a darker one."""
    tab = page
    tab.evaluate(
        """() => {
          const make = (type, x) => {
            const node = LiteGraph.createNode(type); node.pos = [x, 60]; app.graph.add(node); return node
          }
          const loader = make('LoadMedicalImage', 100), darker = make('ImageInvert', 100)
          const saved = make('SaveMedicalImage', 560)
          darker.pos = [100, 700]
          loader.connect(0, darker, 0); darker.connect(0, saved, 0)
          loader.connect(0, saved, saved.findInputSlot('original'))
          loader.connect(2, saved, saved.findInputSlot('source'))
          saved.setSize([760, 760])
          app.canvas.ds.offset = [0, 0]; app.canvas.ds.scale = 1; app.canvas.setDirty(true, true)
        }"""
    )
    tab.evaluate("app.queuePrompt(0)")
    viewer = tab.page.locator(".mt-compare")
    viewer.wait_for(timeout=60_000)
    said = viewer.locator("output")
    tab.page.wait_for_function(
        "document.querySelector('.mt-compare output').textContent.includes('W 100 L 50')"
    )
    canvas = viewer.locator("canvas")
    assert canvas.get_attribute("aria-label") == "original, counterfactual, Difference"
    box = canvas.bounding_box()
    whole = canvas.screenshot()
    # to the right wider, and the picture changes
    x, y = box["x"] + 60, box["y"] + 80
    tab.page.mouse.move(x, y)
    tab.page.mouse.down()
    tab.page.mouse.move(x - 60, y, steps=4)
    tab.page.mouse.up()
    assert int(said.inner_text().split()[1]) < 90
    assert canvas.screenshot() != whole
    tab.page.mouse.move(x, y)
    tab.page.mouse.wheel(0, -300)
    assert float(said.inner_text().split("×")[1]) > 1
    viewer.get_by_role("button", name="Slider").click()
    canvas.click(position={"x": box["width"] / 4, "y": 60})
    saved = "app.graph._nodes.find(node => node.comfyClass === 'SaveMedicalImage')"
    kept = tab.evaluate(f"{saved}.properties.medtraverse_view.state")
    assert kept["layout"] == "slider" and kept["split"] < 0.5 and kept["zoom"] > 1
    viewer.get_by_role("button", name="Reset").click()
    assert said.inner_text() == "W 100 L 50 ×1.0"
    assert set(tab.errors) <= bare_errors

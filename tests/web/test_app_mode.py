"""App mode: each bundled workflow as a form, without its graph. Frontends from 1.40 on have it."""

import json
import time
import urllib.request

import pytest

from launcher.comfyui import PACK
from workflows.graphs import names

FOLDER = PACK / "workflows"
LABELS = "[data-testid=app-mode-widget-item] [data-testid=builder-widget-label]"
HINTS = "[data-testid=app-mode-widget-description]"
FEWER = """for (const node of app.graph._nodes) for (const widget of node.widgets ?? []) {
  if (node.type === 'PromptSwapKSampler' && widget.name === 'steps') widget.value = 18
  if (widget.name === 'swap_steps') widget.value = '15,10,5'
}"""
TOGGLE = "app.extensionManager.command.execute('Comfy.ToggleLinear')"
CUT = "element => element.scrollWidth > element.clientWidth"


@pytest.fixture
def form(tab):
    """Opens a workflow as a form."""

    def opened(name):
        tab.template(name)
        version = tab.evaluate("window.__COMFYUI_FRONTEND_VERSION__")
        if tuple(map(int, version.split(".")[:2])) < (1, 40):
            pytest.skip(f"frontend {version} has no App mode")
        tab.evaluate(FEWER)
        tab.evaluate(TOGGLE)
        tab.page.locator(LABELS).first.wait_for(timeout=30_000)
        # A first visit is offered a tour, over the page.
        skip = tab.page.get_by_text("Skip", exact=True)
        if skip.count():
            skip.click()
        return tab

    return opened


@pytest.fixture
def history(server):
    def ended(nodes, seconds=200):
        """The graph and the outputs of the last run, once it has outputs of all the nodes."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with urllib.request.urlopen(f"{server}/history?max_items=1") as answer:
                for entry in json.load(answer).values():
                    if set(nodes) <= set(entry["outputs"]):
                        return entry["prompt"][2], entry["outputs"]
            time.sleep(0.5)
        raise AssertionError(f"no run has ended with outputs of the nodes {', '.join(nodes)}")

    return ended


@pytest.mark.parametrize("name", names())
def test_a_form_asks_for_what_the_workflow_says(form, name):
    page = form(name).page
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    asked = workflow["extra"]["linearData"]["inputs"]
    labels = [
        next(entry["label"] for entry in nodes[number]["inputs"] if entry["name"] == value)
        for number, value, *_ in asked
    ]
    assert page.locator(LABELS).all_inner_texts() == labels
    assert len(set(labels)) == len(labels)
    hints = [options["description"] for _, _, *rest in asked for options in rest]
    assert [text.strip() for text in page.locator(HINTS).all_inner_texts()] == hints
    for text in page.locator(f"{LABELS}, {HINTS} *").all():
        assert not text.evaluate(CUT), text.inner_text()


@pytest.mark.parametrize("name", ["00-start-here", "07-cfrt-chexpert"])
def test_a_form_runs_and_shows_its_figures(form, history, name):
    tab = form(name)
    wanted = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["extra"]["linearData"]
    field = tab.page.locator("[data-testid=app-mode-widget-item]").filter(has_text="Number of patients")
    field.locator("input").fill("2")
    field.locator("input").press("Enter")
    tab.page.get_by_test_id("linear-run-button").get_by_role("button", name="Run", exact=True).click()
    prompt, outputs = history(wanted["outputs"])
    shown = tab.page.locator("img[src*='/view?']")
    tab.page.wait_for_function(
        "[...document.querySelectorAll('main img, section img, img')].some(image => "
        "image.src.includes('/view?') && image.naturalWidth > 500 && image.offsetWidth > 300)",
        timeout=200_000,
    )
    assert shown.count() >= len(wanted["outputs"])
    (sampler,) = (node for node in prompt.values() if node["class_type"] == "PromptSwapKSampler")
    assert sampler["inputs"]["patients"] == 2
    assert set(wanted["outputs"]) <= set(outputs)

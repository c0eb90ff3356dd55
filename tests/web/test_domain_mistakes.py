"""A mistake in a user's own domain file is said in the browser: as the page opens, in the list, and on R."""

import json

import pytest

MISTAKE = "domain file knee.json: size: 250 is no image side in pixels"


@pytest.fixture
def file(base):
    folder = base / "user" / "medtraverse" / "domains"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "knee.json"
    knee = {
        "name": "Knee",
        "size": 250,
        "neutrals": {"normal": "Normal knee X-ray"},
        "attributes": [{"name": "implant", "prompt": "{neutral} with an implant"}],
    }
    path.write_text(json.dumps(knee))
    yield path
    path.unlink()


def test_a_mistake_in_a_domain_file_is_shown(file, tab):
    tab.open()
    toast = tab.page.locator(".p-toast-message").filter(has_text=MISTAKE)
    toast.wait_for(timeout=30_000)
    tab.evaluate("app.graph.clear()")
    tab.evaluate("app.graph.add(LiteGraph.createNode('MedicalCheckpointLoader'))")
    choices = "app.graph._nodes[0].widgets.find(widget => widget.name === 'domain').options.values"
    (shown,) = (choice for choice in tab.evaluate(choices) if choice.startswith("domain file"))
    assert shown.startswith(MISTAKE)
    file.write_text(file.read_text().replace("250", "256"))
    tab.page.locator(".p-toast-close-button").first.click()
    toast.wait_for(state="detached", timeout=10_000)
    tab.evaluate("app.refreshComboInNodes()")
    tab.page.wait_for_function(f"{choices}.includes('Knee')", timeout=10_000)
    assert toast.count() == 0
    file.write_text(file.read_text().replace("256", "250"))
    tab.evaluate("app.refreshComboInNodes()")
    toast.wait_for(timeout=10_000)

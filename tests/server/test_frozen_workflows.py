"""Workflows as they were once shipped go on running: on the live server, with fewer steps and one patient."""

import pytest

from launcher.comfyui import PACK
from workflows.graphs import SUFFIX

API = PACK / "workflows" / "api"
FROZEN = PACK / "tests" / "server" / "frozen"
# On the base itself, which was all that shipped once.
RUN_AGAIN = ("00-start-here", "03-fig3-swap-grid-isic")


@pytest.mark.parametrize(
    "path", sorted(set(FROZEN.glob("*.json")) - set(FROZEN.glob("demo-*.json"))), ids=lambda path: path.stem
)
def test_a_workflow_once_shipped_stays_valid(bundled, path):
    """Copies of what was shipped. One that is still shipped as it was has run above; the oldest have
    test_demo_workflows.

    One that differs in the chosen U-Net only is run where it is short; of the others the choice must still be
    there.
    """
    client, of = bundled.client, bundled.of
    # One patient is enough to tell that it still runs.
    current, graph = API / path.name, bundled.load(path, patients=1)
    if current.exists():
        today, chosen = bundled.load(current, patients=1), set()
        for key in of(graph, "MedicalCheckpointLoader"):
            if key in today:
                chosen.add(graph[key]["inputs"]["unet"])
                today[key]["inputs"]["unet"] = graph[key]["inputs"]["unet"]
        options = client.get("/object_info/MedicalCheckpointLoader")["MedicalCheckpointLoader"]["input"][
            "required"
        ]["unet"][1]["options"]
        if today == graph and (
            path.stem.endswith(SUFFIX) or (chosen <= set(options) and path.stem not in RUN_AGAIN)
        ):
            return
    if path.stem.endswith(SUFFIX):
        info = client.get("/object_info")
        for node in graph.values():
            known = {
                name
                for part in ("required", "optional")
                for name in info[node["class_type"]]["input"].get(part, {})
            }
            assert set(node["inputs"]) <= known
        return
    bundled.check(graph, client.run(graph, timeout=280))

"""The files of the widgets on a real server: how long they stay."""

import json
import time
import urllib.request

from launcher.comfyui import PACK

WORKFLOW = PACK / "workflows" / "api" / "00-start-here.json"


def ask(url, **body):
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(
        urllib.request.Request(url, data, {"Content-Type": "application/json"})
    ) as answer:
        return json.load(answer)


def run_as_a_page(server, graph):
    """Queue a graph as the frontend does, with its workflow; return the outputs by node."""
    extra = {"extra_pnginfo": {"workflow": {"id": "0d4b6f5e-views"}}}
    queued = ask(f"{server}/prompt", prompt=graph, client_id="one-tab", extra_data=extra)["prompt_id"]
    until = time.monotonic() + 240
    while time.monotonic() < until:
        ended = ask(f"{server}/history/{queued}").get(queued)
        if ended:
            assert ended["status"]["status_str"] == "success", ended["status"]
            return ended["outputs"]
        time.sleep(0.2)
    raise AssertionError("the run does not end")


def test_a_nodes_older_view_goes_unless_core_may_show_it_again(server, base):
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    kinds = {node["class_type"]: number for number, node in graph.items()}
    sampler, grid = kinds["PromptSwapKSampler"], kinds["TrajectoryGrid"]
    graph[sampler]["inputs"].update(steps=4, swap_steps="2,1", patients=1)
    shown = []
    for seed in (8101, 8102, 8101):
        graph[sampler]["inputs"]["seed"] = seed
        outputs = run_as_a_page(server, graph)
        shown.append({node: outputs[node]["medtraverse_view"][0]["view"] for node in (sampler, grid)})
    folder = base / "temp" / "medtraverse"
    left = {path.name for path in folder.glob("*.json")}
    assert set(shown[2].values()) <= left
    again = "RAM pressure cache" in (base / "server.log").read_text(encoding="utf-8")
    # The RAM pressure cache may have dropped the first run's outputs all the same.
    assert again or shown[2] != shown[0]
    gone = set() if again else set(shown[0].values()) | set(shown[1].values())
    assert not gone & left
    stems = {path.name.partition("-")[0] for path in folder.glob("*.png")}
    assert stems <= {name.partition(".")[0] for name in left}

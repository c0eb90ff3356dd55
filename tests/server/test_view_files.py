"""The files of the widgets on a real server: how long they stay."""

import io
import json
import time
import urllib.request

import numpy as np
from PIL import Image

from launcher.comfyui import PACK

WORKFLOW = PACK / "workflows" / "api" / "00-start-here.json"


def ask(url, **body):
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(
        urllib.request.Request(url, data, {"Content-Type": "application/json"})
    ) as answer:
        return json.load(answer)


def queue_as_a_page(server, graph, workflow="0d4b6f5e-views"):
    """Queue a graph as the frontend does, with its workflow; return the prompt's id."""
    extra = {"extra_pnginfo": {"workflow": {"id": workflow}}}
    return ask(f"{server}/prompt", prompt=graph, client_id="one-tab", extra_data=extra)["prompt_id"]


def run_as_a_page(server, graph):
    """Queue a graph, wait for its end, and return the outputs by node."""
    return outputs_of(server, queue_as_a_page(server, graph))


def outputs_of(server, queued):
    """Return a prompt's outputs by node, once it has ended well."""
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


def decoded(server, view, row):
    """Ask for a row's decoded image as a viewer does; return the status and the picture."""
    with urllib.request.urlopen(f"{server}/api{view['decoder']}{row}") as answer:
        body = answer.read()
    return answer.status, Image.open(io.BytesIO(body)).convert("RGB") if body else None


def viewed(server, base, graph, sampler):
    """The sampler's view after a run of the graph."""
    name = run_as_a_page(server, graph)[sampler.id]["medtraverse_view"][0]["view"]
    return json.loads((base / "temp" / "medtraverse" / name).read_text(encoding="utf-8"))


def test_an_image_is_decoded_when_it_is_asked_for_and_no_run_is_disturbed(server, base, graph):
    loaded, sampled = graph.traversal()
    graph[sampled.id]["inputs"].update(vae=loaded[2], seed=8201)
    images = graph.add("VAEDecode", samples=sampled[0], vae=loaded[2])
    saved = graph.add("SaveImage", images=images[0], filename_prefix="decoded")
    view = viewed(server, base, graph, sampled)
    assert view["approximate"] and view["size"] == [16, 16]
    status, picture = decoded(server, view, 1)
    wanted = sorted((base / "output").glob("decoded_*.png"))[1]
    assert status == 200
    pixels = [np.asarray(image, dtype=int) for image in (picture, Image.open(wanted).convert("RGB"))]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1  # core cuts fractions off

    # While prompts of another tab run the answer comes at once, and says later; the runs end as ever.
    graph.pop(saved.id)
    graph.add("LatentDirectionCosine", trajectory=sampled[1], published=False)
    queued = []
    for seed in (8202, 8203):
        graph[sampled.id]["inputs"].update(seed=seed, patients=3)
        queued.append(queue_as_a_page(server, graph, "another-tab"))
    states, row = [], 0
    while not ask(f"{server}/history/{queued[-1]}"):
        states.append(decoded(server, view, row)[0])
        row = min(row + (states[-1] == 200), 4)
    assert 202 in states and set(states) <= {200, 202}
    for prompt in queued:
        outputs_of(server, prompt)
    until = time.monotonic() + 20
    while (answer := decoded(server, view, 4))[0] == 202 and time.monotonic() < until:
        time.sleep(0.2)
    assert answer[0] == 200 and answer[1].size == (128, 128)
    # What is no image of this view is none: the latents end, and a name leads nowhere.
    assert decoded(server, view, 5)[0] == 204
    assert decoded(server, {"decoder": "/medtraverse/decoded/0123456789abcdef/"}, 0)[0] == 204

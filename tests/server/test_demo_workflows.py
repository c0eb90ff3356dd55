"""The first demo workflows, as they were shipped, on the live server, and what users do wrong with them.

With fewer steps and patients.
"""

import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from launcher.comfyui import PACK
from medtraverse.remote.client import GraphRejected, NodeFailed, RunInterrupted

WORKFLOWS = sorted((PACK / "tests" / "server" / "frozen").glob("demo-*.json"))


def load(path, **inputs):
    """The workflow, its sampler's inputs changed: 12 steps are enough to tell that everything is wired."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    sampler = next(node for node in graph.values() if node["class_type"] == "PromptSwapKSampler")
    sampler["inputs"].update({"steps": 18, "swap_steps": "15,10,5", "patients": 2, **inputs})
    return graph


def node_id(graph, title):
    return next(key for key, node in graph.items() if node["_meta"]["title"] == title)


@pytest.fixture(scope="module", params=WORKFLOWS, ids=lambda path: path.stem)
def finished(request, client):
    graph = load(request.param)
    return graph, client.run(graph, timeout=280)


def test_every_picture_is_one_and_shows_something(finished, client):
    graph, result = finished
    saved = [key for key, node in graph.items() if node["class_type"] == "SaveImage"]
    assert len(saved) == 6
    for key in saved:
        picture = np.asarray(Image.open(io.BytesIO(client.fetch(result.files(key)[0]))).convert("RGB"))
        assert min(picture.shape[:2]) > 200 and picture.std() > 10


def test_the_video_plays_from_neutral_and_back(finished, client):
    av = pytest.importorskip("av")
    graph, result = finished
    file = result.outputs[node_id(graph, "Save video")]["images"][0]
    assert file["filename"].endswith(".mp4")
    with av.open(io.BytesIO(client.fetch(file))) as video:
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in video.decode(video=0)]
    assert len(frames) == 99
    assert np.abs(frames[0] - frames[-1]).mean() < 3 < np.abs(frames[0] - frames[49]).mean() + 2.9


def test_reports_say_what_was_measured(finished):
    graph, result = finished
    attributes = {"CheXpert": 2, "ISIC": 4}
    for title, kind in (("CFRT of swaps", "swap"), ("CFRT of Bézier frames", "curve")):
        report = json.loads(result.outputs[node_id(graph, title)]["medtraverse"][0])
        assert report["kind"] == kind and report["patients"] == 2
        assert len(report["attributes"]) == attributes[report["settings"]["domain"]]
        for item in report["attributes"].values():
            assert (
                item["cfrt"] == item["successes"] / 2
                and 0 <= item["interval"][0] <= item["cfrt"] <= item["interval"][1] <= 1
            )
    cosine = json.loads(result.outputs[node_id(graph, "Direction cosines")]["medtraverse"][0])
    assert all(values[0] == 1 for values in cosine["mean"].values())
    identity = json.loads(result.outputs[node_id(graph, "Identity")]["medtraverse"][0])
    assert identity["points"] == ["neutral", "15", "10", "5"]


def test_the_same_again_comes_from_the_cache(finished, client):
    graph, _first = finished
    again = client.run(graph, timeout=60)
    sampler = next(key for key, node in graph.items() if node["class_type"] == "PromptSwapKSampler")
    assert sampler in again.cached and node_id(graph, "Bézier curve") in again.cached


def test_the_same_seed_gives_the_same_numbers_twice(client):
    graph = load(WORKFLOWS[0], patients=1)
    key = node_id(graph, "CFRT of swaps")
    first = client.run(graph, timeout=200)
    graph[node_id(graph, "Traverse")]["inputs"]["rows_per_call"] = 7
    second = client.run(graph, timeout=200)
    for name in ("attributes", "mean_probability"):
        one, two = (json.loads(result.outputs[key]["medtraverse"][0])[name] for result in (first, second))
        assert flat(one) == pytest.approx(flat(two), abs=1e-4)


def flat(value):
    """Every number in nested dicts and lists, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [value] if isinstance(value, (int, float)) else []


def test_cancel_ends_a_run(client):
    graph = load(WORKFLOWS[0], patients=500, steps=50)
    prompt = client.submit(graph)
    threading.Timer(4, client.cancel, (prompt,)).start()
    started = time.monotonic()
    with pytest.raises(RunInterrupted):
        client.wait(prompt, timeout=120)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("title", "inputs", "fault"),
    [
        ("Traverse", {"swap_steps": ""}, "swap_steps: the list is empty"),
        ("Traverse", {"swap_steps": "50"}, "swap_steps: 50 is out of range"),
        ("Traverse", {"swap_steps": "5,5"}, "swap_steps: 5 is given twice"),
        # Newer versions of ComfyUI refuse a wrong choice themselves, before anything runs.
        ("Traverse", {"sampler": "uni_pc"}, "sampler: 'uni_pc' (cannot be used|not in)"),
        ("Model", {"checkpoint": "../../etc/passwd"}, "checkpoint: (there is no|.*not in)"),
        ("Model", {"domain": "MRI"}, "domain: (there is no 'MRI'|'MRI' not in)"),
        ("Traverse", {"model": "x"}, "model: 'x' is no MODEL; wire the output of Load Medical Checkpoint"),
        ("CFRT of swaps", {"trajectory": 3, "far_points": "5"}, "trajectory: 3 is no trajectory; wire"),
        ("Prompts", {"attributes": "edema"}, "attributes: domain CheXpert has no attribute 'edema'"),
        (
            "CFRT of swaps",
            {"image_classifier": ["other", 0], "far_points": "5"},
            "classifier: it judges hair",
        ),
        (
            "CFRT of swaps",
            {"images": ["short", 0], "far_points": "5"},
            "images: 1 do not match the trajectory's",
        ),
    ],
)
def test_mistakes_are_told_with_the_input_and_the_remedy(client, title, inputs, fault):
    graph = load(WORKFLOWS[0], patients=1, steps=8, swap_steps="5")
    key = node_id(graph, title)
    kept = {}

    def keep(name):
        if name not in kept:
            kept[name] = graph[name]
            for value in graph[name]["inputs"].values():
                if isinstance(value, list):
                    keep(value[0])

    graph["other"] = {
        "class_type": "MedicalClassifierLoader",
        "inputs": {
            "classifier": "MedTraverse demo ISIC",
            "second_classifier": "none",
            "labels": "",
            "input_size": 0,
        },
        "_meta": {"title": "other"},
    }
    graph["short"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 128, "height": 128, "batch_size": 1, "color": 0},
        "_meta": {"title": "short"},
    }
    graph[key]["inputs"].update(inputs)
    keep(node_id(graph, "CFRT of swaps"))
    with pytest.raises((NodeFailed, GraphRejected), match=fault):
        client.run(kept, timeout=120)

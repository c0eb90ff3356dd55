"""The bundled workflows on the live server, with fewer steps and patients.

They run to the end, come from the cache, and stay valid.
"""

import io
import json

import numpy as np
import pytest
from PIL import Image

from launcher.comfyui import PACK
from medtraverse.remote.node_inputs import choices
from workflows.graphs import SUFFIX, names

API = PACK / "workflows" / "api"
FROZEN = PACK / "tests" / "server" / "frozen"
DEMO = [name for name in names() if not name.endswith(SUFFIX)]
PAPER = [name for name in names() if name.endswith(SUFFIX)]
# On the base itself, which was all that shipped once.
RUN_AGAIN = ("00-start-here", "03-fig3-swap-grid-isic")
# 18 steps are enough to tell that everything is wired; the far part needs its swap steps.
FEWER = {"steps": 18, "swap_steps": "15,10,5", "patients": 2}


def load(path, **inputs):
    graph = json.loads(path.read_text(encoding="utf-8"))
    for node in graph.values():
        if node["class_type"] == "PromptSwapKSampler":
            node["inputs"].update(FEWER | inputs)
    return graph


def of(graph, class_type):
    return [key for key, node in graph.items() if node["class_type"] == class_type]


def check_outputs(graph, result, client):
    """Every picture shows something, every table has its rows, every video moves."""
    for key in of(graph, "SaveTraversalFigure") + of(graph, "TrajectoryGrid") + of(graph, "SaveImage"):
        picture = np.asarray(Image.open(io.BytesIO(client.fetch(result.files(key)[0]))).convert("RGB"))
        assert min(picture.shape[:2]) > 200 and picture.std() > 10
        if graph[key]["class_type"] == "SaveTraversalFigure":
            files = {
                file["filename"].rsplit(".", 1)[1]: client.fetch(file).decode()
                for file in result.files(key, "files")
            }
            assert set(files) == {"svg", "csv"}
            assert "<svg" in files["svg"] and all("Not for clinical use" in text for text in files.values())
            assert len(files["csv"].splitlines()) > 2
    for key in of(graph, "SaveVideo"):
        av = pytest.importorskip("av")
        with av.open(io.BytesIO(client.fetch(result.outputs[key]["images"][0]))) as video:
            frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in video.decode(video=0)]
        assert (
            len(frames) == 99
            and np.abs(frames[0] - frames[-1]).mean() < np.abs(frames[0] - frames[49]).mean()
        )
    for key in of(graph, "CFRTEvaluator"):
        report = json.loads(result.outputs[key]["medtraverse"][0])
        for item in report["attributes"].values():
            assert item["patients"] == 2 and item["cfrt"] == item["successes"] / 2
    for key in of(graph, "LatentDirectionCosine"):
        report = json.loads(result.outputs[key]["medtraverse"][0])
        assert len(report["mean"]) == 6 and all(values[0] == 1 for values in report["mean"].values())


@pytest.mark.parametrize("name", DEMO)
def test_it_runs_to_the_end_on_the_shipped_model(client, name):
    graph = load(API / f"{name}.json")
    check_outputs(graph, client.run(graph, timeout=280), client)


def test_the_same_again_comes_from_the_cache_and_other_frames_rerun_nothing_upstream(client):
    graph = load(API / "06-fig6-bezier.json")
    client.run(graph, timeout=280)
    again = client.run(graph, timeout=60)
    assert set(
        of(graph, "PromptSwapKSampler") + of(graph, "BezierLatentInterpolate") + of(graph, "VAEDecode")
    ) <= set(again.cached)
    for key in of(graph, "BezierLatentInterpolate"):
        graph[key]["inputs"]["frames"] = 12
    fewer = client.run(graph, timeout=120)
    upstream = (
        of(graph, "MedicalCheckpointLoader")
        + of(graph, "MedicalAttributePrompts")
        + of(graph, "PromptSwapKSampler")
    )
    assert set(upstream) <= set(fewer.cached)
    assert not set(of(graph, "BezierLatentInterpolate") + of(graph, "VAEDecode")) & set(fewer.cached)


@pytest.mark.parametrize(
    "path", sorted(set(FROZEN.glob("*.json")) - set(FROZEN.glob("demo-*.json"))), ids=lambda path: path.stem
)
def test_a_workflow_once_shipped_stays_valid(client, path):
    """Copies of what was shipped. One that is still shipped as it was has run above; the oldest have
    test_demo_workflows.

    One that differs in the chosen U-Net only is run where it is short; of the others the choice must still be
    there.
    """
    current, graph = API / path.name, load(path)
    if current.exists():
        today, chosen = load(current), set()
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
    check_outputs(graph, client.run(graph, timeout=280), client)


NEUTRAL = "Normal chest X-ray with no significant findings"
CHEST = {
    "support devices": "Chest X-ray showing Support Devices",
    "pleural effusion": "Chest X-ray showing Pleural Effusion",
}
BOTH = {"pleural effusion + support devices": "Chest X-ray showing Pleural Effusion, Support Devices"}
LESIONS = {
    "MEL": "a dermoscopic image with melanoma (MEL)",
    "NV": "a dermoscopic image with melanocytic nevus (NV)",
}
ARTEFACTS = {
    "hair": " with hairs visible on skin",
    "gel bubble": " showing gel bubbles",
    "ruler": " with a ruler visible",
    "ink": " showing ink",
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_settings_are_the_papers(client, name):
    graph = json.loads((API / f"{name}.json").read_text(encoding="utf-8"))
    info = client.get("/object_info")
    for node in graph.values():
        spec = info[node["class_type"]]["input"]
        assert (
            set(spec["required"])
            <= set(node["inputs"])
            <= set(spec["required"]) | set(spec.get("optional", {}))
        )
        for key, value in node["inputs"].items():
            listed = choices({**spec["required"], **spec.get("optional", {})}[key])
            if listed and not isinstance(value, list):
                assert value in listed or str(value).startswith("choose "), (key, value)
    for key in of(graph, "PromptSwapKSampler"):
        inputs = graph[key]["inputs"]
        first = {"CheXpert": 1500, "ISIC MEL": 3000, "ISIC NV": 4000, "ISIC": 3000}
        title = graph[key]["_meta"]["title"].removesuffix(" patients")
        assert inputs["seed"] == first[title]
        wanted = {
            "width": 512,
            "height": 512,
            "steps": 50,
            "cfg": 7.5,
            "sampler": "ddim",
            "scheduler": "diffusers_ddim",
            "noise": "gpu",
            "swap_steps": "45,40,35,30,25,20,15,10,5",
        }
        assert {name: inputs[name] for name in wanted} == wanted
    for key in of(graph, "BezierLatentInterpolate"):
        assert {name: graph[key]["inputs"][name] for name in ("frames", "method", "spacing")} == {
            "frames": 50,
            "method": "bezier",
            "spacing": "parameter",
        }
    for key in of(graph, "LatentTSNE"):
        assert (graph[key]["inputs"]["perplexity"], graph[key]["inputs"]["seed"]) == (2.0, 500)
    for key in of(graph, "MedicalClassifierLoader"):
        assert graph[key]["inputs"]["input_size"] == 512
    far = (
        {graph[key]["inputs"]["points"] for key in of(graph, "TrajectorySelect")}
        if of(graph, "CFRTEvaluator")
        else None
    )
    assert far in (None, {"5,10,15", "30-49"})


@pytest.mark.parametrize("name", PAPER)
def test_paper_prompts_reach_the_text_encoder_letter_by_letter(client, name):
    graph = json.loads((API / f"{name}.json").read_text(encoding="utf-8"))
    for key in of(graph, "MedicalCheckpointLoader"):
        graph[key]["inputs"].update(checkpoint="MedTraverse demo (phantoms)", unet="from checkpoint")
    asked = {}
    for key in of(graph, "MedicalAttributePrompts"):
        asked["show " + key] = {"class_type": "PreviewAny", "inputs": {"source": [key, 3]}}
    kept = {
        key: graph[key] for key in of(graph, "MedicalCheckpointLoader") + of(graph, "MedicalAttributePrompts")
    } | asked
    result = client.run(kept, timeout=120)
    for key in of(graph, "MedicalAttributePrompts"):
        inputs = graph[key]["inputs"]
        lines = dict(line.split(": ", 1) for line in result.outputs["show " + key]["text"][0].split("\n"))
        assert lines.pop("negative") == "(empty)"
        neutral = lines.pop(f"neutral ({inputs['neutral']})")
        if inputs["neutral"] == "normal":
            assert neutral == NEUTRAL
            assert lines == (CHEST | BOTH if inputs["attributes"] else CHEST)
        else:
            assert neutral == LESIONS[inputs["neutral"]]
            assert lines == {attribute: neutral + words for attribute, words in ARTEFACTS.items()}

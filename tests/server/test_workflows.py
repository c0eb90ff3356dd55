"""The bundled workflows on the live server, with fewer steps and patients.

They run to the end and come from the cache.
"""

import json

import pytest

from launcher.comfyui import PACK
from medtraverse.remote.node_inputs import choices
from workflows.graphs import OWN_FILES, SUFFIX, names

API = PACK / "workflows" / "api"
DEMO = [name for name in names() if not name.endswith(SUFFIX) and name not in OWN_FILES]
PAPER = [name for name in names() if name.endswith(SUFFIX)]


@pytest.mark.parametrize("name", DEMO)
def test_it_runs_to_the_end_on_the_shipped_model(bundled, name):
    graph = bundled.load(API / f"{name}.json")
    bundled.check(graph, bundled.client.run(graph, timeout=280))


def test_the_same_again_comes_from_the_cache_and_other_frames_rerun_nothing_upstream(bundled):
    client, of = bundled.client, bundled.of
    graph = bundled.load(API / "06-fig6-bezier.json", patients=1)
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
def test_paper_settings_are_the_papers(bundled, name):
    client, of = bundled.client, bundled.of
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
    for key in of(graph, "PromptSwapKSampler") + of(graph, "MedicalStudy"):
        inputs = graph[key]["inputs"]
        first = {"CheXpert": 1500, "ISIC MEL": 3000, "ISIC NV": 4000, "ISIC": 3000}
        title = graph[key]["_meta"]["title"].removesuffix(" patients").removesuffix(" study")
        assert inputs.get("seed", inputs.get("first_seed")) == first[title]
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
def test_paper_prompts_reach_the_text_encoder_letter_by_letter(bundled, name):
    client, of = bundled.client, bundled.of
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

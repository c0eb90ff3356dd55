"""A classifier that torchvision made, put where a user puts it, judges images on a live server."""

import json

import pytest
import torch

torchvision = pytest.importorskip("torchvision")


@pytest.fixture(scope="module")
def own(base):
    """The paper's classifier, an EfficientNet-B0 with two logits, in each form that trainers leave it in."""
    folder = base / "models" / "classifiers" / "chest"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = torchvision.models.efficientnet_b0()
    network.classifier = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(1280, 2))
    wrapped = torch.nn.DataParallel(network).state_dict()
    torch.save({"state_dict": wrapped, "epoch": 3}, folder / "lightning.ckpt")
    torch.save(network.state_dict(), folder / "bare.pth")
    return ["chest/bare.pth", "chest/lightning.ckpt"]


def test_own_classifiers_are_offered_and_judge(client, graph, own):
    inputs = client.object_info("MedicalClassifierLoader")["MedicalClassifierLoader"]["input"]["required"]
    for name in ("classifier", "second_classifier"):
        offered = inputs[name][1].get("options") or inputs[name][0]
        assert [choice for choice in offered if choice.startswith("chest/")] == own
    loaded = graph.add(
        "MedicalCheckpointLoader",
        checkpoint="MedTraverse demo (phantoms)",
        unet="from checkpoint",
        domain="CheXpert",
    )
    prompts = graph.add(
        "MedicalAttributePrompts",
        clip=loaded[1],
        domain=loaded[3],
        neutral="auto",
        attributes="",
        extra_attributes="",
        neutral_prompt="",
        negative_prompt="",
    )
    sampled = graph.add(
        "PromptSwapKSampler",
        model=loaded[0],
        neutral=prompts[0],
        negative=prompts[1],
        attributes=prompts[2],
        width=0,
        height=0,
        seed=1500,
        patients=1,
        steps=4,
        cfg=7.5,
        sampler="ddim",
        scheduler="diffusers_ddim",
        swap_steps="2,1",
        noise="cpu",
        rows_per_call=0,
        cache_mb=-1,
    )
    images = graph.add("VAEDecode", samples=sampled[0], vae=loaded[2])
    judged = []
    for choice in own:
        judge = graph.add(
            "MedicalClassifierLoader",
            classifier=choice,
            second_classifier="none",
            labels="support devices, pleural effusion",
            input_size=96,
        )
        judged.append(
            graph.add(
                "CFRTEvaluator",
                trajectory=sampled[1],
                images=images[0],
                image_classifier=judge[0],
                far_points="1,2",
            )
        )
    result = client.run(graph)
    reports = [json.loads(result.outputs[node.id]["medtraverse"][0]) for node in judged]
    assert [report["classifier"] for report in reports] == own
    assert reports[0]["classifier_sha256"] != reports[1]["classifier_sha256"]
    for report in reports:
        del report["classifier"], report["classifier_sha256"]
    assert reports[0] == reports[1]

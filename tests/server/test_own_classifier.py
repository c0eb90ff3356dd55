"""A classifier that torchvision made, put where a user puts it, judges images on a live server."""

import json

import pytest
import torch

from medtraverse.remote.client import NodeFailed

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


def decoded(graph):
    """One patient of the demo model with two swap steps; the sampler's node and its images."""
    loaded, sampled = graph.traversal()
    images = graph.add("VAEDecode", samples=sampled[0], vae=loaded[2])
    return sampled, images


def test_own_classifiers_are_offered_and_judge(client, graph, own):
    inputs = client.object_info("MedicalClassifierLoader")["MedicalClassifierLoader"]["input"]["required"]
    for name in ("classifier", "second_classifier"):
        offered = inputs[name][1].get("options") or inputs[name][0]
        assert [choice for choice in offered if choice in own] == own
    sampled, images = decoded(graph)
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


@pytest.fixture(scope="module")
def foreign(base):
    """A folder that transformers saved, and the weights of a torchxrayvision-shaped DenseNet."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = base / "models" / "classifiers" / "others"
    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
        id2label={0: "Support Devices", 1: "Pleural Effusion", 2: "Edema"},
        problem_type="multi_label_classification",
    )
    ViTForImageClassification(config).save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "vit")
    densenet = torchvision.models.densenet121(weights=None, num_classes=18)
    densenet.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save(densenet.state_dict(), folder / "densenet121-res224-all.pt")
    return ["others/vit", "others/densenet121-res224-all.pt"]


def test_classifiers_of_other_libraries_are_offered_and_judge(client, graph, foreign):
    inputs = client.object_info("MedicalClassifierLoader")["MedicalClassifierLoader"]["input"]["required"]
    offered = inputs["classifier"][1].get("options") or inputs["classifier"][0]
    assert [choice for choice in offered if choice.startswith("others/")] == foreign
    sampled, images = decoded(graph)
    ours = "pleural effusion = Effusion; support devices = Fracture"  # xrv has no devices: any other label
    judged = [
        graph.add(
            "CFRTEvaluator",
            trajectory=sampled[1],
            images=images[0],
            image_classifier=graph.add(
                "MedicalClassifierLoader",
                classifier=choice,
                second_classifier="none",
                labels=labels,
                input_size=0,
            )[0],
            far_points="1,2",
        )
        for choice, labels in zip(foreign, ("", ours), strict=True)
    ]
    result = client.run(graph)
    vit, densenet = (json.loads(result.outputs[node.id]["medtraverse"][0]) for node in judged)
    assert vit["labels"] == ["Support Devices", "Pleural Effusion", "Edema"]
    assert densenet["labels"] == ["pleural effusion", "support devices"]
    for report in (vit, densenet):
        assert report["patients"] == 1
        assert len(report["classifier_sha256"]) == 64


def test_a_label_that_no_classifier_judges_is_told_before_sampling(client, graph, foreign):
    """torchxrayvision has no Support Devices. Labels that are changed later leave the samples as they are."""
    sampled, images = decoded(graph)
    graph[sampled.id]["inputs"]["seed"] = 77  # sampled by no test before
    judge = graph.add(
        "MedicalClassifierLoader", classifier=foreign[1], second_classifier="none", labels="", input_size=0
    )
    score = graph.add(
        "CFRTEvaluator", trajectory=sampled[1], images=images[0], image_classifier=judge[0], far_points="1,2"
    )
    # Straight behind the sampler, so that ComfyUI may take the sampler first.
    graph.add("LatentDirectionCosine", trajectory=sampled[1], published=False)
    with pytest.raises(NodeFailed, match="it judges Atelectasis, .*, not 'support devices'") as failed:
        client.run(graph)
    assert failed.value.node_id == sampled.id
    prompts = next(node for node in graph.values() if node["class_type"] == "MedicalAttributePrompts")
    prompts["inputs"]["attributes"] = "pleural effusion"
    report = json.loads(client.run(graph).outputs[score.id]["medtraverse"][0])
    assert report["attributes"]["pleural effusion"]["target"] == "Effusion"  # by the domain's aliases
    graph[judge.id]["inputs"]["labels"] = "pleural effusion = Effusion; devices = Fracture"
    again = client.run(graph)
    assert sampled.id in again.cached
    assert (
        json.loads(again.outputs[score.id]["medtraverse"][0])["attributes"]["pleural effusion"]["target"]
        == "pleural effusion"
    )

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


def timm_folder(folder):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    network = timm.create_model("resnet10t", num_classes=2, pretrained=False)
    save_for_hf(
        network, folder / "timm", model_config={"label_names": ["Support Devices", "Pleural Effusion"]}
    )
    return "timm"


def clip_folder(folder):
    """CLIP as open_clip keeps it: weights beside its config."""
    open_clip = pytest.importorskip("open_clip")
    towers = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
    }
    (folder / "clip").mkdir()
    torch.save(open_clip.CLIP(**towers).state_dict(), folder / "clip" / "open_clip_pytorch_model.bin")
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": towers}))
    return "clip"


def torchvision_weights(folder):
    network = torchvision.models.resnet18(weights=None, num_classes=2)
    torch.save({"model": torch.nn.DataParallel(network).state_dict()}, folder / "resnet.bin")
    sidecar = {"labels": ["support devices", "pleural effusion"], "image_size": 64}
    (folder / "resnet.json").write_text(json.dumps(sidecar))
    return "resnet.bin"


PROMPTS = "pleural effusion = pleural effusion | normal; support devices = a pacemaker | normal"


@pytest.mark.parametrize(
    ("made", "labels"),
    [(timm_folder, ""), (clip_folder, PROMPTS), (torchvision_weights, "")],
    ids=["timm", "open_clip", "torchvision"],
)
def test_each_form_of_the_table_is_offered_and_judges(client, graph, base, made, labels):
    folder = base / "models" / "classifiers" / "forms"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(2)
    judge = graph.add(
        "MedicalClassifierLoader",
        classifier=f"forms/{made(folder)}",
        second_classifier="none",
        labels=labels,
        input_size=0,
    )
    sampled, images = decoded(graph)
    score = graph.add(
        "CFRTEvaluator", trajectory=sampled[1], images=images[0], image_classifier=judge[0], far_points="1,2"
    )
    report = json.loads(client.run(graph).outputs[score.id]["medtraverse"][0])
    assert set(report["attributes"]) == {"support devices", "pleural effusion"}
    assert len(report["labels"]) == 2 and len(report["classifier_sha256"]) == 64


def script(file):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(file))


def whole(file):
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), file)


def clip_weights(file):
    torch.save({"visual.proj": torch.zeros(2, 2), "logit_scale": torch.ones(())}, file)


def other(file):
    torch.save({"stem.conv.weight": torch.zeros(2, 2), "head.weight": torch.zeros(2, 2)}, file)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (script, "is a TorchScript archive, which holds code and is never run here; save its weights"),
        (
            whole,
            r"Python objects \(torch.nn.modules.container.Sequential\) beside its tensors, which are never",
        ),
        (clip_weights, "holds the weights of a CLIP model alone"),
        (other, r"is none of torchvision's DenseNet, .* \(its keys begin with stem.conv.weight"),
    ],
    ids=["TorchScript", "pickle", "CLIP", "other"],
)
def test_what_is_not_read_is_refused_by_a_true_sentence(client, graph, base, write, message):
    folder = base / "models" / "classifiers" / "refused"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{write.__name__}.pt")
    judge = graph.add(
        "MedicalClassifierLoader",
        classifier=f"refused/{write.__name__}.pt",
        second_classifier="none",
        labels="",
        input_size=0,
    )
    sampled, images = decoded(graph)
    graph.add(
        "CFRTEvaluator", trajectory=sampled[1], images=images[0], image_classifier=judge[0], far_points="1,2"
    )
    with pytest.raises(NodeFailed, match=message) as failed:
        client.run(graph)
    assert failed.value.node_id == judge.id
    assert "weights_only=False" not in str(failed.value) and "\x1b" not in str(failed.value)

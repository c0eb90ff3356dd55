"""Which outputs are used and what they are called, and which reader a file goes to."""

import json
import re

import pytest
import torch
import torchvision
from torch import nn

from medtraverse.classifier import Classifier, load_classifier
from medtraverse.classifiers.chosen_labels import parse_labels, resolve_labels
from medtraverse.classifiers.formats import read_judge
from medtraverse.classifiers.judge import SIGMOID, Judge, Settings, Squash


def judge(labels, outputs=3):
    torch.manual_seed(outputs)
    head = nn.Linear(3, outputs)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return Judge(network, head, labels, Squash(32), SIGMOID, [], "test")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", []),
        ("hair, ink", ["hair", "ink"]),
        ("effusion = Effusion", ["effusion = Effusion"]),
        ("a = A, b = B", ["a = A", "b = B"]),
        ("a = A; b = B;", ["a = A", "b = B"]),
        ("a = one, two | none\nb = three | none", ["a = one, two | none", "b = three | none"]),
        ("a = one, two | none", ["a = one, two | none"]),
        ("hair, gel bubble\n", ["hair", "gel bubble"]),
        ("hair, gel bubble;ink", ["hair", "gel bubble", "ink"]),
        ("Effusion, Devices = 3", ["Effusion", "Devices = 3"]),
    ],
)
def test_labels_are_read_from_a_text(text, labels):
    assert parse_labels(text) == labels


def test_lines_keep_and_rename_the_logits_that_they_name():
    judges = [judge(["Effusion", "Mass", "Edema"]), judge(["Devices"], 1)]
    asked = ["pleural effusion = effusion", "support devices = Devices", "edema = 2"]
    labels, columns = resolve_labels(asked, judges, ["a", "b"])
    assert labels == ["pleural effusion", "support devices", "edema"]
    assert columns == [0, 3, 2]
    classifier = Classifier(judges, labels, columns)
    images = torch.rand(2, 32, 32, 3)
    whole = Classifier(judges, ["0", "1", "2", "3"]).predict(images)
    assert torch.equal(classifier.predict(images), whole[:, columns])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["a = Nothing"], "labels: x has no logit 'Nothing'; it has Effusion, Mass, Edema."),
        (["a = 7"], "has no logit '7'"),
        (["a = Mass", "b"], "cannot read 'b'"),
        (["a = Mass", "A = Edema"], "repeats a name"),
        (["a", "b"], "2 names .* for 3 logits"),
    ],
)
def test_labels_that_do_not_fit_are_named(asked, message):
    with pytest.raises(ValueError, match=message):
        resolve_labels(asked, [judge(["Effusion", "Mass", "Edema"])], ["x"])


def test_classifiers_are_joined_and_a_label_stands_once():
    first, second = (
        Classifier([judge(None, n)], names) for n, names in ((1, ["hair"]), (2, ["ink", "Hair"]))
    )
    with pytest.raises(ValueError, match="others: both classifiers judge hair"):
        first.with_others(second)
    joined = first.with_others(Classifier([judge(None, 2)], ["ink"], [1]))
    images = torch.rand(3, 40, 40, 3)
    assert joined.labels == ("hair", "ink")
    assert torch.equal(joined.predict(images)[:, 0], first.predict(images)[:, 0])
    assert torch.equal(joined.predict(images)[:, 1], second.predict(images)[:, 1])


def test_a_trainers_checkpoint_of_a_torchvision_model_is_read(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None, num_classes=2).eval()
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    state["criterion.pos_weight"] = torch.ones(2)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    (tmp_path / "last.json").write_text(json.dumps({"image_size": 64, "labels": ["hair", "ink"], "seed": 1}))
    classifier = load_classifier(tmp_path / "last.ckpt")
    assert (classifier.labels, classifier.input_size) == (("hair", "ink"), 64)
    assert classifier.notes == ()
    images = torch.rand(2, 64, 64, 3)
    with torch.inference_mode():
        wanted = torch.sigmoid(network(classifier.judges[0].prepare(images)))
    torch.testing.assert_close(classifier.predict(images), wanted)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.h5", b"x", "ends in '.h5'"),
        ("folder", None, "has no config.json"),
    ],
)
def test_what_is_no_classifier_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_judge(path)


@pytest.mark.parametrize("record", ['{"image_size": "large"}', '{"labels": {"0": "hair"}}', "{", "[]"])
def test_a_training_record_beside_the_weights_says_nothing(tmp_path, record):
    network = torchvision.models.resnet18(weights=None, num_classes=2)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    (tmp_path / "mine.json").write_text(record)
    judge = read_judge(tmp_path / "mine.pth")
    assert judge.labels is None
    assert "224 is used" in judge.notes[0]


def test_an_efficientnet_takes_the_normalisation_beside_it(tmp_path):
    network = torchvision.models.efficientnet_b0(num_classes=2).eval()
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    (tmp_path / "mine.json").write_text(
        json.dumps({"image_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "labels": ["hair", "ink"]})
    )
    classifier = load_classifier(tmp_path / "mine.pth")
    images = torch.rand(2, 64, 64, 3)
    with torch.inference_mode():
        wanted = torch.sigmoid(network((images.permute(0, 3, 1, 2) - 0.5) / 0.5))
    torch.testing.assert_close(classifier.predict(images), wanted)


def test_torchxrayvisions_resnet_is_read_with_its_thresholds(tmp_path):
    network = torchvision.models.resnet50(weights=None, num_classes=18)
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    torch.save({**state, "op_threshs": torch.full((18,), 0.5)}, tmp_path / "resnet50-res512-all.pt")
    judge = read_judge(tmp_path / "resnet50-res512-all.pt")
    assert judge.kind == "torchxrayvision resnet50"
    assert judge.input_size == (512, 512)


def test_folders_that_name_other_places_are_refused(tmp_path):
    timm_folder, clip_folder = tmp_path / "timm", tmp_path / "clip"
    timm_folder.mkdir()
    clip_folder.mkdir()
    (timm_folder / "model.safetensors").write_bytes(b"")
    for config in (
        {"architecture": "hf-hub:somebody/model"},
        {"architecture": "resnet10t", "model_args": {"checkpoint_path": "/elsewhere.pth"}},
    ):
        (timm_folder / "config.json").write_text(json.dumps({"num_classes": 2, **config}))
        with pytest.raises(ValueError, match="does not build by itself"):
            read_judge(timm_folder)
    for models, message in (
        ({"text_cfg": {"hf_tokenizer_name": "somebody/bert"}}, "asks for the tokenizer of somebody/bert"),
        ({"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}, "asks for trust_remote_code"),
        ({"vision_cfg": {"timm_model_name": "hf-hub:somebody/vit"}}, "asks for hf-hub:somebody/vit"),
        ({"text_cfg": {}}, "holds no weights"),
    ):
        (clip_folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": models}))
        with pytest.raises(ValueError, match=message):
            read_judge(clip_folder, Settings(labels=("a = one | none",)))
    (clip_folder / "open_clip_model.safetensors").write_bytes(b"")
    named = {"model_cfg": {"text_cfg": {"hf_model_name": "somebody/bert"}}}
    (clip_folder / "open_clip_config.json").write_text(json.dumps(named))
    (clip_folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(
        ValueError, match=r"do not show its attention heads; copy config\.json of somebody/bert"
    ):
        read_judge(clip_folder, Settings(labels=("a = one | none",)))
    (clip_folder / "bert").mkdir()
    foreign = {"hidden_size": 8, "auto_map": {"AutoModel": "modeling.Model"}}
    (clip_folder / "bert" / "config.json").write_text(json.dumps(foreign))
    with pytest.raises(ValueError, match="code of its own, which is never run"):
        read_judge(clip_folder, Settings(labels=("a = one | none",)))
    (clip_folder / "open_clip_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"open_clip_config\.json cannot be read"):
        read_judge(clip_folder, Settings(labels=("a = one | none",)))


def test_the_weights_of_a_clip_model_alone_are_named(tmp_path):
    torch.save(
        {"visual.conv1.weight": torch.zeros(2, 2), "logit_scale": torch.ones(())}, tmp_path / "clip.pt"
    )
    with pytest.raises(ValueError, match="weights of a CLIP model alone"):
        read_judge(tmp_path / "clip.pt")


def test_chexnets_form_is_read(tmp_path):
    """Its wrapper calls the network densenet121, its head is a sequence, its layers have old names."""
    torch.manual_seed(0)
    network = torchvision.models.densenet121(weights=None, num_classes=14).eval()
    state = {}
    for key, value in network.state_dict().items():
        key = re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key)
        key = key.replace("classifier.", "classifier.0.")
        state[f"module.densenet121.{key}"] = value
    torch.save({"state_dict": state, "epoch": 4}, tmp_path / "model.pth.tar")
    images = torch.rand(2, 64, 64, 3)
    judge = read_judge(tmp_path / "model.pth.tar", Settings(size=64))
    with torch.inference_mode():
        inputs = judge.prepare(images)
        assert torch.equal(judge.probabilities(inputs), torch.sigmoid(network(inputs)))
    assert judge.kind == "torchvision densenet121"


def test_a_head_beside_the_network_is_read(tmp_path):
    torch.manual_seed(0)
    body, head = torchvision.models.resnet18(weights=None), nn.Linear(512, 3)
    body.fc = nn.Identity()
    wrapped = nn.ModuleDict({"cnn": body, "output": head}).eval()
    torch.save(
        {"state_dict": {f"net.{k}": v for k, v in wrapped.state_dict().items()}}, tmp_path / "last.ckpt"
    )
    judge = read_judge(tmp_path / "last.ckpt", Settings(size=64))
    images = torch.rand(2, 64, 64, 3)
    with torch.inference_mode():
        inputs = judge.prepare(images)
        torch.testing.assert_close(judge.probabilities(inputs), torch.sigmoid(head(body(inputs))))

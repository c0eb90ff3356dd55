"""Which outputs are used and what they are called, and which reader a file goes to."""

import json

import pytest
import torch
import torchvision
from torch import nn

from medtraverse.classifier import Classifier, load_classifier
from medtraverse.classifiers.chosen_labels import parse_labels, resolve_labels
from medtraverse.classifiers.formats import read_judge
from medtraverse.classifiers.judge import SIGMOID, Judge, Squash


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


def test_a_damaged_sidecar_is_named(tmp_path):
    network = torchvision.models.resnet18(weights=None, num_classes=2)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    (tmp_path / "mine.json").write_text('{"image_size": "large"}')
    with pytest.raises(ValueError, match="image_size in mine.json is 'large'"):
        read_judge(tmp_path / "mine.pth")

"""Classifiers trained by the command line, on a small set in CheXpert's layout: a bar, a patch, noise."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from medtraverse.__main__ import main
from medtraverse.classifier import load_classifier
from medtraverse.data_sets import read, read_pixels
from medtraverse.notice import NOTICE
from medtraverse.training import classifier_loop
from medtraverse.training.classifier_examples import CHOOSE, JUDGE, TRAIN, Order, examples_of
from medtraverse.training.classifier_loop import Training, masked_loss
from medtraverse.training.classifier_weights import begin_with
from medtraverse.weights import metadata_of, read_tensors

LABELS = ("Support Devices", "Pleural Effusion")
COLUMNS = ("No Finding", "Cardiomegaly", "Lung Opacity", "Edema", "Pneumonia", "Pneumothorax", *LABELS[::-1])
SMALL = ["--size", "32", "--workers", "0", "--batch", "8", "--held-out", "0.4", "--together"]
# Nine steps an epoch; a network that learns the bar and the patch in them, with dropout and augmentation on.
QUICK = ["--backbone", "timm:test_resnet", "--rate", "0.01", "--degrees", "0", "--shift", "0.05"]
TAUGHT = [*SMALL, *QUICK, "--epochs", "3", "--pos-weight", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """120 films of 60 patients, 36 to train on; one label in five is uncertain or blank."""
    root, rng = tmp_path_factory.mktemp("set") / "CheXpert-v1.0-small", np.random.default_rng(0)
    rows = []
    for number in range(120):
        devices, effusion = rng.integers(2, size=2)
        pixels = rng.integers(90, 130, (32, 32), dtype=np.uint8)
        pixels[3:12, 12:20] += np.uint8(110 * devices)
        pixels[20:, :] -= np.uint8(80 * effusion)
        file = f"train/patient{number // 2:05d}/study{number % 2 + 1}/view1_frontal.jpg"
        (root / file).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(root / file, quality=95)
        cells = [
            str(float(value)) if rng.random() < 0.8 else rng.choice(["", "-1.0"])
            for value in (effusion, devices)
        ]
        sex, age = rng.choice(["Female", "Male"]), rng.integers(20, 90)
        rows.append([f"{root.name}/{file}", sex, age, "Frontal", rng.choice(["AP", "PA"]), *[""] * 6, *cells])
    with (root / "train.csv").open("w", newline="") as table:
        csv.writer(table).writerows([["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *COLUMNS], *rows])
    return root


def train(data, out, *options):
    return main(["train", "classifier", "--data", str(data), "--out", str(out), *options])


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A training from beginning to end; positives have a weight, so that its shift is folded too."""
    out = tmp_path_factory.mktemp("trained") / "bars"
    assert train(data, out, *TAUGHT) == 0
    return out


def test_what_is_written_is_what_load_classifier_reads(data, whole):
    classifier = load_classifier(whole / "bars.safetensors")
    assert (classifier.labels, classifier.input_size, classifier.notes) == (LABELS, 32, ())
    predictions = pd.read_csv(whole / "predictions.csv")
    pixels = [read_pixels(read(data).root / file, 32) for file in predictions["file"]]
    probabilities = classifier.predict(torch.from_numpy(np.stack(pixels)).float() / 255).numpy()
    table = pd.read_csv(whole / "held-out.csv")
    for column, label in enumerate(LABELS):
        told = predictions[f"{label} probability"]
        np.testing.assert_allclose(told, probabilities[:, column], atol=1e-6)
        certain = predictions[label].notna()
        area = roc_auc_score(predictions[label][certain], told[certain])
        row = table[(table["group"] == "all") & (table["label"] == label)].iloc[0]
        assert row["auc"] == pytest.approx(area) and area > 0.95
        assert row["images"] == certain.sum() and row["notice"] == NOTICE
    assert set(table["group"]) == {"all", "sex", "age", "projection"}
    # by the metadata alone, without a word on temperature: it is in the weights
    metadata, report = (
        metadata_of(whole / "bars.safetensors"),
        json.loads((whole / "report.json").read_text()),
    )
    assert metadata["notice"] == NOTICE and metadata["architecture"] == "timm:test_resnet"
    assert json.loads(metadata["temperature"]) == pytest.approx(
        list(report["temperature"].values()), abs=1e-5
    )
    assert all(value != 1 for value in report["temperature"].values())
    assert {path.name for path in whole.iterdir()} >= {"log.jsonl", "last.safetensors", "reliability.png"}


def test_no_patient_is_on_two_sides(data):
    parts = examples_of(read(data, held_out=0.4), LABELS, 0)
    patients = [set(parts[name].patients) for name in (TRAIN, CHOOSE, JUDGE)]
    assert all(patients) and sum(map(len, patients)) == len(set.union(*patients))
    for rows in parts.values():
        assert np.isfinite(rows.truth).any(1).all() and np.isnan(rows.truth).any()


def test_a_stopped_training_goes_on_as_if_it_had_not_been(data, whole, tmp_path, monkeypatch, capsys):
    update, options = Training._update, [*TAUGHT, "--save-every", "7"]
    for stop in (0, 9, 10, 25):

        def stops(self, *batch, stop=stop):
            if self.step == stop:
                raise KeyboardInterrupt
            return update(self, *batch)

        monkeypatch.setattr(Training, "_update", stops)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "bars", *options, *["--resume"] * (stop > 0))
    monkeypatch.undo()
    assert train(data, tmp_path / "bars", *options) == 2  # it does not begin anew over it
    assert "go on with it by --resume" in capsys.readouterr().err
    assert train(data, tmp_path / "bars", *options, "--resume", "--rate", "0.001") == 2
    assert re.search(r"resume: .*holds a training with recipe rate 0.01, not 0.001", capsys.readouterr().err)
    for message in ("goes on at step 21 of 27", "is complete"):
        assert train(data, tmp_path / "bars", *options, "--resume") == 0
        assert message in capsys.readouterr().out
    for name in ("bars.safetensors", "last.safetensors"):
        one, other = read_tensors(whole / name, "one"), read_tensors(tmp_path / "bars" / name, "other")
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)

    def verdicts(out):
        lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
        return {line["epoch"]: line["held_out"]["loss"] for line in lines if "held_out" in line}

    assert verdicts(tmp_path / "bars") == pytest.approx(verdicts(whole), abs=1e-6)


def test_masked_labels_have_no_part_in_the_loss():
    logits = torch.randn(6, 2, requires_grad=True)
    truth = torch.tensor([[1, 0], [0, torch.nan], [torch.nan, 1], [1, 1], [0, 0], [torch.nan, torch.nan]])
    masked_loss(logits, truth, torch.tensor([2.0, 1.0])).backward()
    certain = torch.isfinite(truth)
    expected = torch.sigmoid(logits.detach()) * (1 - truth.nan_to_num())
    expected -= (1 - torch.sigmoid(logits.detach())) * truth.nan_to_num() * torch.tensor([2.0, 1.0])
    torch.testing.assert_close(logits.grad, torch.where(certain, expected, 0.0))


def test_processes_share_out_the_batches_of_one():
    alone = list(Order(37, 8, 2, seed=5))
    shares = [list(Order(37, 8, 2, 5, 0, process, 2)) for process in range(2)]
    assert len(alone) == 8 and alone[3:] == list(Order(37, 8, 2, 5, first=3))
    for step, keys in enumerate(alone):
        assert sorted(keys) == sorted(shares[0][step] + shares[1][step])
    epoch = [row for keys in alone[:4] for row, _ in keys]
    assert len(set(epoch)) == 32 and epoch != [row for keys in alone[4:] for row, _ in keys]


def test_a_timm_backbone_begins_with_a_file_and_is_read_back(data, tmp_path, capsys):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    given = timm.create_model("test_vit", pretrained=False, num_classes=1000, img_size=32).state_dict()
    save_file(given, tmp_path / "imagenet.safetensors")
    options = [
        *SMALL,
        "--labels",
        "pleural effusion",
        "--backbone",
        "timm:test_vit",
        "--epochs",
        "1",
        "--half",
    ]
    assert train(data, tmp_path / "vit", *options, "--init", str(tmp_path / "imagenet.safetensors")) == 0
    assert "weights are imagenet.safetensors's; the head is new" in capsys.readouterr().out
    classifier = load_classifier(tmp_path / "vit" / "vit.safetensors")
    assert classifier.labels == ("Pleural Effusion",) and classifier.judges[0].kind == "timm test_vit"
    predictions = pd.read_csv(tmp_path / "vit" / "predictions.csv")
    pixels = np.stack([read_pixels(read(data).root / file, 32) for file in predictions["file"]])
    told = classifier.predict(torch.from_numpy(pixels).float() / 255)[:, 0]
    np.testing.assert_allclose(told, predictions["Pleural Effusion probability"], atol=1e-6)
    with pytest.raises(ValueError, match="input_size: vit.safetensors takes images of 32 pixels only"):
        load_classifier(tmp_path / "vit" / "vit.safetensors", input_size=64)
    other = timm.create_model("test_convnext", num_classes=1)
    with pytest.raises(ValueError, match="init: imagenet.safetensors is not of this backbone"):
        begin_with(other, other.get_classifier(), tmp_path / "imagenet.safetensors")


def test_the_papers_pair_is_a_network_a_label(data, tmp_path):
    options = [option for option in SMALL if option != "--together"]
    assert train(data, tmp_path / "pair", *options, "--width", "0.25", "--epochs", "1") == 0
    stems = ("support-devices", "pleural-effusion")
    files = [tmp_path / "pair" / stem / f"{stem}.safetensors" for stem in stems]
    pair = load_classifier(files)
    assert pair.labels == LABELS and pair.judges[0].kind == "torchvision efficientnet_b0"
    training = json.loads(metadata_of(files[0])["training"])
    recipe = {key: training["recipe"][key] for key in ("rate", "weight_decay", "floor")}
    assert recipe == {"rate": 2e-4, "weight_decay": 1e-2, "floor": 1e-6}  # the paper's
    # a plain new layer; torchvision's own head of one label begins with weights up to 1
    assert read_tensors(files[0], "file")["classifier.1.weight"].abs().max() < 0.3
    assert len(pd.read_csv(tmp_path / "pair" / "predictions.csv").columns) == 1 + 2 * 2 + 1


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_state(data, tmp_path, monkeypatch, capsys):
    loss, calls = classifier_loop.masked_loss, []

    def breaks(*arguments):
        calls.append(1)
        return loss(*arguments) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(classifier_loop, "masked_loss", breaks)
    assert train(data, tmp_path / "out", *TAUGHT, "--save-every", "2") == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "loss: it is no number (NaN) at step 3" in message
    state = torch.load(tmp_path / "out" / "training.state", weights_only=True)
    assert state["step"] == 2 and all(torch.isfinite(value).all() for value in state["network"].values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "Edema"], "labels: 'Edema' has no positive among the"),
        (["--labels", "Emphysema"], "labels: the table has no 'Emphysema'; it has No Finding"),
        (["--held-out", "0"], "has no usable image held out"),
        (
            ["--backbone", "efficientnet_b00"],
            "'efficientnet_b00' is no image classifier of torchvision or timm",
        ),
        (["--backbone", "resnet18", "--width", "0.5"], "width: resnet18 has one width"),
        (["--init", "nowhere.safetensors"], "init: nowhere.safetensors is no file"),
        (["--precision", "fp16"], "precision: fp16 needs a GPU"),
        (["--pos-weight", "much"], "pos-weight: 'much' is no weight"),
        (["--epochs", "0"], "epochs: 0 is too small"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(data, tmp_path, capsys, options, message):
    if options == ["--precision", "fp16"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert train(data, tmp_path / "out", *SMALL, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "out").exists()


def test_a_broken_image_is_named(data, tmp_path, capsys):
    file = read(data).frame["file"].iloc[5]
    path = read(data).root / file
    content = path.read_bytes()
    try:
        path.write_bytes(content[:200])
        assert train(data, tmp_path / "out", *SMALL, "--epochs", "1") == 2
    finally:
        path.write_bytes(content)
    (line,) = capsys.readouterr().err.splitlines()
    assert file in line

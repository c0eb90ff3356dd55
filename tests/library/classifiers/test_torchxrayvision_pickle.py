"""torchxrayvision's own files, whole modules in both of PyTorch's formats, become weights and are not run."""

import copy
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medtraverse.__main__ import main
from medtraverse.classifier import load_classifier
from medtraverse.classifiers.torchxrayvision_pickle import convert
from medtraverse.classifiers.torchxrayvision_state import (
    PATHOLOGIES,
    UNTRAINED,
    released_weights,
    trained_by,
)

xrv = pytest.importorskip("torchxrayvision")
RELEASE = "chex-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"


@pytest.fixture(scope="module")
def network():
    """torchxrayvision's DenseNet with random weights."""
    torch.manual_seed(7)
    made = xrv.models.DenseNet(num_classes=18, weights=None)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    return made.eval()


@pytest.mark.parametrize("zipped", [True, False], ids=["new", "before 1.6"])
def test_a_release_is_converted_and_judges_as_torchxrayvision(tmp_path, network, capsys, zipped):
    file = tmp_path / RELEASE
    old = copy.deepcopy(network)
    for module in old.modules():
        del module._non_persistent_buffers_set  # which the PyTorch of the releases had not
    torch.save(old, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="whole model of torchxrayvision.*convert-torchxrayvision"):
        load_classifier(file)
    assert main(["convert-torchxrayvision", str(file)]) == 0
    assert "11 labels, Atelectasis, Consolidation, Pneumothorax" in capsys.readouterr().out
    classifier = load_classifier(file.with_suffix(".safetensors"))
    assert classifier.labels == tuple(n for n in PATHOLOGIES if n in trained_by("densenet121-res224-chex"))
    films = torch.nn.functional.interpolate(torch.rand(2, 1, 9, 9), size=(224, 224), mode="bicubic").clamp(
        0, 1
    )
    inputs = torch.from_numpy(np.stack([xrv.utils.normalize(film.numpy(), 1) for film in films]))
    own = torch.load(file, weights_only=False)  # what torchxrayvision does
    for module in own.modules():
        module._non_persistent_buffers_set = set()
    own = own.eval()
    with torch.inference_mode():
        wanted = torch.sigmoid(own.classifier(own.features2(inputs)))
    kept = [PATHOLOGIES.index(label) for label in classifier.labels]
    judged = classifier.predict(films[:, 0, :, :, None].expand(-1, -1, -1, 3))
    assert (judged - wanted[:, kept]).abs().max() <= 1e-5


def test_the_labels_of_every_weights_are_torchxrayvisions_own():
    for name in UNTRAINED:
        record = xrv.models.model_urls[name]
        named = {label for label in record["labels"] if label}
        measured = {
            label for label, value in zip(PATHOLOGIES, record["op_threshs"], strict=True) if value == value
        }
        assert set(trained_by(name) or ()) == named & measured
        assert (
            released_weights(record["weights_url"].split("/")[-1]) == released_weights(f"{name}.pth") == name
        )
    assert released_weights("mine.pt") == "" and trained_by("mine") is None


class Bomb:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, zipped):
    layer = torch.nn.Linear(2, 2)
    layer.bomb = Bomb(tmp_path / "run")
    torch.save(layer, tmp_path / "bad.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="bad.pt: it holds a Linear, and no DenseNet-121"):
        convert(tmp_path / "bad.pt", tmp_path / "bad.safetensors")
    assert not (tmp_path / "run").exists() and not (tmp_path / "bad.safetensors").exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert (tmp_path / "run").exists()  # it would have


def test_a_state_dict_of_several_gpus_is_converted_with_its_thresholds(tmp_path, network):
    thresholds = torch.full((18,), 0.5)
    thresholds[2] = torch.nan
    wrapped = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({**wrapped, "module.op_threshs": thresholds}, tmp_path / "mine.pt")
    labels = convert(tmp_path / "mine.pt", tmp_path / "mine.safetensors")
    assert len(labels) == 17 and "Infiltration" not in labels
    assert load_classifier(tmp_path / "mine.safetensors").labels == tuple(labels)
    assert load_classifier(tmp_path / "mine.pt").labels == tuple(labels)
    assert torch.equal(
        load_file(tmp_path / "mine.safetensors")["classifier.weight"], network.classifier.weight
    )


def test_what_cannot_be_converted_is_named(tmp_path, network, capsys):
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    out = tmp_path / "mine.safetensors"
    for arguments, message in (
        ([], "nothing says which of the 18 labels it was trained for; name its weights by --weights"),
        (["--weights", "nih"], "weights: there is no 'nih'; choose one of densenet121-res224-all"),
        (["--out", str(tmp_path / "mine.pth")], "out: mine.pth does not end in .safetensors"),
        (["--out", str(tmp_path / "old.sft")], "old.sft is there already"),
    ):
        (tmp_path / "old.sft").write_bytes(b"x")
        assert main(["convert-torchxrayvision", str(tmp_path / "mine.pt"), *arguments]) == 2
        assert message in capsys.readouterr().err and not out.exists()
    for content, message in ((b"", "is empty"), (b"\x80\x02cut", "could not be read|is cut off")):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "bad.pt", out)
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(tmp_path / "script.pt"))
    with pytest.raises(ValueError, match="TorchScript"):
        convert(tmp_path / "script.pt", out)
    assert convert(tmp_path / "mine.pt", out, "densenet121-res224-rsna") == ["Pneumonia", "Lung Opacity"]


def test_without_any_word_on_its_labels_all_are_used_and_that_is_said(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    classifier = load_classifier(tmp_path / "mine.pt")
    assert classifier.labels == PATHOLOGIES
    assert "nothing says which of its 18 labels were trained" in classifier.notes[1]
    torch.save(network.state_dict(), tmp_path / "densenet121-res224-nih.pt")
    named = load_classifier(tmp_path / "densenet121-res224-nih.pt")
    assert len(named.labels) == 14 and len(named.notes) == 1


def test_metadata_of_another_form_is_refused(tmp_path, network):
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "mine.safetensors", {"labels": json.dumps(["a", "b"])})
    with pytest.raises(ValueError, match="has 2 labels; write 18"):
        load_classifier(tmp_path / "mine.safetensors")

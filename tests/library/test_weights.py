"""Weight files as trainers leave them: opened, or refused in a sentence that never advises to unpickle."""

import argparse
import json
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from medtraverse.weights import metadata_of, read_tensors, without_wrappers


@pytest.fixture(scope="module")
def state():
    return torchvision.models.squeezenet1_1().state_dict()


CONTAINERS = {
    "bare": lambda w: w,
    "Lightning": lambda w: {"epoch": 3, "state_dict": w, "hyper_parameters": {"rate": 1e-4}},
    "hand-written": lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {}}},
    "timm": lambda w: {"model": w, "args": argparse.Namespace(rate=0.1), "epoch": 1},
    "DeepSpeed": lambda w: {"module": w, "global_steps": 3},
    "nested": lambda w: {"model": {"state_dict": w}},
    "counters beside": lambda w: {**w, "step": 3},
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_containers_of_trainers_are_opened(tmp_path, state, container):
    torch.save(container(state), tmp_path / "a.ckpt")
    read = read_tensors(tmp_path / "a.ckpt", "classifier")
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize("numpy_name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_the_records_of_stable_diffusions_own_files_are_passed_over(tmp_path, state, monkeypatch, numpy_name):
    """Lightning keeps its best score, a numpy number, in a class of its own; numpy 2 renamed its module."""
    lightning = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    lightning.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": lightning.__name__})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", lightning.__name__):
        monkeypatch.setitem(sys.modules, name, lightning)
    record = {lightning.ModelCheckpoint: {"best": np.float64(0.5), "epoch": 1}}
    torch.save({"global_step": 3, "state_dict": state, "callbacks": record}, tmp_path / "a.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "a.ckpt") as written,
        zipfile.ZipFile(tmp_path / "b.ckpt", "w") as renamed,
    ):
        for entry in written.namelist():
            content = written.read(entry)
            if entry.endswith("data.pkl"):
                before = content
                content = content.replace(b"numpy.core.multiarray\n", numpy_name.encode() + b"\n")
                content = content.replace(b"numpy._core.multiarray\n", numpy_name.encode() + b"\n")
                assert numpy_name.encode() in content and b"pytorch_lightning" in before
            renamed.writestr(entry, content)
    monkeypatch.undo()
    assert read_tensors(tmp_path / "b.ckpt", "checkpoint").keys() == state.keys()


def test_prefixes_of_real_wrappers_come_off(state):
    network = torchvision.models.squeezenet1_1()
    network.load_state_dict(state)
    averaged = torch.optim.swa_utils.AveragedModel(network).state_dict()
    averaged.pop("n_averaged")
    for wrapped in (
        torch.nn.DataParallel(network).state_dict(),
        torch.compile(network).state_dict(),
        torch.nn.DataParallel(torch.compile(network)).state_dict(),
        averaged,
    ):
        assert wrapped.keys() != state.keys() and without_wrappers(wrapped).keys() == state.keys()


def test_all_parts_of_sharded_weights_are_read_by_any_of_them(tmp_path, state):
    keys, names = list(state), [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, name in enumerate(names):
        save_file({key: state[key] for key in keys[number::2]}, tmp_path / name)
    for name in names:
        assert read_tensors(tmp_path / name, "unet").keys() == state.keys()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: names[at % 2] for at, key in enumerate(keys)}}))
    assert read_tensors(tmp_path / names[1], "unet").keys() == state.keys()
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(
        ValueError, match="unet: .* names '../secret.safetensors', which is not a file beside"
    ):
        read_tensors(tmp_path / names[1], "unet")
    index.unlink()
    (tmp_path / names[0]).unlink()
    with pytest.raises(ValueError, match="unet: model-00001-of-00002.safetensors.* is missing"):
        read_tensors(tmp_path / names[1], "unet")


def scripted(path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)


def cut(path):
    torch.save({"a": torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:5_000])


BROKEN = {
    "TorchScript": ("x.pt", scripted, "is a TorchScript archive.*never run.*state_dict"),
    "pickled module": (
        "x.pth",
        lambda p: torch.save(torch.nn.Linear(1, 1), p),
        "torch.nn.modules.linear.Linear",
    ),
    "objects beside": (
        "x.ckpt",
        lambda p: torch.save({"state_dict": {"a": torch.zeros(1)}, "callback": Path("x")}, p),
        "Python objects.*save its state dict alone",
    ),
    "cut off": ("x.ckpt", cut, "cut off, or another kind of file"),
    "junk": ("x.pth", lambda p: p.write_bytes(b"junk"), "could not be read as PyTorch weights"),
    "no safetensors": ("x.sft", lambda p: p.write_bytes(b"junk"), "could not be read as safetensors"),
    "empty": ("x.safetensors", lambda p: p.write_bytes(b""), "x.safetensors is empty"),
    "pointer": (
        "x.bin",
        lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "Git LFS pointer",
    ),
    "page": ("x.safetensors", lambda p: p.write_bytes(b"\n<!DOCTYPE html>"), "is a web page"),
    "numbers": ("x.pth", lambda p: torch.save({"epoch": 3}, p), "holds the keys 'epoch' and no state dict"),
    "list": ("x.pth", lambda p: torch.save([1], p), "holds a list and no state dict"),
    "hollow": ("x.pth", lambda p: torch.save({"state_dict": {}}, p), r"\['state_dict'\] holds nothing"),
}


@pytest.mark.parametrize(("name", "write", "fault"), BROKEN.values(), ids=BROKEN)
def test_other_files_are_named_and_torchs_advice_is_not_repeated(tmp_path, name, write, fault):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"^classifier: {name}.*") as caught:
        read_tensors(tmp_path / name, "classifier")
    message = str(caught.value)
    assert caught.match(fault) and "\x1b" not in message and "\n" not in message
    assert "weights_only" not in message and "torch.load" not in message


def test_metadata_comes_from_safetensors_alone(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"labels": "[]"})
    torch.save({}, tmp_path / "a.pth")
    assert metadata_of(tmp_path / "a.safetensors") == {"labels": "[]"}
    assert metadata_of(tmp_path / "a.pth") == {}

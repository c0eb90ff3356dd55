"""What the loaders' lists offer of the files that users leave in ComfyUI's folders."""

import importlib.util
import shutil
from pathlib import Path

import folder_paths
import pytest
import torch
import yaml


@pytest.fixture
def models():
    """ComfyUI's models folder of this test run, emptied afterwards, and its register as it was before."""
    known = {kind: (folders[:], set(suffixes)) for kind, (folders, suffixes) in registered().items()}
    root = Path(folder_paths.models_dir)
    root.mkdir(exist_ok=True)
    yield root
    for path in root.rglob("*"):
        if path.is_symlink() or path.is_file():
            path.unlink()
    registered().clear()
    registered().update(known)
    folder_paths.filename_list_cache.clear()


def registered():
    return folder_paths.folder_names_and_paths


def put(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"_class_name": "UNet2DConditionModel"}' if path.name == "config.json" else "{}")


@pytest.fixture
def listed(node_classes):
    """``listed(node, input)``: the choices that ``/object_info`` shows."""

    def options(node, name):
        info = node_classes[node].GET_NODE_INFO_V1()["input"]["required"][name]
        return info[1].get("options", info[0])

    return options


def test_own_classifiers_are_listed_though_core_registers_the_folder_for_files_without_suffix(models, listed):
    assert registered()["classifiers"][1] == {""} or ".pth" in registered()["classifiers"][1]
    folder = models / "classifiers"
    put(folder / "a.safetensors", folder / "sub" / "b.PTH", folder / "c.ckpt", folder / "README.md")
    put(folder / "put_classifiers_here")
    shown = listed("MedicalClassifierLoader", "classifier")
    assert [name for name in shown if "demo" not in name] == ["a.safetensors", "c.ckpt", "sub/b.PTH"]
    put(folder / "d.sft")
    assert "d.sft" in listed("MedicalClassifierLoader", "second_classifier")


@pytest.mark.parametrize("order", ["before", "after"])
def test_extra_model_paths_are_listed_beside_the_folders_of_models(models, listed, pack, tmp_path, order):
    # By its path: another test may have imported another module called utils.
    file = Path(folder_paths.__file__).parent / "utils" / "extra_config.py"
    spec = importlib.util.spec_from_file_location("extra_config", file)
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    if order == "after":
        listed("MedicalClassifierLoader", "classifier"), pack.nodes.sources.metric_folders()
    else:
        registered().pop("metrics", None)
    extra = tmp_path / "extra.yaml"
    extra.write_text(
        yaml.safe_dump({"disk": {"base_path": str(tmp_path), "classifiers": "judges", "metrics": "measures"}})
    )
    reader.load_extra_path_config(str(extra))
    put(
        tmp_path / "judges" / "far.pth", tmp_path / "judges" / "notes.txt", models / "classifiers" / "near.pt"
    )
    shown = listed("MedicalClassifierLoader", "classifier")
    assert [name for name in shown if "demo" not in name] == ["far.pth", "near.pt"]
    assert pack.nodes.sources.classifier_paths()["far.pth"] == tmp_path / "judges" / "far.pth"
    assert set(pack.nodes.sources.metric_folders()) == {models / "metrics", tmp_path / "measures"}


def test_diffusers_folders_are_found_where_core_finds_them(models, listed, tmp_path):
    root = models / "diffusers"
    put(root / "whole" / "model_index.json", root / "whole" / "unet" / "config.json")
    put(root / "whole" / "whole" / "model_index.json")
    put(tmp_path / "elsewhere" / "model_index.json")
    put(root / "run" / "checkpoint-500" / "unet" / "config.json")
    put(root / "run" / "checkpoint-500" / "unet_ema" / "config.json")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "circle").symlink_to(root)
    shown = listed("MedicalCheckpointLoader", "checkpoint")
    assert shown[1:] == ["diffusers/linked", "diffusers/whole", "diffusers/whole/whole"]
    own = [name for name in listed("MedicalCheckpointLoader", "unet") if name.startswith("diffusers/")]
    assert own == ["diffusers/run/checkpoint-500/unet", "diffusers/run/checkpoint-500/unet_ema"]


def test_nothing_that_lies_in_a_folder_takes_the_lists_away(models, listed, tmp_path):
    for kind in ("checkpoints", "diffusion_models", "classifiers", "diffusers", "embeddings", "metrics"):
        folder = models / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gone.safetensors").symlink_to(tmp_path / "nowhere")
        (folder / "folder.safetensors").mkdir(exist_ok=True)
        (folder / "bad").mkdir(exist_ok=True)
        for name in ("config.json", "model_index.json"):
            (folder / "bad" / name).write_bytes(b"\xff{")
        (folder / "worse").mkdir(exist_ok=True)
        (folder / "worse" / "config.json").symlink_to(tmp_path / "nowhere")
        (folder / "own").symlink_to(folder / "own")
    for node, name in (
        ("MedicalCheckpointLoader", "checkpoint"),
        ("MedicalCheckpointLoader", "unet"),
        ("MedicalClassifierLoader", "classifier"),
    ):
        shown = listed(node, name)
        assert len(shown) > 1 and "gone.safetensors" not in shown and "folder.safetensors" not in shown
    for kind in ("checkpoints", "diffusion_models", "classifiers", "diffusers", "embeddings", "metrics"):
        shutil.rmtree(models / kind / "folder.safetensors")


def test_what_lies_beside_a_choice_changes_its_fingerprint(pack, tmp_path):
    fingerprint = pack.nodes.sources.fingerprint
    folder, file = tmp_path / "folder", tmp_path / "a.safetensors"
    put(folder / "model_index.json")
    file.write_bytes(b"1")
    seen = {fingerprint(folder), fingerprint(file)}
    torch.save({}, folder / "weights.bin")
    seen |= {fingerprint(folder)}
    for name in ("a.json", "config.json"):
        put(tmp_path / name)
        seen |= {fingerprint(file)}
    assert len(seen) == 5


def test_what_is_wrong_with_a_domain_file_stands_among_the_choices(models, listed, run):
    folder = Path(folder_paths.get_user_directory()) / "medtraverse" / "domains"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "knee.json").write_text('{"name": "Knee"}')
    try:
        choice = listed("MedicalCheckpointLoader", "domain")[-1]
        assert choice.startswith("domain file knee.json: neutrals: is missing; add it.")
        with pytest.raises(ValueError, match=r"^domain file knee\.json: neutrals: is missing"):
            run("MedicalCheckpointLoader", domain=choice)
        with pytest.raises(
            ValueError, match=r"there is no 'Knee'; .* Left out: domain file knee\.json: neutr"
        ):
            run("MedicalCheckpointLoader", domain="Knee")
    finally:
        (folder / "knee.json").unlink()


def test_the_shipped_files_are_those_that_the_demo_names(pack):
    """Nodes may not import the demo: its files' names stand on both floors, and this holds them together."""
    from demo.judging.measurements import STUDIES
    from demo.training.architecture import WEIGHTS

    sources = pack.nodes.sources
    assert WEIGHTS == sources.DEMO_WEIGHTS / "phantom-sd"
    assert {path.stem for path in sources.DEMO_UNETS.values()} == {f"phantom-{name}" for name in STUDIES}
    classifiers = {f"classifier-{study.classifier}" for study in STUDIES.values()}
    assert {path.stem for path in sources.DEMO_CLASSIFIERS.values()} == classifiers
    assert all(path.is_file() for path in (*sources.DEMO_UNETS.values(), *sources.DEMO_CLASSIFIERS.values()))

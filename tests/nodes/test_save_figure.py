"""SaveTraversalFigure writes what a figure node hands on, and says which weights it came from."""

import csv
import hashlib
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

NOTICE = "Synthetic images. Not for clinical use."


@pytest.fixture(scope="module")
def trajectory(traverse):
    return traverse(steps=10, swap_steps="7,4,1", patients=2)


@pytest.fixture(scope="module")
def images(demo, trajectory):
    return demo[2].decode(trajectory.latents)


@pytest.fixture(scope="module")
def cosine(run, trajectory):
    return run("LatentDirectionCosine", trajectory=trajectory)[3]


@pytest.fixture
def output(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    return tmp_path / "output"


@pytest.fixture
def save(node_classes):
    """``save(drawing, prompt, workflow, **inputs)`` executes the node as ComfyUI does, and returns its ui."""
    import execution
    from comfy_execution.graph import DynamicPrompt

    node = node_classes["SaveTraversalFigure"]
    defaults = {item.id: item.default for item in node.GET_SCHEMA().inputs[1:]}

    def call(drawing, prompt=None, workflow=None, **inputs):
        extra = {"extra_pnginfo": workflow and {"workflow": workflow}}
        _, _, hidden = execution.get_input_data({}, node, "1", None, DynamicPrompt(prompt), extra)
        clone = node.PREPARE_CLASS_CLONE(hidden)
        return clone.EXECUTE_NORMALIZED(drawing=drawing, **{**defaults, **inputs}).ui

    return call


def file_of(output, saved):
    assert saved["type"] == "output"
    return output / saved["subfolder"] / saved["filename"]


def rows_of(table):
    return list(csv.DictReader(io.StringIO(table)))


def test_the_png_holds_graph_settings_and_hashes(output, save, cosine, folder_digests):
    prompt, workflow = (
        {"1": {"class_type": "SaveTraversalFigure", "inputs": {"ä": 1}}},
        {"nodes": [{"id": 1}]},
    )
    ui = save(cosine, {"1": {**prompt["1"], "is_changed": ["/somebody's/folder"]}}, workflow)
    picture = Image.open(file_of(output, ui["images"][0]))
    assert json.loads(picture.info["prompt"]) == prompt and json.loads(picture.info["workflow"]) == workflow
    settings = json.loads(picture.info["medtraverse"])
    assert settings == json.loads(json.dumps(cosine.settings))
    assert (
        settings["trajectories"][0]["seeds"] == [1500, 1501]
        and settings["versions"]["torch"] == torch.__version__
    )
    digests = json.loads(picture.info["medtraverse sha256"])
    assert sorted(digests.values()) == sorted(folder_digests.values())
    assert picture.info["Description"] == NOTICE
    assert picture.size == tuple(round(side * 200) for side in cosine.figure.get_size_inches())


@pytest.fixture(scope="module")
def folder_digests(pack):
    folder = pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd"
    return {
        f"MedTraverse demo (phantoms)/{file.relative_to(folder).as_posix()}": hashlib.sha256(
            file.read_bytes()
        ).hexdigest()
        for file in folder.rglob("*.safetensors")
    }


@pytest.mark.parametrize(
    ("vector", "table", "suffixes"),
    [
        ("svg", True, [".png", ".svg", ".csv"]),
        ("pdf", False, [".png", ".pdf"]),
        ("none", True, [".png", ".csv"]),
    ],
)
def test_files_lie_beside_each_other_and_count_up(output, save, cosine, vector, table, suffixes):
    for number in (1, 2):
        ui = save(cosine, filename_prefix="paper/fig5", vector=vector, table=table, dpi=50)
        files = [file_of(output, saved) for saved in (*ui["images"], *ui["files"])]
        assert [file.suffix for file in files] == suffixes
        assert {file.stem for file in files} == {f"fig5_0000{number}_"} and {
            file.parent for file in files
        } == {output / "paper"}
        assert all(file.stat().st_size for file in files)
    assert len(list((output / "paper").iterdir())) == 2 * len(suffixes)


def test_graph_and_settings_stay_out_where_the_user_wants_no_metadata(output, save, cosine, monkeypatch):
    import comfy.cli_args

    monkeypatch.setattr(comfy.cli_args.args, "disable_metadata", True)
    ui = save(cosine, {"1": {}}, {"nodes": []}, dpi=50)
    assert {"prompt", "workflow", "medtraverse", "medtraverse sha256"}.isdisjoint(
        Image.open(file_of(output, ui["images"][0])).info
    )
    vector = file_of(output, ui["files"][0]).read_text(encoding="utf-8")
    assert NOTICE in vector and "1501" not in vector


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"filename_prefix": "../../outside"}, "filename_prefix: '../../outside' leads out"),
        ({"filename_prefix": "/etc/figure"}, "filename_prefix: .* leads out"),
        ({"filename_prefix": " "}, "filename_prefix: it is empty"),
        ({"vector": "eps"}, "vector: 'eps' is unknown; choose one of svg, pdf, none"),
    ],
)
def test_bad_inputs_are_named_and_nothing_is_written(output, save, cosine, tmp_path, change, fault):
    with pytest.raises(ValueError, match=fault):
        save(cosine, **change)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_every_figure_node_hands_on_its_numbers(run, demo, trajectory, images, cosine):
    grid = run("TrajectoryGrid", trajectory=trajectory, images=images, max_patients=1)[1]
    cells = rows_of(grid.table_csv)
    assert [
        (cell["row"], cell["column"], cell["seed"], cell["attribute"], cell["point"]) for cell in cells[3:5]
    ] == [
        ("1", "4", "1500", trajectory.attributes[0], "1"),
        ("2", "1", "1500", trajectory.attributes[1], "neutral"),
    ]
    assert len(cells) == 2 * 4
    latent, curve = run("BezierLatentInterpolate", source=trajectory, frames=5).args
    strip = run(
        "TrajectoryGrid",
        trajectory=curve,
        images=demo[2].decode(latent["samples"]),
        max_patients=1,
        frames_shown=3,
    )[1]
    assert [cell["point"] for cell in rows_of(strip.table_csv)[:3]] == ["neutral", "2", "4"]
    assert strip.settings["trajectories"][0]["settings"]["curve"]["frames"] == 5
    places = run("LatentTSNE", trajectory=trajectory)
    assert places[2].table_csv == places[1]
    paper = [row for row in rows_of(cosine.table_csv) if row["seed"] == "mean, from the paper"]
    assert [row["attribute"] for row in paper] == list(trajectory.attributes)
    classifier = run("MedicalClassifierLoader", classifier="MedTraverse demo CheXpert")[0]
    scored = run(
        "CFRTEvaluator", trajectory=trajectory, images=images, image_classifier=classifier, far_points="1"
    )[4]
    assert scored.settings["classifier"] == {
        "name": "MedTraverse demo CheXpert",
        "sha256": classifier.classifier.sha256,
    }
    assert [row["cfrt_from_the_paper"] for row in rows_of(scored.table_csv)] == ["0.888", "0.781"]
    for made in (grid, strip, places[2], cosine, scored):
        json.dumps(made.settings, allow_nan=False)
        assert all(row["notice"] == NOTICE for row in rows_of(made.table_csv))


def test_the_weights_are_known_after_a_lora_and_unknown_of_other_models(
    demo, traverse, trajectory, folder_digests
):
    model = demo[0].clone()
    key = next(key for key in model.model.state_dict() if key.endswith("attn2.to_k.weight"))
    model.add_patches({key: (torch.zeros_like(model.model.state_dict()[key]),)})
    told = traverse(model=model, steps=4, swap_steps="2", patients=1).settings["model"]
    digest = told.pop("patches")["sha256"]
    assert told == {
        "checkpoint": "MedTraverse demo (phantoms)",
        "unet": None,
        "vae_alone": None,
        "domain": "CheXpert",
        "prediction": "epsilon",
        "sha256": folder_digests,
        "patched_weights": 1,
    }
    assert trajectory.settings["model"] == {**told, "patched_weights": 0}
    # Another strength, and another change, are other models.
    for change, strength in ((torch.zeros_like, 0.5), (torch.ones_like, 1.0)):
        model = demo[0].clone()
        model.add_patches({key: (change(model.model.state_dict()[key]),)}, strength)
        assert traverse(model=model, steps=4, swap_steps="2").settings["model"]["patches"]["sha256"] != digest
    other = demo[0].clone()
    other.remove_attachments("medtraverse.origin")
    assert traverse(model=other, steps=4, swap_steps="2", patients=1).settings["model"] is None
    assert demo[0].get_attachment("medtraverse.origin")["sha256"] == folder_digests


def test_a_unet_of_its_own_is_named_beside_its_base(run, pack, folder_digests):
    import folder_paths

    source = pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd" / "unet" / "diffusion_pytorch_model.safetensors"
    target = Path(folder_paths.models_dir) / "diffusion_models" / "derm" / "step-300.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    try:
        told = run("MedicalCheckpointLoader", unet="derm/step-300.safetensors")[0].get_attachment(
            "medtraverse.origin"
        )
    finally:
        target.unlink()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert told["domain"] == "ISIC" and told["unet"] == "derm/step-300.safetensors"
    others = {name: found for name, found in folder_digests.items() if "/unet/" not in name}
    assert told["sha256"] == {**others, "diffusion_models/derm/step-300.safetensors": digest}

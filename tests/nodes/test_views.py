"""The files that the canvas's widgets read, and what a node shows while it samples."""

import contextlib
import dataclasses
import importlib
import json
import logging
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture
def views(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.views")


@pytest.fixture
def contract(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.view_contract")


@pytest.fixture
def trajectory(pack):
    """Two patients, two attributes, neutral and three λ; random latents."""
    from medtraverse_pack.medtraverse.trajectory import Trajectory
    from medtraverse_pack.medtraverse.traversal import Plan

    plan = Plan(2, 2, (7, 4, 1))
    return Trajectory(
        torch.randn(plan.rows, 4, 4, 4),
        plan.index(),
        (7, 8),
        ("a", "b"),
        ("#00CC00", "#CC00CC"),
        (("A",), ("B",)),
        ("neutral", "7", "4", "1"),
        settings={"seed": 7},
    )


def folder():
    import folder_paths

    return Path(folder_paths.get_temp_directory()) / "medtraverse"


def read(shown):
    (file,) = shown["medtraverse_view"]
    assert (
        set(file) == {"view", "subfolder", "type"}
        and file["subfolder"] == "medtraverse"
        and file["type"] == "temp"
    )
    return json.loads((folder() / file["view"]).read_text(encoding="utf-8"))


def test_the_viewer_finds_every_image_pixel_for_pixel(views, trajectory):
    images = torch.rand(len(trajectory.latents), 16, 24, 3)
    view = read(views.trajectory_view(trajectory, images))
    assert view["size"] == [24, 16] and view["left_out"] == 0 and not view["approximate"]
    assert (
        view["index"] == trajectory.index.tolist()
        and view["seeds"] == [7, 8]
        and view["points"] == ["neutral", "7", "4", "1"]
    )
    assert "not for clinical use" in view["notice"].lower()
    for row in {row for patient in view["index"] for attribute in patient for row in attribute}:
        kept = np.asarray(Image.open(folder() / f"{view['images']['prefix']}{row}{view['images']['suffix']}"))
        assert np.abs(kept - images[row].numpy() * 255).max() <= 0.5 + 1e-4


def test_patients_beyond_the_limit_are_left_out_and_counted(views, trajectory, monkeypatch):
    monkeypatch.setattr(views, "MOST_IMAGES", 8)
    view = read(views.trajectory_view(trajectory, torch.rand(len(trajectory.latents), 8, 8, 3)))
    assert view["left_out"] == 1 and view["seeds"] == [7] and len(view["index"]) == 1
    assert len(list(folder().glob(f"{view['images']['prefix']}*.png"))) == 7


def test_a_viewer_stops_at_its_bytes_with_whole_patients(views, trajectory, monkeypatch):
    monkeypatch.setattr(views, "MOST_BYTES", 1)
    view = read(views.trajectory_view(trajectory, torch.rand(len(trajectory.latents), 8, 8, 3)))
    assert view["left_out"] == 1 and view["seeds"] == [7]
    assert len(list(folder().glob(f"{view['images']['prefix']}*.png"))) == 7


def test_the_oldest_views_go_when_all_together_are_too_large(views, trajectory, monkeypatch):
    monkeypatch.setattr(views, "MOST_BYTES_KEPT", 1)
    first = views.latent_view(trajectory)["medtraverse_view"][0]["view"]
    second = views.latent_view(trajectory)["medtraverse_view"][0]["view"]
    assert [path.name for path in folder().glob("*.json")] == [second]
    assert not list(folder().glob(f"{Path(first).stem}*"))


def test_a_viewer_holds_no_copy_of_the_images(views, trajectory, pack):
    """10,000 rows of 512² expanded from one picture: any copy of the batch would be 31 GB."""
    rows = 10_000
    large = dataclasses.replace(
        trajectory,
        latents=torch.zeros(rows, 4, 1, 1),
        index=torch.arange(rows).reshape(500, 2, 10),
        seeds=tuple(range(500)),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    views.MOST_IMAGES, most = 20, views.MOST_IMAGES
    try:
        view = read(views.trajectory_view(large, torch.zeros(1, 512, 512, 3).expand(rows, -1, -1, -1)))
    finally:
        views.MOST_IMAGES = most
    assert view["left_out"] == 499
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB


@contextlib.contextmanager
def full_disk(size):
    """No file of this process can grow beyond ``size`` bytes: the system itself refuses the writing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 300])
def test_a_view_that_cannot_be_written_is_a_line_and_leaves_nothing(
    views, contract, trajectory, caplog, size
):
    before = set(folder().glob("*"))
    with full_disk(size), caplog.at_level(logging.WARNING):
        shown = views.trajectory_view(trajectory, torch.rand(len(trajectory.latents), 16, 24, 3))
    assert shown == {"medtraverse_view": [{"unwritten": "File too large"}]}
    contract.adapter()[1].validate_python(shown)
    assert "could not be written (File too large); its outputs are whole" in caplog.text
    assert set(folder().glob("*")) == before


def test_a_view_that_fails_on_a_device_is_a_line_too(views, contract, trajectory, caplog):
    """Torch itself refuses: these images have no data, as after a device has run out of memory."""
    before = set(folder().glob("*"))
    images = torch.zeros(len(trajectory.latents), 16, 24, 3, device="meta")
    with caplog.at_level(logging.WARNING):
        shown = views.trajectory_view(trajectory, images)
    contract.adapter()[1].validate_python(shown)
    assert "meta tensor" in shown["medtraverse_view"][0]["unwritten"]
    assert "its outputs are whole" in caplog.text and "Make room" not in caplog.text
    assert set(folder().glob("*")) == before


def test_a_nodes_outputs_are_whole_where_there_is_no_temp_folder(run, traverse, demo, tmp_path):
    import folder_paths

    inputs = {"patients": 1, "steps": 4, "swap_steps": "2,1"}
    usual, blocked = folder_paths.get_temp_directory(), tmp_path / "file"
    blocked.write_text("no folder can lie below a file")
    folder_paths.set_temp_directory(str(blocked / "temp"))
    try:
        trajectory = traverse(**inputs)
        images = demo[2].decode(trajectory.latents)
        grid = run("TrajectoryGrid", trajectory=trajectory, images=images)
    finally:
        folder_paths.set_temp_directory(usual)
    assert torch.equal(trajectory.latents, traverse(**inputs).latents)
    assert grid[0].shape[-1] == 3 and grid.ui == {"medtraverse_view": [{"unwritten": "Not a directory"}]}


def test_images_of_another_trajectory_are_refused(views, trajectory):
    with pytest.raises(ValueError, match="images: 3 do not match"):
        views.trajectory_view(trajectory, torch.rand(3, 8, 8, 3))


def test_parts_of_a_traversal_share_their_key_and_other_traversals_do_not(views, trajectory):
    key = views.trajectory_key(trajectory)
    assert views.trajectory_key(trajectory.select(1, ["b"], ["4", "1"])) == key
    assert views.trajectory_key(dataclasses.replace(trajectory, settings={"seed": 8})) != key
    assert views.trajectory_key(dataclasses.replace(trajectory, latents=trajectory.latents + 1)) != key
    assert views.trajectory_key(trajectory.curve(trajectory.gather(trajectory.latents), {})) != key


def test_latents_show_without_a_vae_and_other_channels_show_nothing(views, trajectory):
    view = read(views.latent_view(trajectory))
    assert view["approximate"] and view["size"] == [4, 4]
    assert views.latent_view(dataclasses.replace(trajectory, latents=torch.randn(14, 16, 4, 4))) == {}


def test_the_map_has_every_place_and_its_thumbnail(views, trajectory):
    count = len(trajectory.latents)
    places = np.random.default_rng(0).normal(size=(count, 2))
    images = torch.linspace(0, 1, count)[:, None, None, None].expand(count, 32, 32, 3)
    view = read(views.map_view(trajectory, places, 2.0, 500, images))
    assert np.allclose(np.stack([view["x"], view["y"]], 1), places, atol=1e-4)
    sheets = view["sheets"]
    sheet = np.asarray(Image.open(folder() / f"{sheets['prefix']}0{sheets['suffix']}"))
    for row in range(count):
        y, x = row // sheets["columns"] * sheets["side"], row % sheets["columns"] * sheets["side"]
        assert abs(sheet[y + 40, x + 40].mean() - 255 * row / (count - 1)) < 3
    assert read(views.map_view(trajectory, places, 2.0, 500))["sheets"] is None


def test_a_seed_that_a_browser_would_round_is_text(views, trajectory):
    seeds = (2**53, 2**64 - 1)
    view = read(views.latent_view(dataclasses.replace(trajectory, seeds=seeds)))
    assert view["seeds"] == [2**53, "18446744073709551615"]


@pytest.fixture(scope="module")
def real_views(run, traverse, demo, prompts):
    """What each node with a view puts into its ``ui``, on the demo model."""
    neutral, negative, attributes, _ = prompts
    inputs = {"model": demo[0], "neutral": neutral, "negative": negative, "attributes": attributes}
    sampled = run("PromptSwapKSampler", **inputs, patients=3, steps=4, swap_steps="2,1")
    trajectory = sampled[1]
    curve = run("BezierLatentInterpolate", source=trajectory, frames=4)
    shown = {"trajectory": trajectory, "images": demo[2].decode(trajectory.latents)}
    classifier = run("MedicalClassifierLoader", classifier="MedTraverse demo CheXpert")[0]
    return {
        "PromptSwapKSampler": sampled,
        "BezierLatentInterpolate": curve,
        "TrajectoryGrid": run("TrajectoryGrid", **shown),
        "TrajectoryFilm": run("TrajectoryFilm", trajectory=curve[1], images=demo[2].decode(curve[1].latents)),
        "LatentTSNE": run("LatentTSNE", **shown),
        "CFRTEvaluator": run("CFRTEvaluator", **shown, image_classifier=classifier, far_points="1"),
    }


NODES = {
    "PromptSwapKSampler": "trajectory",
    "BezierLatentInterpolate": "trajectory",
    "TrajectoryGrid": "trajectory",
    "TrajectoryFilm": "trajectory",
    "LatentTSNE": "map",
    "CFRTEvaluator": "cfrt",
}


@pytest.mark.parametrize("node", NODES)
def test_what_a_node_writes_is_what_the_contract_says(real_views, contract, node):
    file_of, shown_of = contract.adapter()
    shown = {"medtraverse_view": real_views[node].ui["medtraverse_view"]}
    shown_of.validate_python(shown)
    view = read(shown)
    file_of.validate_json(json.dumps(view))
    assert view["view"] == NODES[node] and view["format"] == contract.FORMAT


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"format": 2}, "format"),
        ({"seeds": [1.5]}, "seeds"),
        ({"more": 1}, "more"),
        ({"images": {"prefix": "a"}}, "images"),
    ],
)
def test_a_file_of_another_form_breaks_the_contract(real_views, contract, change, fault):
    import pydantic

    view = read({"medtraverse_view": real_views["TrajectoryGrid"].ui["medtraverse_view"]})
    with pytest.raises(pydantic.ValidationError, match=fault):
        contract.adapter()[0].validate_json(json.dumps({**view, **change}))


def test_the_panel_has_each_rows_own_probabilities(views, trajectory, pack):
    from medtraverse_pack.medtraverse.evaluation import evaluate

    judged = torch.rand(len(trajectory.latents), 2, generator=torch.Generator().manual_seed(1))
    result = evaluate(
        trajectory, torch.rand(len(trajectory.latents), 8, 8, 3), lambda images: judged, ("A", "B"), "1,4"
    )
    view = read(views.cfrt_view(result, {"a": 0.5}))
    assert np.allclose(view["probabilities"], judged, atol=1e-5) and view["labels"] == ["A", "B"]
    by_name = {entry["attribute"]: entry for entry in view["results"]}
    assert by_name["a"]["published"] == 0.5 and by_name["b"]["published"] is None
    assert by_name["b"]["success"] == result.results["b"].success.tolist() and view[
        "key"
    ] == views.trajectory_key(trajectory)


def test_the_line_of_text_names_the_batch(pack):
    live = importlib.import_module(f"{pack.__name__}.nodes.live")
    two = pack.medtraverse.traversal.TraversalSettings(
        seed=7,
        patients=2,
        steps=9,
        cfg=7.5,
        sampler="ddim",
        scheduler="diffusers_ddim",
        swap_steps=(4, 1),
        noise="cpu",
        width=64,
        height=64,
        domain="",
        neutral="neutral",
        neutral_prompt="",
        prompts=(("a", ""), ("b", "")),
    )
    assert live.progress_text(two.block(0, 1), 0) == "seed 7 · step 1/9 · neutral"
    assert live.progress_text(two, 3) == "seeds 7–8 · step 4/9 · neutral and λ 1 of a, b"


def test_the_preview_shows_a_branch_once_it_has_left_the_neutral_path(pack):
    from medtraverse_pack.medtraverse.traversal import Plan

    live = importlib.import_module(f"{pack.__name__}.nodes.live")
    plan = Plan(2, 2, (4, 1))

    class Previewer:
        def decode_latent_to_preview_image(self, kind, x0):
            return kind, Image.new("RGB", (4, 4), (0, 100 + int(x0.mean()), 0)), 512

    denoised = torch.arange(plan.rows).float()[:, None, None, None].expand(-1, 4, 4, 4)
    for step, wanted in (
        (0, [[100, 32, 32], [32, 32, 32]]),
        (2, [[100, 32, 102], [32, 32, 104]]),
        (5, [[100, 101, 102], [32, 103, 104]]),
    ):
        kind, picture, limit = live.traversal_preview(Previewer(), denoised, plan, step)
        side = picture.width // 3
        assert kind == "JPEG" and limit >= picture.width and picture.height == 2 * side
        found = [
            [picture.getpixel((n * side + side // 2, a * side + side // 2))[1] for n in range(3)]
            for a in range(2)
        ]
        assert found == wanted

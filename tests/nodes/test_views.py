"""The files that the canvas's widgets read, and what a node shows while it samples."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture
def views(pack):
    import importlib

    return importlib.import_module(f"{pack.__name__}.nodes.views")


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
        set(file) == {"filename", "subfolder", "type"}
        and file["subfolder"] == "medtraverse"
        and file["type"] == "temp"
    )
    return json.loads((folder() / file["filename"]).read_text(encoding="utf-8"))


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
    import importlib

    live = importlib.import_module(f"{pack.__name__}.nodes.live")
    assert live.progress_text((7,), ["a"], (4, 1), 0, 9) == "seed 7 · step 1/9 · neutral"
    assert (
        live.progress_text((7, 8), ["a", "b"], (4, 1), 3, 9)
        == "seeds 7–8 · step 4/9 · neutral and λ 1 of a, b"
    )


def test_the_preview_shows_a_branch_once_it_has_left_the_neutral_path(pack):
    import importlib

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

"""Folders as the data sets are published: tables found, images read, latents encoded once."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from medtraverse import data_set
from medtraverse.captions import CHEXPERT_LABELS, image_file
from medtraverse.data_set import encode_images, read_image, read_table

ISIC = ["image", "MEL", "NV", "dark_corner", "hair", "gel_border", "gel_bubble", "ruler", "ink", "patches"]


def write_table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_images(folder, names, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng([seed, number]).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


@pytest.fixture
def isic(tmp_path):
    names = [f"ISIC_{number:07d}" for number in range(1, 6)]
    write_table(
        tmp_path / "ISIC_2019_Training_GroundTruth.csv", ISIC, [[name, 1, *[0] * 8] for name in names]
    )
    write_images(tmp_path / "ISIC_2019_Training_Input", [f"{name}.jpg" for name in names])
    return tmp_path


@pytest.fixture(scope="module")
def vae():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()


def chexpert_row(patient, view):
    return [f"CheXpert-v1.0/train/{patient}/study1/view1.jpg", view, *[""] * len(CHEXPERT_LABELS)]


def test_the_table_of_chexpert_is_found_from_both_folders(tmp_path):
    folder = tmp_path / "CheXpert-v1.0"
    rows = [chexpert_row("patient1", "Frontal"), chexpert_row("patient2", "Lateral")]
    write_table(folder / "train.csv", ["Path", "Frontal/Lateral", *CHEXPERT_LABELS], rows)
    write_images(folder / "train" / "patient1" / "study1", ["view1.jpg"])
    for given in (tmp_path, folder):
        captions, root = read_table("chexpert", given)
        assert [image_file(root, row.image).is_file() for row in captions] == [True]
    with pytest.raises(ValueError, match=r"^data: .* holds no ISIC_2019_Training_GroundTruth.csv, .*; give"):
        read_table("isic", tmp_path)


def test_a_table_of_which_nothing_is_used_says_why(tmp_path):
    rows = [chexpert_row("patient1", "Lateral")]
    write_table(tmp_path / "train.csv", ["Path", "Frontal/Lateral", *CHEXPERT_LABELS], rows)
    with pytest.raises(ValueError, match=r"^data: every row of .*train.csv is left out, as lateral; give"):
        read_table("chexpert", tmp_path)
    write_table(tmp_path / "ISIC_2019_Training_GroundTruth.csv", ISIC, [["ISIC_0000001", *[0] * 9]])
    (tmp_path / "ISIC_2019_Training_Input").mkdir()
    with pytest.raises(ValueError, match="is left out, as neither MEL nor NV; give"):
        read_table("isic", tmp_path)


def test_images_of_isic_are_found_where_its_archive_puts_them(isic):
    captions, root = read_table("isic", isic)
    assert image_file(root, captions[1].image).name == "ISIC_0000002.jpg"
    # As the archive unpacks: a folder of the same name inside.
    folder = isic / "ISIC_2019_Training_Input"
    folder.rename(isic / "images")
    folder.mkdir()
    (isic / "images").rename(folder / folder.name)
    captions, root = read_table("isic", isic)
    assert root == folder / folder.name and image_file(root, captions[1].image).is_file()


def test_an_image_is_stretched_to_a_square_in_rgb(tmp_path):
    Image.new("L", (20, 10), 7).save(tmp_path / "film.png")
    image = read_image(tmp_path / "film.png", 16)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8 and (image == 7).all()
    (tmp_path / "film.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^data: .*film.jpg cannot be read as an image \(.*\); replace"):
        read_image(tmp_path / "film.jpg", 64)


def test_latents_are_encoded_once_and_go_on_where_they_were(isic, tmp_path, vae, monkeypatch):
    captions, root = read_table("isic", isic)
    whole = np.array(encode_images(vae, captions, root, 64, tmp_path / "whole.npy"))
    pixels = torch.tensor(read_image(image_file(root, captions[2].image), 64)).permute(2, 0, 1) / 127.5
    with torch.inference_mode():
        latent = vae.encode(pixels[None] - 1).latent_dist
    np.testing.assert_allclose(whole[2], torch.cat([latent.mean, latent.logvar], 1)[0], atol=5e-3)
    monkeypatch.setattr(data_set, "BLOCK", 2)
    names, blocks = [], []

    def counted(path, size):
        names.append(path.name)
        if len(names) == 4:
            raise KeyboardInterrupt
        return read_image(path, size)

    monkeypatch.setattr(data_set, "read_image", counted)
    with pytest.raises(KeyboardInterrupt):
        encode_images(vae, captions, root, 64, tmp_path / "parts.npy")
    parts = np.array(
        encode_images(
            vae, captions, root, 64, tmp_path / "parts.npy", lambda *progress: blocks.append(progress)
        )
    )
    assert names[4:] == [f"ISIC_{number:07d}.jpg" for number in (3, 4, 5)]
    assert blocks == [(4, 5), (5, 5)] and not list(tmp_path.glob("parts.[pd]*"))[1:]
    np.testing.assert_allclose(parts, whole, atol=5e-3)
    encode_images(None, captions, root, 64, tmp_path / "parts.npy")  # it is there: nothing is encoded

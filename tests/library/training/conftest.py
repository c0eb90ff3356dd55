"""A random Stable Diffusion of a few thousand weights, made by diffusers, and images with captions."""

import csv

import numpy as np
import pytest

SIZE, COUNT = 64, 21
TEXTS = ("Chest X-ray showing Edema", "Normal chest X-ray with no significant findings", "")


def write_images(folder, count=COUNT):
    """Random pixels with three captions in turn, the last three images held out."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "validation" if number >= count - 3 else "train"
        rows.append([f"{number}.png", TEXTS[number % 3] or "something else", split])
    with open(folder / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file_name", "text", "split"], *rows])
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="session")
def base(tmp_path_factory, random_model):
    return random_model(
        tmp_path_factory.mktemp("base") / "tiny", 1, block_out_channels=(32, 32, 32), norm_num_groups=8
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def settings(base, images, cache, tmp_path):
    """``settings(**changes)`` of eight updates of four images."""
    from medtraverse.training.settings import settings_of

    def make(**changes):
        given = {
            "data": images,
            "base": base,
            "out": tmp_path / "run",
            "cache": cache,
            "steps": 8,
            "batch": 2,
            "accumulation": 2,
            "rate": 1e-3,
            "device": "cpu",
            "seed": 3,
            "log_every": 4,
            "save_every": 2,
            "validate_every": 0,
            "validation_images": 3,
            "save_precision": "fp32",
        }
        return settings_of({**given, **changes})

    return make

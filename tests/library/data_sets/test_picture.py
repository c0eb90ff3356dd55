"""Images of data sets at the size of a model: 8 and 16 bits, DICOM, the three fits, what is no image."""

import numpy as np
import pytest
from PIL import Image

from medtraverse.data_sets import read_pixels


@pytest.fixture
def ramp():
    """Grey values that grow downwards, 40 rows and 20 columns, in 0..1."""
    return np.repeat(np.linspace(0, 1, 40, dtype=np.float32)[:, None], 20, axis=1)


def test_8_and_16_bits_give_the_same_image_in_every_fit(tmp_path, ramp):
    Image.fromarray(np.round(ramp * 255).astype(np.uint8)).save(tmp_path / "film.png")
    Image.fromarray(np.round(ramp * 65535).astype(np.uint16)).save(tmp_path / "deep.png")
    for fit in ("squash", "pad", "crop"):
        image, deep = (read_pixels(tmp_path / name, 16, fit) for name in ("film.png", "deep.png"))
        assert image.shape == (16, 16, 3) and image.dtype == np.uint8
        assert np.abs(image.astype(int) - deep).max() <= 1
        lit = (deep > 0).any(axis=(0, 2)).sum()
        assert lit == (8 if fit == "pad" else 16)
        # dark to bright, but for what a crop cuts off; convert("RGB") is white from 256 of 65,535 on
        assert deep.max() - deep.min() > 100 and (deep.max() > 245) == (fit != "crop")
    assert read_pixels(tmp_path / "film.png", 16)[-1].mean() > 240
    with pytest.raises(ValueError, match=r"^fit: there is no 'x'; the choices are squash, pad, crop\.$"):
        read_pixels(tmp_path / "film.png", 16, "x")


def test_a_webp_named_png_and_a_palette_are_read(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "film.png", format="WEBP", lossless=True)
    assert (read_pixels(tmp_path / "film.png", 16) == colours).all()
    grey = Image.new("P", (16, 16), 1)
    grey.putpalette([0, 0, 0, 9, 9, 9])
    grey.save(tmp_path / "palette.png")
    assert (read_pixels(tmp_path / "palette.png", 16) == 9).all()


def test_what_is_no_whole_image_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(noise).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-900])
        with pytest.raises(ValueError, match=rf"^image: .*{name} is damaged or truncated; copy it again\.$"):
            read_pixels(tmp_path / name, 16)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"^image: .*text.jpg is no image that can be read; "):
        read_pixels(tmp_path / "text.jpg", 16)
    with pytest.raises(ValueError, match=r"^image: .*none.jpg is not there; put it back, or leave"):
        read_pixels(tmp_path / "none.jpg", 16)

"""Synthetic images written as DICOM and PNG: read back by pydicom, by GDCM and by FFmpeg."""

import importlib.util
import json
import warnings
from dataclasses import replace
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pydicom.config
import pytest

from medtraverse.medical_image import MedicalSource, fitted, read_medical_image
from medtraverse.medical_image_files import write_png16
from medtraverse.medical_image_write import (
    BOTH,
    COLOUR,
    DICOM,
    GREY,
    MODEL_SIZE,
    PNG,
    SOURCE_SIZE,
    Written,
    write_medical_images,
)
from medtraverse.notice import NOTICE

_spec = importlib.util.spec_from_file_location("dicom_samples", Path(__file__).with_name("dicom_samples.py"))
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)

SETTINGS = {"method": "prompt swap", "model": {"sha256": {"unet.safetensors": "ab" * 32}}, "cfg": 7.5}


def smooth(count=1, size=64, channels=3):
    rows, columns = np.mgrid[:size, :size] / size
    images = [np.sin((rows + n) * 3) * np.cos(columns * 2 + k) for n in range(count) for k in range(channels)]
    stacked = np.stack(images).reshape(count, channels, size, size).transpose(0, 2, 3, 1)
    return ((stacked + 1) / 2).astype(np.float32)


def strictly_read(path):
    """Return a file as pydicom reads it with every doubt an error, and its values."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = pydicom.config.settings.reading_validation_mode
        pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
        try:
            made = pydicom.dcmread(path)
            for element in made.iterall():
                assert element.VR != "UN", element.keyword
            return made, made.pixel_array
        finally:
            pydicom.config.settings.reading_validation_mode = before


def by_gdcm(path, capfd):
    """Return the values of a file as GDCM reads them; a word of it on the terminal is a failure."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    bits = image.GetPixelFormat().GetBitsAllocated()
    content = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), f"<u{bits // 8}")
    out, err = capfd.readouterr()
    assert not out + err
    columns, rows = image.GetDimension(0), image.GetDimension(1)
    return content.reshape(rows, columns, -1).squeeze()


def grey_source(tmp_path, fit="squash"):
    """Where a grey file of 90 × 120 came from, fitted to 64."""
    made = samples.dataset(samples.grey_values(12, shape=(90, 120)), ImagerPixelSpacing=[0.2, 0.2])
    made.Modality = "DX"
    image, _ = fitted(read_medical_image(samples.saved(made, tmp_path / "in.dcm")), (64, 64), fit)
    return image.source


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_two_readers_find_the_pixels_again(tmp_path, capfd, kind):
    images = smooth(2)
    if kind == "grey":
        images = np.repeat(images[..., :1], 3, axis=-1)
    files = write_medical_images(tmp_path / "out", images, (), Written(burn_in=False), SETTINGS)
    assert [file.name for file in files] == ["out_0001.dcm", "out_0002.dcm"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name for file in files]
    for path, image in zip(files, images):
        _, values = strictly_read(path)
        most = 65535 if kind == "grey" else 255
        expected = np.round((image[..., 0] if kind == "grey" else image).astype(np.float64) * most)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(by_gdcm(path, capfd), expected)
        # and through the pack's own reader, as a user would bring it back
        again = read_medical_image(path)
        np.testing.assert_allclose(again.pixels, expected / most, atol=1e-6)


def test_a_file_says_that_it_is_synthetic_and_names_no_patient(tmp_path):
    (path,) = write_medical_images(
        tmp_path / "out", smooth(), (grey_source(tmp_path),), Written(series="effusion, λ = 15"), SETTINGS
    )
    made, _ = strictly_read(path)
    assert list(made.ImageType) == ["DERIVED", "SECONDARY", "SYNTHETIC"]
    assert made.SyntheticData == "YES" and made.ConversionType == "SYN"
    assert made.SeriesDescription == "SYNTHETIC: effusion, λ = 15"
    assert made.DerivationDescription.startswith(NOTICE)
    assert "prompt swap" in made.DerivationDescription and "ab" * 32 in made.DerivationDescription
    told = json.loads(made.ImageComments)
    assert told["cfg"] == 7.5 and told["source"]["modality"] == made.Modality == "DX"
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"):
        assert str(made[name].value or "") == ""
    content = path.read_bytes()
    assert not any(secret.encode() in content for secret in samples.SECRETS)
    assert made.BurnedInAnnotation == "YES"
    assert made.SOPInstanceUID.startswith("2.25.")


def test_the_word_is_burned_in_and_can_be_left_out(tmp_path):
    image = np.full((1, 128, 128, 3), 0.5, np.float32)
    (marked,) = write_medical_images(tmp_path / "marked", image, (), Written(), {})
    (plain,) = write_medical_images(tmp_path / "plain", image, (), Written(burn_in=False), {})
    pixels = read_medical_image(marked).pixels
    changed = np.argwhere(np.abs(pixels - 0.5) > 0.01)
    assert len(changed) and changed[:, 0].min() > 100 and changed[:, 1].max() < 64
    corner = pixels[changed[:, 0].min() :, : changed[:, 1].max() + 1]
    assert corner.min() == 0 and corner.max() > 0.9
    assert np.ptp(read_medical_image(plain).pixels) < 1e-4


def test_identifiers_are_new_and_one_patient_is_one_study(tmp_path):
    sources = (grey_source(tmp_path), grey_source(tmp_path))
    files = write_medical_images(tmp_path / "out", smooth(4), sources, Written(), SETTINGS)
    made = [pydicom.dcmread(path) for path in files]
    assert len({item.SOPInstanceUID for item in made}) == 4
    assert [made[0].StudyInstanceUID == item.StudyInstanceUID for item in made] == [True, True, False, False]
    assert [item.InstanceNumber for item in made] == [1, 2, 3, 4]
    again = write_medical_images(tmp_path / "again", smooth(4), sources, Written(), SETTINGS)
    assert pydicom.dcmread(again[0]).StudyInstanceUID not in {item.StudyInstanceUID for item in made}


@pytest.mark.parametrize(
    ("fit", "shape", "spacing"),
    [("squash", (90, 120), (0.2, 0.2)), ("pad", (90, 120), (0.2, 0.2)), ("crop", (90, 90), (0.2, 0.2))],
)
def test_the_files_size_and_spacing_come_back(tmp_path, fit, shape, spacing):
    source = grey_source(tmp_path, fit)
    (path,) = write_medical_images(
        tmp_path / "out", smooth(), (source,), Written(size=SOURCE_SIZE, burn_in=False), {}
    )
    made, values = strictly_read(path)
    assert values.shape == shape
    np.testing.assert_allclose([float(number) for number in made.PixelSpacing], spacing, rtol=1e-4)
    (path,) = write_medical_images(tmp_path / "small", smooth(), (source,), Written(size=MODEL_SIZE), {})
    made, values = strictly_read(path)
    assert values.shape == (64, 64)
    # as many millimetres as before: what was padded too
    shown = {"squash": (90, 120), "pad": (120, 120), "crop": (90, 90)}[fit]
    extent = np.array([float(number) for number in made.PixelSpacing]) * 64
    np.testing.assert_allclose(extent, np.array(shown) * 0.2, rtol=0.02)


def test_a_squash_without_spacing_says_how_wide_a_pixel_is(tmp_path):
    source = replace(grey_source(tmp_path), spacing=None)
    (path,) = write_medical_images(tmp_path / "out", smooth(), (source,), Written(), {})
    # 90 rows and 120 columns in 64 each: a pixel is 3 high and 4 wide
    assert [int(number) for number in strictly_read(path)[0].PixelAspectRatio] == [3, 4]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_sixteen_bits_is_read_by_ffmpeg(tmp_path, channels):
    import av

    image = smooth(channels=channels)[0]
    pixels = image[..., 0] if channels == 1 else image
    write_png16(tmp_path / "out.png", pixels, {"medtraverse": '{"λ": 15}'})
    with av.open(str(tmp_path / "out.png")) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == ("gray16be" if channels == 1 else "rgb48be")
        values = frame.to_ndarray()
    np.testing.assert_array_equal(values, np.round(pixels.astype(np.float64) * 65535))
    from PIL import Image

    with Image.open(tmp_path / "out.png") as picture:
        picture.load()
        assert picture.text == {"medtraverse": '{"λ": 15}', "Description": NOTICE}
    # of colours Pillow keeps the upper 8 bits
    exact = 1e-5 if channels == 1 else 1.01 / 255
    np.testing.assert_allclose(read_medical_image(tmp_path / "out.png").pixels, pixels, atol=exact)


def test_both_formats_and_a_forced_colour(tmp_path):
    files = write_medical_images(tmp_path / "out", smooth(), (), Written(BOTH, colour=GREY), SETTINGS)
    assert [file.name for file in files] == ["out.dcm", "out.png"]
    np.testing.assert_allclose(
        read_medical_image(files[0]).pixels, read_medical_image(files[1]).pixels, atol=1e-6
    )
    grey = np.repeat(smooth(channels=1), 3, axis=-1)
    (path,) = write_medical_images(tmp_path / "rgb", grey, (), Written(DICOM, colour=COLOUR), {})
    assert strictly_read(path)[0].PhotometricInterpretation == "RGB"


@pytest.mark.parametrize(
    ("written", "sources", "message"),
    [
        (Written(format="JPEG"), 0, "^format: there is no 'JPEG'; the choices are DICOM; PNG, 16 bits;"),
        (Written(size="half"), 0, "^size: there is no 'half'"),
        (Written(colour="red"), 0, "^colour: there is no 'red'"),
        (Written(size=SOURCE_SIZE), 0, "^size: without a source the file's size is not known; wire one"),
        (Written(), 2, "^source: it is of 2 patients, but there are 3 images; wire those"),
        (Written(patient_name="A^B"), 3, "^patient_name: it is one name, but the images are of 3 patients"),
        (Written(patient_name="A\\B"), 0, "^patient_name: DICOM cannot hold a backslash"),
        (Written(patient_name="^" * 5), 0, "^patient_name: DICOM holds Family.Given"),
        (Written(series="x" * 54), 0, "^series: it has 54 letters; DICOM holds 53 here"),
        (Written(patient_id="1\n2"), 0, "^patient_id: DICOM cannot hold a backslash or a line break"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, written, sources, message):
    given = (MedicalSource("PNG", 64, 64, True, 8),) * sources
    with pytest.raises(ValueError, match=message) as caught:
        write_medical_images(tmp_path / "out" / "x", smooth(3), given, written, {})
    assert str(caught.value).endswith(".")
    assert not any(tmp_path.rglob("x*"))


def test_an_error_half_way_leaves_no_file(tmp_path, monkeypatch):
    from medtraverse import medical_image_write

    calls = []

    def stops(*given, **more):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return original(*given, **more)

    original = medical_image_write.capture
    monkeypatch.setattr(medical_image_write, "capture", stops)
    with pytest.raises(OSError, match="No space"):
        write_medical_images(tmp_path / "out", smooth(4), (), Written(), {})
    assert not list(tmp_path.iterdir())


def test_long_settings_fit_and_names_are_any_script(tmp_path):
    long = {**SETTINGS, "prompts": ["word " * 300] * 20}
    (path,) = write_medical_images(
        tmp_path / "out", smooth(), (), Written(patient_name="Müller^Zoë=山田^太郎", patient_id="7"), long
    )
    made, _ = strictly_read(path)
    assert str(made.PatientName) == "Müller^Zoë=山田^太郎" and made.PatientID == "7"
    assert len(made.DerivationDescription) <= 1024 and len(made.ImageComments) <= 10240
    assert json.loads(made.ImageComments)["settings"] == "too long for this element"


def test_only_png_needs_no_pydicom(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pydicom.pixels", None)
    (path,) = write_medical_images(tmp_path / "out", smooth(), (), Written(PNG), {})
    assert path.suffix == ".png"
    with pytest.raises(ValueError, match="^format: DICOM is written by pydicom 3 or later; install it: pip"):
        write_medical_images(tmp_path / "out", smooth(), (), Written(DICOM), {})


def test_the_figure_of_pairs_shows_the_sign_of_the_difference():
    from medtraverse.figures.pair import pair_figure
    from medtraverse.figures.render import to_image

    before = np.full((2, 32, 32, 3), 0.5, np.float32)
    after = before.copy()
    after[0, :16], after[1, :16] = 1.0, 0.0
    figure = pair_figure(before, after, ["first", "second"], "Two pairs")
    texts = {text.get_text() for text in figure.findobj(lambda part: hasattr(part, "get_text"))}
    assert {"original", "synthetic", "difference", "first", "second", NOTICE} <= texts
    drawn = to_image(figure)
    shown = [axes for axes in figure.axes if axes.get_images()]
    maps = [axes.get_images()[0].get_array() for axes in shown if axes.get_images()[0].get_array().ndim == 2]
    np.testing.assert_allclose([maps[0][0, 0], maps[1][0, 0], maps[0][-1, 0]], [0.5, -0.5, 0])
    assert drawn.ndim == 3
    with pytest.raises(ValueError, match="before has shape"):
        pair_figure(before, after[:1])

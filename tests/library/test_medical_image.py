"""Medical images read: each kind of file against pydicom's own steps, and against Pillow's."""

import importlib.util
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from medtraverse.medical_image import (
    CROP,
    FITS,
    PAD,
    SQUASH,
    MedicalImage,
    MedicalSource,
    UnreadableImageError,
    Window,
    fitted,
    read_medical_image,
    resized,
    unfitted,
    windowed,
)

_spec = importlib.util.spec_from_file_location("dicom_samples", Path(__file__).with_name("dicom_samples.py"))
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)
dataset, saved, grey_values, colours = samples.dataset, samples.saved, samples.grey_values, samples.colours


def bits_of(made):
    return made.BitsStored


def as_pydicom_shows(made, index=0):
    """Return a grey image by pydicom's own modality and VOI steps, put to 0..1 by the window's limits."""
    real = apply_modality_lut(made.pixel_array, made)
    if "VOILUTSequence" in made:
        shown = apply_voi_lut(real.astype(np.int64), made).astype(np.float64)
        shown = shown / (2 ** made.VOILUTSequence[0].LUTDescriptor[2] - 1)
    elif "WindowWidth" in made:
        shown = apply_voi_lut(real, made, index)
        # pydicom stretches to the range of the stored bits, after the slope
        low = 0.0 if made.PixelRepresentation == 0 else -(2.0 ** (made.BitsStored - 1))
        high = low + 2.0**made.BitsStored - 1
        slope, intercept = float(made.get("RescaleSlope", 1)), float(made.get("RescaleIntercept", 0))
        low, high = low * slope + intercept, high * slope + intercept
        shown = (shown - low) / (high - low)
    else:
        real = real.astype(np.float64)
        shown = (real - real.min()) / (real.max() - real.min())
    return 1 - shown if made.PhotometricInterpretation == "MONOCHROME1" else shown


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_images_of_all_depths_are_shown_as_pydicom_shows_them(tmp_path, bits, signed, photometric):
    values = grey_values(bits, signed)
    middle, span = float(values.mean()), float(values.max()) - float(values.min())
    for elements in (
        {},
        {"WindowCenter": middle, "WindowWidth": span / 2},
        {"WindowCenter": middle, "WindowWidth": span / 3, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": middle, "WindowWidth": span / 3, "VOILUTFunction": "SIGMOID"},
        {"RescaleSlope": 2, "RescaleIntercept": -50, "WindowCenter": 2 * middle, "WindowWidth": span},
    ):
        made = dataset(values, bits, photometric, **elements)
        image = read_medical_image(saved(made, tmp_path / "image.dcm"))
        assert image.pixels.dtype == np.float32
        np.testing.assert_allclose(image.pixels, as_pydicom_shows(made), atol=2e-6)
        assert (image.source.bits, image.source.grey) == (bits, True)
        assert image.source.photometric == photometric


def test_one_of_several_windows_is_chosen(tmp_path):
    values = grey_values(12)
    made = dataset(values, 12, WindowCenter=[1000, 3000], WindowWidth=[500, 900])
    path = saved(made, tmp_path / "image.dcm")
    for index in range(2):
        image = read_medical_image(path, Window(f"window {index + 1}"))
        np.testing.assert_allclose(image.pixels, as_pydicom_shows(made, index), atol=2e-6)
    own = read_medical_image(path, Window("own", 2000, 700))
    np.testing.assert_allclose(own.pixels, windowed(values, 2000, 700), atol=1e-6)
    whole = read_medical_image(path, Window("whole range"))
    np.testing.assert_allclose(whole.pixels, values / 4095, atol=1e-6)
    with pytest.raises(
        ValueError, match="^window: 'window 3' is not in the file, which has 2 windows; choose"
    ):
        read_medical_image(path, Window("window 3"))
    with pytest.raises(
        ValueError, match="^window: 'CT lung' is for CT; choose automatic, window 1, window 2"
    ):
        read_medical_image(path, Window("CT lung"))
    with pytest.raises(ValueError, match="^window_width: 0 shows nothing; give a width above 0"):
        read_medical_image(path, Window("own"))
    with pytest.raises(ValueError, match="^window: there is no 'bone'; the choices are automatic, "):
        read_medical_image(path, Window("bone"))


def test_ct_windows_are_in_hounsfield_units(tmp_path):
    made = dataset(grey_values(12), 12, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024, BitsStored=12)
    real = made.pixel_array - 1024.0
    image = read_medical_image(saved(made, tmp_path / "slice.dcm"), Window("CT lung"))
    np.testing.assert_allclose(image.pixels, np.clip((real + 600.5) / 1499 + 0.5, 0, 1), atol=1e-6)


def test_tables_of_modality_and_voi(tmp_path):
    made = dataset(grey_values(10), 10, VOILUTSequence=[samples.table(0, 12, 1024)])
    image = read_medical_image(saved(made, tmp_path / "voi.dcm"))
    np.testing.assert_allclose(image.pixels, as_pydicom_shows(made), atol=1e-6)
    made = dataset(grey_values(10), 10, ModalityLUTSequence=[samples.table(0, 16, 1024)])
    made.ModalityLUTSequence[0].ModalityLUTType = "US"
    image = read_medical_image(saved(made, tmp_path / "modality.dcm"))
    np.testing.assert_allclose(image.pixels, as_pydicom_shows(made), atol=1e-6)
    # a table over half of the values: below and above it the ends hold
    made = dataset(grey_values(12), 12, VOILUTSequence=[samples.table(1000, 16, 2000)])
    image = read_medical_image(saved(made, tmp_path / "part.dcm"))
    np.testing.assert_allclose(image.pixels, as_pydicom_shows(made), atol=1e-6)


def test_overlays_in_unused_bits_are_not_seen(tmp_path):
    values = grey_values(10)
    dirty = values | np.uint16(0b1010_0000_0000_0000)
    image = read_medical_image(saved(dataset(dirty, 10), tmp_path / "image.dcm"))
    np.testing.assert_allclose(image.pixels, values / 1023, atol=1e-6)
    made = dataset((values << 6).astype(np.uint16), 10)
    made.HighBit = 15
    image = read_medical_image(saved(made, tmp_path / "high.dcm"))
    np.testing.assert_allclose(image.pixels, values / 1023, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_stretch_the_range(tmp_path, photometric):
    values = np.clip(grey_values(12), 100, 4000)
    values[:5] = 65535 & 0x0FFF
    made = dataset(values, 12, photometric, PixelPaddingValue=4095)
    image = read_medical_image(saved(made, tmp_path / "image.dcm"))
    assert (image.pixels[:5] == 0).all()
    inside = (values[5:].astype(float) - 100) / 3900
    expected = inside if photometric == "MONOCHROME2" else 1 - inside
    np.testing.assert_allclose(image.pixels[5:], expected, atol=1e-6)


def test_colours_palettes_and_ybr(tmp_path):
    values = colours()
    path = saved(dataset(values), tmp_path / "rgb.dcm")
    np.testing.assert_allclose(read_medical_image(path).pixels, values / 255, atol=1e-6)
    made = dataset(np.ascontiguousarray(values.transpose(2, 0, 1)).reshape(values.shape))
    made.PlanarConfiguration = 1
    path = saved(made, tmp_path / "planes.dcm")
    np.testing.assert_allclose(read_medical_image(path).pixels, values / 255, atol=1e-6)
    for name in ("examples_palette.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_ybr_full_422_uncompressed.dcm"):
        image = read_medical_image(pydicom.data.get_testdata_file(name))
        made = pydicom.dcmread(pydicom.data.get_testdata_file(name))
        expected = pydicom.pixels.pixel_array(made)
        if "palette" in name:
            expected = pydicom.pixels.apply_color_lut(expected, made) / 65535
        else:
            expected = expected / 255
        np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    with pytest.raises(ValueError, match="^window: 'window 1' is not in the file, as a colour image has no"):
        read_medical_image(path, Window("window 1"))


def test_a_frame_is_chosen_and_its_own_window_taken(tmp_path):
    values = np.stack([grey_values(12, seed=number) for number in range(3)])
    made = dataset(values, 12, SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1")
    groups = []
    for number in range(3):
        window = pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = 1000 + 500 * number, 800
        group = pydicom.Dataset()
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    path = saved(made, tmp_path / "cine.dcm")
    for number in range(3):
        image = read_medical_image(path, frame=number + 1)
        expected = windowed(values[number], 1000 + 500 * number, 800)
        np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
        assert (image.source.frame, image.source.frames) == (number + 1, 3)
    with pytest.raises(ValueError, match="^frame: 4 is out of range; the file has 3"):
        read_medical_image(path, frame=4)
    with pytest.raises(ValueError, match="^frame: 0 is out of range; the first frame is 1"):
        read_medical_image(path, frame=0)


@pytest.mark.parametrize(
    ("syntax", "plugin"),
    [
        ("1.2.840.10008.1.2.5", "pydicom"),
        ("1.2.840.10008.1.2.4.80", "pyjpegls"),
        ("1.2.840.10008.1.2.4.90", "pylibjpeg"),
    ],
)
@pytest.mark.parametrize("kind", ["grey", "signed", "colour"])
def test_lossless_compression_changes_nothing(tmp_path, syntax, plugin, kind):
    values = {"grey": grey_values(12), "signed": grey_values(12, True), "colour": colours()}[kind]
    plain = read_medical_image(saved(dataset(values), tmp_path / "plain.dcm"))
    made = dataset(values)
    made.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    image = read_medical_image(saved(made, tmp_path / "small.dcm"))
    np.testing.assert_array_equal(image.pixels, plain.pixels)
    assert image.source.sha256 == plain.source.sha256


# Files that scanners and converters wrote, and their mean value by pydicom and its decoders.
PUBLIC = sorted(
    path
    for path in (Path(pydicom.data.__file__).parent / "test_files").rglob("*")
    if path.is_file() and path.suffix not in (".json", ".dump", ".txt", ".icc")
)


def test_pydicoms_own_files_are_read_or_refused_in_a_sentence(caplog, capfd):
    read, refused = {}, {}
    for path in PUBLIC:
        try:
            image = read_medical_image(path)
        except ValueError as error:
            refused[path.name] = str(error)
            continue
        read[path.name] = image
        made = pydicom.dcmread(path, force=True)
        assert image.pixels.shape[:2] == (made.Rows, made.Columns)
        assert image.pixels.min() >= 0 and image.pixels.max() <= 1
        if image.source.photometric in ("RGB", "YBR_FULL", "YBR_FULL_422"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = pydicom.pixels.pixel_array(made, index=0)
            np.testing.assert_allclose(image.pixels, expected / (2.0**made.BitsStored - 1), atol=1e-6)
    assert len(read) >= 80
    compressed = (
        "693_J2KI",
        "JPEG2000",
        "JPEGLSNearLossless_16",
        "MR_small_jpeg_ls_lossless",
        "MR_small_RLE",
    )
    assert all(f"{name}.dcm" in read for name in compressed)
    assert "SC_rgb_jpeg_dcmtk.dcm" in read and "image_dfl.dcm" in read
    # the same slice, written in eight ways
    same = [image.source.sha256 for name, image in read.items() if name.startswith("MR_small")]
    assert len(same) == 8 and len(set(same)) == 1
    said = {
        "reportsi.dcm": "holds no pixel data",
        "rtplan.dcm": "holds no pixel data",
        "DICOMDIR": "is an index of files",
        "rtdose.dcm": "is a volume of 15 slices (a dose distribution)",
        "liver_1frame.dcm": "has 1 bit a pixel",
        "MR_truncated.dcm": "truncated",
        "JPEG-lossy.dcm": "which pylibjpeg-libjpeg alone reads",
        "zipMR.gz": "is compressed as a whole",
    }
    for name, words in said.items():
        assert words in refused[name]
    assert all(text.count(". ") == 0 and text.endswith(".") and ";" in text for text in refused.values())


def test_gdcm_alone_reads_what_the_extra_promises(monkeypatch):
    """The extra brings no other decoder: pylibjpeg, pyjpegls and Pillow's are taken away."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    for syntax, name in {
        "1.2.840.10008.1.2.4.50": "SC_rgb_jpeg_dcmtk.dcm",
        "1.2.840.10008.1.2.4.81": "JPEGLSNearLossless_16.dcm",
        "1.2.840.10008.1.2.4.80": "MR_small_jpeg_ls_lossless.dcm",
        "1.2.840.10008.1.2.4.90": "MR_small_jp2klossless.dcm",
        "1.2.840.10008.1.2.4.91": "693_J2KI.dcm",
    }.items():
        path = pydicom.data.get_testdata_file(name)
        usual = read_medical_image(path)
        decoder = get_decoder(UID(syntax))
        with monkeypatch.context() as patch:
            only = {key: value for key, value in decoder._available.items() if key == "gdcm"}
            assert only
            patch.setattr(decoder, "_available", only)
            np.testing.assert_allclose(read_medical_image(path).pixels, usual.pixels, atol=0.02)


def broken():
    """Yield the name of a fault and the bytes of a file that has it: 60 and more."""

    def written(made):
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pydicom.dcmwrite(file, made, enforce_file_format=True)
        return file.getvalue()

    whole = written(dataset(grey_values(12)))
    for share in (1, 3, 10, 20, 30, 40, 60, 80, 95, 99):
        yield f"cut at {share} %", whole[: len(whole) * share // 100]
    made = dataset(grey_values(12))
    made.compress("1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False)
    rle = written(made)
    for share in (60, 80, 95):
        yield f"RLE cut at {share} %", rle[: len(rle) * share // 100]
    for syntax, plugin in (("1.2.840.10008.1.2.4.80", "pyjpegls"), ("1.2.840.10008.1.2.4.90", "pylibjpeg")):
        made = dataset(grey_values(12))
        made.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
        compressed = written(made)
        for share in (50, 70):
            yield f"{plugin} cut at {share} %", compressed[: len(compressed) * share // 100]
    for name in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation",
                 "PixelData"):  # fmt: skip
        made = dataset(grey_values(12))
        delattr(made, name)
        yield f"no {name}", written(made)
    for name, value in {
        "Rows": 0, "Columns": 0, "BitsAllocated": 24, "BitsStored": 99, "SamplesPerPixel": 3,
        "PhotometricInterpretation": "HSV", "NumberOfFrames": 9, "PixelRepresentation": 7,
    }.items():  # fmt: skip
        made = dataset(grey_values(12))
        setattr(made, name, value)
        yield f"{name} is {value}", written(made)
    for name, value in {"Rows": 60000, "Columns": 60000, "HighBit": 40, "BitsAllocated": 1}.items():
        made = dataset(grey_values(12))
        setattr(made, name, value)
        yield f"{name} is {value} ", written(made)
    made = dataset(colours(), PhotometricInterpretation="CMYK")
    yield "CMYK", written(made)
    for name, value in {"LUTDescriptor": [0], "LUTData": b""}.items():
        made = dataset(grey_values(12), VOILUTSequence=[samples.table(0, 12, 1024)])
        kind = {"LUTDescriptor": "US", "LUTData": "OW"}[name]
        made.VOILUTSequence[0].add_new(name, kind, value)
        yield f"a table whose {name} is {value!r}", written(made)
    made = dataset(grey_values(8) // 2, 8, "PALETTE COLOR")
    yield "a palette that is not there", written(made)
    for syntax in ("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.106", "1.2.3.4.5",
                   "1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.4.204"):  # fmt: skip
        made = dataset(grey_values(12))
        made.compress("1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False)
        made.file_meta.TransferSyntaxUID = syntax
        file = io.BytesIO()
        pydicom.dcmwrite(file, made, implicit_vr=False, little_endian=True)
        yield f"syntax {syntax}", file.getvalue()
    for kind, frames in (("1.2.840.10008.5.1.4.1.1.2.1", 3), ("1.2.840.10008.5.1.4.1.1.13.1.3", 4)):
        made = dataset(np.stack([grey_values(12)] * frames), 12, SOPClassUID=kind)
        yield f"volume {kind}", written(made)
    made = dataset(np.stack([grey_values(12)] * 2), 12)
    made.PerFrameFunctionalGroupsSequence = []
    for number in range(2):
        place, group = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = [0, 0, number]
        group.PlanePositionSequence = [place]
        made.PerFrameFunctionalGroupsSequence.append(group)
    yield "frames at places of their own", written(made)
    made = dataset(grey_values(12))
    del made.PixelData
    made.EncryptedAttributesSequence = [pydicom.Dataset()]
    yield "encrypted attributes", written(made)
    del made.EncryptedAttributesSequence
    made.PixelDataProviderURL = "https://SECRETWARD/pixels"
    yield "pixels on a server", written(made)
    yield "CMS envelope", b"\x30\x82\x10\x00\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03" + bytes(500)
    yield "empty", b""
    yield "zeros", bytes(4000)
    yield "text", b"Patient: SECRETNAME\n" * 50
    yield "ZIP", b"PK\x03\x04" + bytes(100)
    yield "7z", b"7z\xbc\xaf\x27\x1c" + bytes(100)
    yield "NIfTI", bytes(344) + b"n+1\x00" + bytes(100)
    yield "NRRD", b"NRRD0004\n" + bytes(100)
    yield "MetaImage", b"ObjectType = Image\nNDims = 3\n"
    yield "PDF", b"%PDF-1.7\n" + bytes(100)
    yield "GIF", b"GIF89a" + bytes(100)
    picture = io.BytesIO()
    Image.fromarray(colours()).save(picture, "PNG")
    for share in (20, 60, 90):
        yield f"PNG cut at {share} %", picture.getvalue()[: len(picture.getvalue()) * share // 100]
    picture = io.BytesIO()
    Image.fromarray(colours()).save(picture, "JPEG")
    for share in (30, 70):
        yield f"JPEG cut at {share} %", picture.getvalue()[: len(picture.getvalue()) * share // 100]
    picture = io.BytesIO()
    Image.fromarray(grey_values(16)).save(picture, "TIFF")
    yield "TIFF cut", picture.getvalue()[: len(picture.getvalue()) // 2]
    numbers = np.full((8, 8), np.nan, np.float32)
    picture = io.BytesIO()
    Image.fromarray(numbers).save(picture, "TIFF")
    yield "TIFF without numbers", picture.getvalue()


BROKEN = dict(broken())


def test_there_are_sixty_faults():
    assert len(BROKEN) >= 60


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_in_one_sentence_without_its_secrets(tmp_path, fault, caplog, capfd):
    path = tmp_path / ("image.dcm" if BROKEN[fault][128:132] == b"DICM" else "image")
    path.write_bytes(BROKEN[fault])
    with caplog.at_level(logging.DEBUG), pytest.raises(UnreadableImageError) as caught:
        read_medical_image(path)
    text = str(caught.value)
    assert text.endswith(".") and text.count("; ") >= 1 and ". " not in text and "\n" not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    out, err = capfd.readouterr()
    for secret in (*samples.SECRETS, str(tmp_path)):
        assert secret not in text + caplog.text + out + err


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_gets_past_the_reader_as_another_error(tmp_path_factory, data):
    """Bytes changed anywhere: an image, or one sentence."""
    content = bytearray(WHOLE)
    for place in data.draw(st.lists(st.integers(128, len(content) - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    path.write_bytes(bytes(content))
    said, pixels = "", np.zeros(1)
    try:
        pixels = read_medical_image(path).pixels
    except ValueError as error:
        said = str(error)
    assert not any(secret in said for secret in samples.SECRETS)
    assert np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1


_file = io.BytesIO()
pydicom.dcmwrite(
    _file,
    dataset(grey_values(12, shape=(6, 8)), 12, WindowCenter=2000, WindowWidth=900),
    enforce_file_format=True,
)
WHOLE = _file.getvalue()


def test_nothing_of_the_patient_is_kept(tmp_path):
    made = dataset(grey_values(12), 12, Modality="SECRETWARD", BurnedInAnnotation="YES")
    made.WindowCenter, made.WindowWidth = 2000, 900
    made.WindowCenterWidthExplanation = "SECRETNOTE"
    image = read_medical_image(saved(made, tmp_path / "SECRETNAME.dcm"))
    told = repr(image.source) + image.source.line() + repr(image.source.describe())
    assert not any(secret in told for secret in samples.SECRETS)
    assert image.source.modality == "" and "it may name the patient" in image.source.line()
    for uid in (made.SOPInstanceUID, made.StudyInstanceUID, made.SeriesInstanceUID):
        assert str(uid) not in told


def test_without_pydicom_3_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    path = saved(dataset(grey_values(12)), tmp_path / "image.dcm")
    # as with pydicom 2, which has no such module, too
    monkeypatch.setitem(sys.modules, "pydicom.pixels", None)
    with pytest.raises(UnreadableImageError, match=r'install it: pip install "medtraverse\[dicom\]"'):
        read_medical_image(path)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_pictures_of_sixteen_bits_are_not_cut_off(tmp_path, suffix, bits):
    values = grey_values(bits).astype(np.uint16)
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(values).save(path)
    image = read_medical_image(path)
    np.testing.assert_allclose(image.pixels, values / (2**bits - 1), atol=1e-6)
    assert image.source.bits == bits and image.source.grey
    own = read_medical_image(path, Window("own", values.mean(), 100))
    np.testing.assert_allclose(own.pixels, windowed(values, values.mean(), 100), atol=1e-6)


def test_tiff_that_grows_towards_black_is_turned_round(tmp_path):
    values = grey_values(16)
    path = tmp_path / "image.tiff"
    Image.fromarray(values).save(path, tiffinfo={262: 0})
    with Image.open(path) as kept:
        assert kept.tag_v2[262] == 0
    np.testing.assert_allclose(read_medical_image(path).pixels, 1 - values / 65535, atol=1e-6)


def test_jpeg_is_turned_as_its_exif_says_and_webp_has_any_name(tmp_path):
    values = colours(shape=(32, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "photo.jpg", exif=exif, quality=100, subsampling=0)
    image = read_medical_image(tmp_path / "photo.jpg")
    assert image.pixels.shape == (48, 32, 3)
    np.testing.assert_allclose(image.pixels, np.rot90(values, -1) / 255, atol=0.03)
    Image.fromarray(values).save(tmp_path / "wrong.png", "WEBP", lossless=True)
    image = read_medical_image(tmp_path / "wrong.png")
    np.testing.assert_allclose(image.pixels, values / 255, atol=1e-6)
    assert image.source.format == "WEBP"
    Image.fromarray(values[..., 0]).convert("P").save(tmp_path / "palette.png")
    assert read_medical_image(tmp_path / "palette.png").source.grey


def test_pages_of_a_tiff_and_colour_of_other_modes(tmp_path):
    pages = [Image.fromarray(grey_values(16, seed=number)) for number in range(3)]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    image = read_medical_image(tmp_path / "pages.tiff", frame=3)
    np.testing.assert_allclose(image.pixels, grey_values(16, seed=2) / 65535, atol=1e-6)
    with pytest.raises(ValueError, match="^frame: 4 is out of range; the file has 3"):
        read_medical_image(tmp_path / "pages.tiff", frame=4)
    Image.fromarray(colours()).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert read_medical_image(tmp_path / "cmyk.jpg").pixels.shape == (40, 56, 3)
    Image.fromarray(np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)).save(tmp_path / "float.tiff")
    np.testing.assert_allclose(
        read_medical_image(tmp_path / "float.tiff").pixels, np.linspace(0, 1, 48).reshape(6, 8), atol=1e-6
    )


def picture(rows, columns, channels=0):
    shape = (rows, columns, channels) if channels else (rows, columns)
    pixels = np.random.default_rng(rows * columns).random(shape, np.float32)
    return MedicalImage(pixels, MedicalSource("PNG", rows, columns, not channels, 8))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 90),
    columns=st.integers(1, 90),
    fit=st.sampled_from(FITS),
    size=st.sampled_from([(64, 64), (32, 96), (16, 16)]),
    channels=st.sampled_from([0, 3]),
)
def test_a_fit_has_the_size_and_its_record_undoes_it(rows, columns, fit, size, channels):
    image, padding = fitted(picture(rows, columns, channels), size, fit)
    assert image.pixels.shape[:2] == padding.shape == size
    assert (image.source.fit, image.source.size) == (fit, size)
    assert padding.any() == (fit == PAD and image.source.box[2:] != size)
    assert (image.pixels[padding == 1] == 0).all()
    back = unfitted(image.pixels, image.source)
    assert back.shape[:2] == (image.source.box[2:] if fit == CROP else (rows, columns))


@pytest.mark.parametrize("fit", FITS)
def test_fit_and_back_of_a_smooth_image_changes_little(fit):
    rows, columns = np.mgrid[:200, :300] / 100.0
    smooth = (0.5 + 0.4 * np.sin(rows) * np.cos(columns)).astype(np.float32)
    image, _ = fitted(MedicalImage(smooth, MedicalSource("PNG", 200, 300, True, 8)), (128, 128), fit)
    back = unfitted(image.pixels, image.source)
    expected = smooth[:, 50:250] if fit == CROP else smooth
    assert np.abs(back - expected)[4:-4, 4:-4].max() < 0.01


def test_squash_is_torchs_resize_with_antialias():
    import torch

    image = picture(90, 70)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image.pixels)[None, None], (32, 32), mode="bilinear", antialias=True
    )[0, 0].numpy()
    np.testing.assert_allclose(fitted(image, (32, 32), SQUASH)[0].pixels, expected, atol=1e-5)
    np.testing.assert_array_equal(resized(image.pixels, (90, 70)), image.pixels)
    with pytest.raises(ValueError, match="^fit: there is no 'stretch'; the choices are squash, pad, crop"):
        fitted(image, (32, 32), "stretch")

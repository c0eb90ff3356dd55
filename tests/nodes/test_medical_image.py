"""LoadMedicalImage and SaveMedicalImage as nodes: choices, batches, sizes, messages, and what they write."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

_spec = importlib.util.spec_from_file_location(
    "dicom_samples", Path(__file__).parents[1] / "library" / "dicom_samples.py"
)
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)

CHEST, SKIN = "MedTraverse demo chest film (phantom)", "MedTraverse demo skin image (phantom)"
CHESTS = "MedTraverse demo chest films (4 phantoms)"
TRUTHS = "MedTraverse demo chest films, true counterfactuals (8 phantoms)"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Input and output folders of their own; returns the input folder."""
    import folder_paths

    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    return tmp_path / "input"


def write(folder, name, seed=0, **elements):
    folder.mkdir(parents=True, exist_ok=True)
    return samples.saved(samples.dataset(samples.grey_values(12, seed=seed), 12, **elements), folder / name)


def test_the_phantoms_are_read_as_they_were_drawn(run):
    from demo.phantoms import chest, dermoscopy
    from demo.phantoms.dicom_files import CHEST_SEEDS, SKIN_SEED, chest_factors, skin_factors

    images, padding, source, report = run("LoadMedicalImage", file=CHESTS, size=128)
    assert images.shape == (4, 128, 128, 3) and not padding.any() and len(source) == 4
    for image, seed in zip(images, CHEST_SEEDS):
        expected = chest.render(chest_factors(seed), 128).image
        np.testing.assert_allclose(image[:, 1:-1].numpy(), expected[:, 1:-1], atol=2e-4)
    assert report.splitlines()[0].startswith("1: DICOM CR MONOCHROME1; 128 × 128, 12 bits; centre 2200.5")
    images, _, source, _ = run("LoadMedicalImage", file=SKIN)
    expected = dermoscopy.render(skin_factors(SKIN_SEED), 128).image
    np.testing.assert_allclose(images[0].numpy(), expected, atol=0.51 / 255)
    assert not source[0].grey
    assert torch.equal(run("LoadMedicalImage", file=CHEST)[0], run("LoadMedicalImage", file=CHESTS)[0][:1])


def test_the_true_counterfactuals_are_those_patients_with_a_finding(run):
    from demo.phantoms import chest
    from demo.phantoms.dicom_files import CHEST_SEEDS, FINDINGS, chest_factors

    before, after = run("LoadMedicalImage", file=CHESTS)[0], run("LoadMedicalImage", file=TRUTHS)[0]
    pairs = [(patient, finding) for patient in range(4) for finding in FINDINGS]
    assert len(after) == len(pairs)
    for image, (patient, finding) in zip(after, pairs):
        factors = chest_factors(CHEST_SEEDS[patient], finding)
        assert getattr(factors, finding) and (image - before[patient]).abs().max() > 0.1
        expected = chest.render(factors, 128).image
        np.testing.assert_allclose(image[:, 1:-1].numpy(), expected[:, 1:-1], atol=2e-4)


def test_the_shipped_files_are_those_of_the_command(tmp_path):
    from demo.phantoms.dicom_files import OUT, write_all

    written = {path.relative_to(tmp_path): pydicom.dcmread(path) for path in write_all(tmp_path)}
    shipped = {path.relative_to(OUT): pydicom.dcmread(path) for path in OUT.rglob("*.dcm")}
    assert written.keys() == shipped.keys() and len(shipped) == 13
    for name, made in shipped.items():
        # the last digit of a sine may differ from one processor to another
        assert np.abs(made.pixel_array.astype(int) - written[name].pixel_array).max() <= 1
        made.PixelData = written[name].PixelData
        assert made == written[name]
    assert sum(path.stat().st_size for path in OUT.rglob("*.dcm")) < 1_000_000


def test_the_domain_gives_the_size_and_a_fit_its_padding(run, demo, folders):
    write(folders, "film.dcm")
    images, padding, source, _ = run("LoadMedicalImage", file="film.dcm", domain=demo[3], fit="pad")
    assert images.shape == (1, demo[3].size, demo[3].size, 3) and padding.shape == images.shape[:3]
    assert 0 < padding.mean() < 1 and source[0].fit == "pad"
    assert run("LoadMedicalImage", file="film.dcm")[0].shape == (1, 40, 56, 3)
    with pytest.raises(ValueError, match=r"^size: 60 is no multiple of 8; take 56 or 64\.$"):
        run("LoadMedicalImage", file="film.dcm", size=60)


def test_a_folder_is_a_batch_and_a_broken_file_is_told_by_its_number(run, folders):
    for number in range(5):
        write(folders / "cohort", f"SECRETNAME-{number}.dcm", seed=number)
    (folders / "cohort" / "notes.txt").write_text("SECRETNOTE")
    images, _, source, report = run("LoadMedicalImage", file="cohort/", size=64)
    assert len(images) == len(source) == 5 and len(report.splitlines()) == 5
    part = run("LoadMedicalImage", file="cohort/", size=64, first=1, count=2)
    assert torch.equal(part[0], images[1:3]) and part[3].startswith("2: ")
    (folders / "cohort" / "SECRETNAME-1.dcm").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^file: number 2 of 5 in 'cohort/' is empty; copy it again\.$"):
        run("LoadMedicalImage", file="cohort/", size=64)
    images, _, _, report = run("LoadMedicalImage", file="cohort/", size=64, unreadable="leave out")
    assert len(images) == 4
    assert report.splitlines()[1] == "2: left out, as it is empty; copy it again."
    assert "SECRET" not in report
    with pytest.raises(ValueError, match=r"^first: 9 images are passed over, but 'cohort/' has 5; give less"):
        run("LoadMedicalImage", file="cohort/", first=9)
    with pytest.raises(
        ValueError, match="^window: number 1 of 5 in 'cohort/': 'window 2' is not in the file"
    ):
        run("LoadMedicalImage", file="cohort/", window="window 2", unreadable="leave out")


def test_images_of_several_sizes_need_a_size(run, folders):
    write(folders / "mixed", "1.dcm")
    Image.new("L", (32, 24)).save(folders / "mixed" / "2.png")
    with pytest.raises(ValueError, match="^size: the images have sizes from 32 × 24 to 56 × 40; give a size"):
        run("LoadMedicalImage", file="mixed/")
    assert run("LoadMedicalImage", file="mixed/", size=32)[0].shape == (2, 32, 32, 3)


def test_slices_of_one_series_are_no_batch(run, folders):
    for number in range(3):
        write(
            folders / "ct",
            f"IM{number:06}",
            Modality="CT",
            SeriesInstanceUID="1.2.3",
            ImagePositionPatient=[0, 0, number],
        )
    with pytest.raises(
        ValueError, match="^file: 'ct/' holds slices of one 3-D series .CT, MR or PET.; choose"
    ):
        run("LoadMedicalImage", file="ct/")
    assert len(run("LoadMedicalImage", file="ct/IM000001")[0]) == 1


@pytest.mark.parametrize("name", ["../secret.dcm", "/etc/hostname", "a/../../secret.dcm", "..", "x\0.dcm"])
def test_no_name_leads_out_of_the_input_folder(run, node_classes, folders, name):
    (folders.parent / "secret.dcm").write_bytes(b"x")
    with pytest.raises(ValueError, match="^file: .* leads out of ComfyUI's input folder; copy the file into"):
        run("LoadMedicalImage", file=name)
    assert "leads out of" in node_classes["LoadMedicalImage"].validate_inputs(file=name)


def test_a_missing_file_is_named_before_the_run(node_classes, folders):
    node = node_classes["LoadMedicalImage"]
    assert node.validate_inputs(file="film.dcm") == (
        "file: there is no 'film.dcm' in ComfyUI's input folder; upload it, or choose another."
    )
    (folders / "empty").mkdir()
    assert "is a folder without images" in node.validate_inputs(file="empty/")
    assert node.validate_inputs(file=CHEST) is True and node.validate_inputs() is True


def test_the_list_has_phantoms_folders_and_files(node_classes, folders):
    write(folders, "film.dcm")
    write(folders / "medical", "IM000001")
    write(folders / "medical" / "deep", "1.2.840.7")
    Image.new("L", (8, 8)).save(folders / "photo.webp")
    (folders / "README").write_text("x")
    (folders / "clipspace").mkdir()
    Image.new("L", (8, 8)).save(folders / "clipspace" / "mask.png")
    for number in range(201):
        (folders / "large").mkdir(exist_ok=True)
        (folders / "large" / f"{number}.png").write_bytes(b"")
    options = node_classes["LoadMedicalImage"].INPUT_TYPES()["required"]["file"][1]["options"]
    assert options[:4] == [CHEST, SKIN, CHESTS, TRUTHS]
    assert options[4:] == [
        "large/",
        "medical/",
        "medical/deep/",
        "film.dcm",
        "medical/IM000001",
        "medical/deep/1.2.840.7",
        "photo.webp",
    ]


def test_the_cache_goes_by_content(node_classes, folders):
    node = node_classes["LoadMedicalImage"]
    write(folders, "SECRETNAME.dcm", SOPInstanceUID="1.2.3", StudyInstanceUID="1.2", SeriesInstanceUID="1.4")
    (folders / "copy.dcm").write_bytes((folders / "SECRETNAME.dcm").read_bytes())
    first = node.fingerprint_inputs(file="SECRETNAME.dcm", window="automatic")
    assert first == node.fingerprint_inputs(file="copy.dcm", window="automatic")
    assert "SECRET" not in first and node.fingerprint_inputs(file=None) is None
    write(folders, "copy.dcm", seed=3)
    assert first != node.fingerprint_inputs(file="copy.dcm", window="automatic")


def test_a_synthetic_image_is_saved_with_method_and_digests(run, folders, demo, traverse):
    trajectory = traverse(steps=6, swap_steps="2", patients=1, seed=7)
    images = demo[2].decode(trajectory.latents)[:2]
    original, _, source, _ = run("LoadMedicalImage", file=CHEST, size=images.shape[1])
    shown = run(
        "SaveMedicalImage",
        images=images,
        format="DICOM and PNG",
        filename_prefix="cases/one",
        derivation="as a test",
        source=source,
        original=original,
        trajectory=trajectory,
    ).ui
    names = [file["filename"] for file in shown["files"]]
    assert names == [
        "one_00001_0001.dcm",
        "one_00001_0001.png",
        "one_00001_0002.dcm",
        "one_00001_0002.png",
        "one_00001_pair.png",
    ]
    folder = folders.parent / "output" / "cases"
    assert sorted(path.name for path in folder.iterdir()) == names
    made = pydicom.dcmread(folder / names[0])
    assert made.PhotometricInterpretation == "MONOCHROME2" and made.Modality == "CR"
    assert "prompt swap in a diffusion model's latent space" in made.DerivationDescription
    assert "as a test" in made.DerivationDescription and "sha256" in made.DerivationDescription
    told = json.loads(made.ImageComments)
    assert told["trajectory"]["seeds"] == [7] and told["source"]["photometric"] == "MONOCHROME1"
    assert len(shown["images"]) == 2
    check_compared(folders.parent / "temp", shown, original, images)
    again = run("SaveMedicalImage", images=images[:1], filename_prefix="cases/one").ui
    assert [file["filename"] for file in again["files"]] == ["one_00002.dcm"]


def check_compared(temp, shown, original, images):
    """The compare viewer's file keeps the contract, and its images are exact."""
    from medtraverse_pack.nodes.view_contract import adapter

    (named,) = shown["medtraverse_view"]
    view = json.loads((temp / named["subfolder"] / named["view"]).read_text())
    adapter()[0].validate_python(view)
    assert [pair["title"] for pair in view["pairs"]] == ["image 1", "image 2"]
    # the film is grey, so its counterfactual is too, and both have sixteen bits
    assert view["deep"] and view["size"] == [128, 128]
    for pair, image in zip(view["pairs"], images):
        for row, expected in ((pair["before"], original[0]), (pair["after"], image)):
            path = temp / named["subfolder"] / f"{view['images']['prefix']}{row}.png"
            levels = np.asarray(Image.open(path)).astype(int)
            values = (levels[..., 0] * 256 + levels[..., 1]) / 65535
            np.testing.assert_allclose(values, expected.mean(dim=-1).numpy(), atol=1e-5)


def test_colours_are_compared_as_they_are(run, folders):
    original, _, source, _ = run("LoadMedicalImage", file=SKIN)
    shown = run("SaveMedicalImage", images=original * 0.7, source=source, original=original).ui
    (named,) = shown["medtraverse_view"]
    folder = folders.parent / "temp" / named["subfolder"]
    view = json.loads((folder / named["view"]).read_text())
    assert not view["deep"]
    values = np.asarray(Image.open(folder / f"{view['images']['prefix']}1.png")) / 255
    np.testing.assert_allclose(values, original[0].numpy() * 0.7, atol=0.51 / 255)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"filename_prefix": "../out"}, "^filename_prefix: '../out' leads out of ComfyUI's output folder"),
        ({"filename_prefix": " "}, "^filename_prefix: it is empty; give a name"),
        ({"format": "GIF"}, "^format: there is no 'GIF'"),
        ({"original": torch.zeros(1, 8, 8, 3)}, "^original: 1 images of 8 × 8 do not go with 2 of 16 × 16"),
        ({"source": "a text"}, "^source: 'a text' is no source; wire the output of Load Medical Image"),
        ({"source": ()}, "^source: an object of type tuple is no source"),
    ],
)
def test_a_bad_input_is_named_and_nothing_written(run, folders, inputs, message):
    with pytest.raises(ValueError, match=message):
        run("SaveMedicalImage", images=torch.rand(2, 16, 16, 3), **inputs)
    assert not list((folders.parent / "output").rglob("*"))

"""A patient's file through a live server: uploaded, run or refused; afterwards its words are searched for."""

import importlib.util
import io
import json
import urllib.request
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from medtraverse.remote.client import NodeFailed

_spec = importlib.util.spec_from_file_location(
    "dicom_samples", Path(__file__).parents[1] / "library" / "dicom_samples.py"
)
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)


def content_of(made):
    file = io.BytesIO()
    pydicom.dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()


def load(graph, choice, **inputs):
    values = {
        "window": "automatic",
        "window_center": 0.0,
        "window_width": 0.0,
        "frame": 1,
        "fit": "pad",
        "size": 64,
        "first": 0,
        "count": 8,
        "unreadable": "stop",
        **inputs,
    }
    return graph.add("LoadMedicalImage", file=choice, **values)


def save(graph, images, **inputs):
    values = {
        "filename_prefix": "medical/case",
        "format": "DICOM and PNG",
        "size": "the file's",
        "colour": "as the file",
        "burn_in": True,
        "series": "",
        "patient_name": "",
        "patient_id": "",
        "derivation": "",
        **inputs,
    }
    return graph.add("SaveMedicalImage", images=images, **values)


def check_nothing_got_out(server, base):
    """Search the history, the log and every file but the upload for what was planted."""
    with urllib.request.urlopen(f"{server}/history") as answer:
        told = [answer.read(), (base / "server.log").read_bytes()]
    told += [
        path.read_bytes()
        for path in base.rglob("*")
        if path.is_file() and base / "input" not in path.parents and base / "custom_nodes" not in path.parents
    ]
    for secret in samples.SECRETS:
        assert not any(secret.encode() in content for content in told), secret


def test_from_upload_to_export_no_word_of_the_patient(client, graph, server, base):
    made = samples.dataset(
        samples.grey_values(12),
        12,
        "MONOCHROME1",
        WindowCenter=2000,
        WindowWidth=3000,
        BurnedInAnnotation="YES",
    )
    made.compress("1.2.840.10008.1.2.4.80", encoding_plugin="pyjpegls", generate_instance_uid=False)
    loaded = load(graph, client.upload_image("0a1b2c.dcm", content_of(made)))
    saved = save(graph, loaded[0], source=loaded[2], original=loaded[0])
    picture = graph.add("SaveImage", images=loaded[0], filename_prefix="medical/core")
    shown = graph.add("PreviewAny", source=loaded[3])
    result = client.run(graph)
    report = result.outputs[shown.id]["text"][0]
    assert report.startswith(
        "1: DICOM CR MONOCHROME1; 56 × 40, 12 bits; centre 2000, width 3000; pad to 64 × 64"
    )
    dicom, png, pair = result.files(saved.id, "files")
    again = pydicom.dcmread(io.BytesIO(client.fetch(dicom)))
    assert (again.Rows, again.Columns) == (40, 56) and again.PatientName == ""
    assert again.BurnedInAnnotation == "YES"
    # what was read, but for the word in the corner, is what was written
    from pydicom.pixels import apply_voi_lut

    expected = 1 - apply_voi_lut(made.pixel_array, made) / 4095
    np.testing.assert_allclose(again.pixel_array[3:28, 3:-3] / 65535, expected[3:28, 3:-3], atol=0.02)
    assert Image.open(io.BytesIO(client.fetch(png))).size == (56, 40)
    assert Image.open(io.BytesIO(client.fetch(pair))).size[0] > 300
    texts = Image.open(io.BytesIO(client.fetch(result.files(picture.id)[0]))).info
    assert json.loads(texts["prompt"])[loaded.id]["inputs"]["file"] == "0a1b2c.dcm"
    check_nothing_got_out(server, base)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "cut",
            "file: 'cut.dcm' has pixels that cannot be decoded: it is damaged or truncated; copy it",
        ),
        ("window", "window: 'window 2' is not in the file, which has 1 window; choose automatic, window 1"),
    ],
)
def test_a_refused_file_is_named_by_its_choice_alone(client, graph, server, base, fault, message):
    content = content_of(samples.dataset(samples.grey_values(12), 12, WindowCenter=9, WindowWidth=9))
    choice = client.upload_image(f"{fault}.dcm", content[:-900] if fault == "cut" else content)
    loaded = load(graph, choice, window="window 2" if fault == "window" else "automatic")
    save(graph, loaded[0])
    with pytest.raises(NodeFailed) as caught:
        client.run(graph)
    assert message in str(caught.value)
    check_nothing_got_out(server, base)


def test_a_name_outside_the_input_folder_stops_before_the_run(client, graph):
    save(graph, load(graph, "../../etc/passwd")[0])
    with pytest.raises(Exception, match="leads out of ComfyUI's input folder"):
        client.run(graph)


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(client, graph, base):
    made = samples.dataset(samples.grey_values(12), 12)
    loaded = load(graph, client.upload_image("cached.dcm", content_of(made)))
    graph.add("PreviewImage", images=loaded[0])
    first = client.run(graph)
    assert loaded.id not in first.cached
    assert loaded.id in client.run(graph).cached
    samples.saved(samples.dataset(samples.grey_values(12, seed=2), 12), base / "input" / "cached.dcm")
    assert loaded.id not in client.run(graph).cached

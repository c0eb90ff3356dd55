"""A classifier that the command trained, written where a user keeps classifiers, judges in the node."""

import numpy as np
import pandas as pd
import pytest
import torch

from demo.phantoms.layouts import write_chexpert
from medtraverse.__main__ import main
from medtraverse.data_sets import read, read_pixels


@pytest.fixture
def trained(tmp_path):
    """Folder of a short training on phantoms in CheXpert's layout, in models/classifiers."""
    import folder_paths

    folder = f"{folder_paths.models_dir}/classifiers/trained"
    write_chexpert(tmp_path, 40, size=64)
    options = [
        "--size",
        "64",
        "--epochs",
        "1",
        "--batch",
        "8",
        "--held-out",
        "0.5",
        "--workers",
        "0",
        "--together",
    ]
    command = ["train", "classifier", "--data", str(tmp_path), "--out", folder, "--width", "0.25", *options]
    with torch.inference_mode(False):  # the nodes' own, which is on for the whole session
        assert main(command) == 0
    return folder, read(tmp_path).root


def test_the_node_gives_the_trainers_probabilities(run, trained):
    folder, root = trained
    loaded = run("MedicalClassifierLoader", classifier="trained/trained.safetensors")[0]
    assert loaded.classifier.labels == ("Support Devices", "Pleural Effusion")
    assert loaded.classifier.input_size == 64 and not loaded.classifier.notes
    told = pd.read_csv(f"{folder}/predictions.csv")
    pixels = np.stack([read_pixels(root / file, 64) for file in told["file"]])
    judged = loaded.predict(torch.from_numpy(pixels).float() / 255)
    for column, label in enumerate(loaded.classifier.labels):
        np.testing.assert_allclose(judged[:, column], told[f"{label} probability"], atol=1e-6)

"""The bundled workflows for classifiers of other libraries, on files that those libraries made.

What the node says of an image is what the library's own pipeline says of it.
"""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from launcher.comfyui import PACK
from medtraverse.__main__ import main
from medtraverse.remote.client import GraphRejected, NodeFailed
from workflows.graphs import OWN_FILES

API = PACK / "workflows" / "api"
HUGGING_FACE, TORCHXRAYVISION = OWN_FILES


def hugging_face(folder):
    """A transformers ViT with CheXpert's words in other spellings; its choice, and its own pipeline."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

    torch.manual_seed(3)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
        id2label={0: "Support_Devices", 1: "Effusion", 2: "Edema"},
        problem_type="multi_label_classification",
        initializer_range=0.5,
    )
    ViTForImageClassification(config).save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "vit")
    judge = pipeline("image-classification", model=str(folder / "vit"), top_k=None)

    def own(pictures):
        return [{item["label"]: item["score"] for item in judged} for judged in judge(pictures)]

    return "own/vit", own


def torchxrayvision(folder):
    """A file as torchxrayvision's releases are, converted by the command; its choice and its own pipeline."""
    xrv = pytest.importorskip("torchxrayvision")
    torch.manual_seed(4)
    network = xrv.models.DenseNet(num_classes=18, weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = (
                None  # its statistics are those of the one batch: without any, nothing gets through
            )
    with torch.inference_mode():
        network.features(300 * torch.randn(2, 1, 64, 64))
    network.eval()
    file = folder / "chex-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
    torch.save(network, file, _use_new_zipfile_serialization=False)
    assert main(["convert-torchxrayvision", str(file)]) == 0

    def own(pictures):
        films = [xrv.utils.normalize(np.asarray(picture), 255).mean(2)[None] for picture in pictures]
        crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(224)
        with torch.inference_mode():
            inputs = torch.from_numpy(np.stack([resize(crop(film)) for film in films])).float()
            judged = torch.sigmoid(network.classifier(network.features2(inputs)))
        return [dict(zip(network.targets, row.tolist(), strict=True)) for row in judged]

    return f"own/{file.stem}.safetensors", own


@pytest.mark.parametrize(
    ("name", "made", "targets"),
    [
        (HUGGING_FACE, hugging_face, {"support devices": "Support_Devices", "pleural effusion": "Effusion"}),
        (
            TORCHXRAYVISION,
            torchxrayvision,
            {"pleural effusion": "Effusion", "cardiomegaly": "Cardiomegaly", "edema": "Edema"},
        ),
    ],
    ids=OWN_FILES,
)
def test_it_runs_with_a_classifier_of_that_library_and_says_what_the_library_says(
    bundled, base, name, made, targets
):
    folder = base / "models" / "classifiers" / "own"
    folder.mkdir(parents=True, exist_ok=True)
    choice, own = made(folder)
    graph = bundled.load(API / f"{name}.json", patients=1)
    with pytest.raises((NodeFailed, GraphRejected), match="choose your"):
        bundled.client.run(graph)
    (loader,), (judge,), (score,) = (
        bundled.of(graph, kind)
        for kind in ("MedicalCheckpointLoader", "MedicalClassifierLoader", "CFRTEvaluator")
    )
    graph[loader]["inputs"] |= {
        "checkpoint": "MedTraverse demo (phantoms)",
        "unet": "MedTraverse demo CheXpert (phantoms)",
    }
    graph[judge]["inputs"]["classifier"] = choice
    saved = {"class_type": "SaveImage", "inputs": {"images": graph[score]["inputs"]["images"]}}
    saved["inputs"]["filename_prefix"] = name
    result = bundled.client.run(graph | {"saved": saved}, timeout=120)
    bundled.check(graph, result)
    report = json.loads(result.outputs[score]["medtraverse"][0])
    assert {key: item["target"] for key, item in report["attributes"].items()} == targets
    # The same pictures, of 8 bits as files are, by the node and by the library.
    files = result.files("saved")
    last = None
    for number, file in enumerate(files):
        graph[f"load {number}"] = {
            "class_type": "LoadImage",
            "inputs": {"image": f"{file['filename']} [output]"},
        }
        if number:
            graph[f"batch {number}"] = {
                "class_type": "ImageBatch",
                "inputs": {"image1": last, "image2": [f"load {number}", 0]},
            }
        last = [f"batch {number}" if number else "load 0", 0]
    graph[score]["inputs"]["images"] = last
    again = bundled.client.run(graph, timeout=120)
    assert set(bundled.of(graph, "PromptSwapKSampler")) <= set(again.cached)
    probabilities = json.loads(again.outputs[score]["medtraverse"][0])["mean_probability"]
    pictures = [Image.open(io.BytesIO(bundled.client.fetch(file))).convert("RGB") for file in files]
    wanted = own(pictures)
    rows = iter(range(1, len(wanted)))
    for attribute in targets:
        order = [0, *(next(rows) for _ in range(3))]
        for label, values in probabilities[attribute].items():
            assert values == pytest.approx([wanted[row][label] for row in order], abs=1e-5)
    assert np.ptp([list(row.values()) for row in wanted], axis=0).max() > 1e-3

"""A builder of small graphs, and the bundled workflows; the live server is in the conftest above."""

import io
import json

import numpy as np
import pydicom
import pytest
from PIL import Image

from workflows.graphs import DEMO_CHESTS, DEMO_TRUTHS


class Graph(dict):
    """A graph in API format, built node by node.

    >>> graph = Graph()
    >>> image = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0)
    >>> graph.add("PreviewImage", images=image[0])      # an added node's outputs are its items
    """

    def add(self, class_type, **inputs):
        node = Node(len(self) + 1)
        self[node.id] = {"class_type": class_type, "inputs": inputs}
        return node

    def traversal(self):
        """Add a short traversal of one patient by the demo model; return its loader and its sampler."""
        loaded = self.add(
            "MedicalCheckpointLoader",
            checkpoint="MedTraverse demo (phantoms)",
            unet="from checkpoint",
            domain="CheXpert",
        )
        prompts = self.add(
            "MedicalAttributePrompts",
            clip=loaded[1],
            domain=loaded[3],
            neutral="auto",
            attributes="",
            extra_attributes="",
            neutral_prompt="",
            negative_prompt="",
        )
        return loaded, self.sampler(loaded[0], prompts)

    def sampler(self, model, prompts, **inputs):
        """Add a sampler of few steps, with other inputs where they are given."""
        few = {
            "width": 0,
            "height": 0,
            "seed": 1500,
            "patients": 1,
            "steps": 4,
            "cfg": 7.5,
            "sampler": "ddim",
            "scheduler": "diffusers_ddim",
            "swap_steps": "2,1",
            "noise": "cpu",
            "rows_per_call": 0,
            "cache_mb": -1,
        }
        return self.add(
            "PromptSwapKSampler",
            model=model,
            neutral=prompts[0],
            negative=prompts[1],
            attributes=prompts[2],
            **few | inputs,
        )


class Node:
    """What `Graph.add` returns: `id`, and `node[i]` for output i as a link."""

    def __init__(self, number):
        self.id = str(number)

    def __getitem__(self, output):
        return [self.id, output]


@pytest.fixture
def graph():
    return Graph()


class Bundled:
    """The bundled workflows, shortened, and what their results must show."""

    # 18 steps are enough to tell that everything is wired; the far part needs its swap steps.
    FEWER = {"steps": 18, "swap_steps": "15,10,5", "patients": 2}

    def __init__(self, client):
        self.client = client

    def load(self, path, **inputs):
        """Read a workflow in API format, with fewer steps and patients."""
        graph = json.loads(path.read_text(encoding="utf-8"))
        for key in self.of(graph, "PromptSwapKSampler"):
            graph[key]["inputs"].update(self.FEWER | inputs)
        for key in self.of(graph, "MinimalCounterfactual"):
            graph[key]["inputs"].update(steps=18, swap_steps="15,10,5")
        for key in self.of(graph, "MedicalStudy"):
            # the far part of ten steps is λ = 3, 2, 1
            graph[key]["inputs"].update(steps=10, swap_steps="3,2,1", patients=1, frames=4, kept_frames="3")
            prompts = graph[graph[key]["inputs"]["attributes"][0]]["inputs"]
            if prompts["neutral"] in ("MEL", "NV"):
                prompts["attributes"] = "hair, ink"
        # one of the shipped patients, and its two true counterfactuals
        few = {DEMO_CHESTS: 1, DEMO_TRUTHS: 2}
        for key in self.of(graph, "LoadMedicalImage"):
            shown = graph[key]["inputs"]
            shown["count"] = few.get(shown["file"], shown["count"])
        return graph

    @staticmethod
    def of(graph, class_type):
        """The ids of a class's nodes."""
        return [key for key, node in graph.items() if node["class_type"] == class_type]

    def check(self, graph, result):
        """Every picture shows something, every table has its rows, every video moves."""
        patients = {graph[key]["inputs"]["patients"] for key in self.of(graph, "PromptSwapKSampler")}
        for key in (
            self.of(graph, "SaveTraversalFigure")
            + self.of(graph, "TrajectoryGrid")
            + self.of(graph, "SaveImage")
        ):
            picture = np.asarray(
                Image.open(io.BytesIO(self.client.fetch(result.files(key)[0]))).convert("RGB")
            )
            assert min(picture.shape[:2]) > 200 and picture.std() > 10
            if graph[key]["class_type"] == "SaveTraversalFigure":
                files = {
                    file["filename"].rsplit(".", 1)[1]: self.client.fetch(file).decode()
                    for file in result.files(key, "files")
                }
                assert set(files) == {"svg", "csv"}
                assert "<svg" in files["svg"] and all(
                    "Not for clinical use" in text for text in files.values()
                )
                assert len(files["csv"].splitlines()) > 2
        for key in self.of(graph, "SaveVideo"):
            av = pytest.importorskip("av")
            with av.open(io.BytesIO(self.client.fetch(result.outputs[key]["images"][0]))) as video:
                frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in video.decode(video=0)]
            assert (
                len(frames) == 99
                and np.abs(frames[0] - frames[-1]).mean() < np.abs(frames[0] - frames[49]).mean()
            )
        for key in self.of(graph, "CFRTEvaluator"):
            report = json.loads(result.outputs[key]["medtraverse"][0])
            for item in report["attributes"].values():
                assert {item["patients"]} == patients
                assert item["cfrt"] == item["successes"] / item["patients"]
        for key in self.of(graph, "MedicalStudy"):
            report = json.loads(result.outputs[key]["medtraverse"][0])
            assert report["patients"] == 1 and report["swaps"]["far_points"] == ["1", "2", "3"]
        for key in self.of(graph, "SaveMedicalImage"):
            *dicom, pair = result.files(key, "files")
            assert dicom and pair["filename"].endswith("_pair.png")
            for file in dicom:
                made = pydicom.dcmread(io.BytesIO(self.client.fetch(file)))
                assert made.ImageType[2] == "SYNTHETIC" and made.pixel_array.std() > 1
        for key in self.of(graph, "LatentDirectionCosine"):
            report = json.loads(result.outputs[key]["medtraverse"][0])
            assert len(report["mean"]) == 6 and all(values[0] == 1 for values in report["mean"].values())


@pytest.fixture(scope="session")
def bundled(client):
    return Bundled(client)

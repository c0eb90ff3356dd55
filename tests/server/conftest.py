"""A builder of small graphs; the live server is in the conftest above."""

import pytest


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
        sampled = self.add(
            "PromptSwapKSampler",
            model=loaded[0],
            neutral=prompts[0],
            negative=prompts[1],
            attributes=prompts[2],
            width=0,
            height=0,
            seed=1500,
            patients=1,
            steps=4,
            cfg=7.5,
            sampler="ddim",
            scheduler="diffusers_ddim",
            swap_steps="2,1",
            noise="cpu",
            rows_per_call=0,
            cache_mb=-1,
        )
        return loaded, sampled


class Node:
    """What `Graph.add` returns: `id`, and `node[i]` for output i as a link."""

    def __init__(self, number):
        self.id = str(number)

    def __getitem__(self, output):
        return [self.id, output]


@pytest.fixture
def graph():
    return Graph()

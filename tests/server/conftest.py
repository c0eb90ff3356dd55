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


class Node:
    """What `Graph.add` returns: `id`, and `node[i]` for output i as a link."""

    def __init__(self, number):
        self.id = str(number)

    def __getitem__(self, output):
        return [self.id, output]


@pytest.fixture
def graph():
    return Graph()

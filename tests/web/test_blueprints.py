"""Subgraph blueprints: listed by the server as they are in the pack."""

import json
import urllib.request

from launcher.comfyui import PACK
from workflows.blueprints import BLUEPRINTS


def fetch(url):
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def test_the_server_lists_them_whole(server):
    listed = {
        entry["name"]: fetch(f"{server}/global_subgraphs/{key}")
        for key, entry in fetch(f"{server}/global_subgraphs").items()
        if entry["info"]["node_pack"] == "custom_nodes.MedTraverse"
    }
    assert set(listed) == set(BLUEPRINTS)
    for name, entry in listed.items():
        text = (PACK / "subgraphs" / f"{name}.json").read_bytes()
        assert entry["data"].encode() == text and text.isascii()

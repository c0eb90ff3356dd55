"""Files as the browser saved them in 2023, brought into API format by the frontend and by the library."""

import json
import urllib.request

from medtraverse.remote.api_format import to_api


def node(number, kind, values, links=(), outputs=(), **more):
    inputs = [{"name": name, "type": kind_, "link": link} for name, kind_, link in links]
    outputs = [
        {"name": kind_, "type": kind_, "links": list(joined), "slot_index": slot}
        for slot, (kind_, joined) in enumerate(outputs)
    ]
    place = {
        "pos": [400 * number, 0],
        "size": [300, 200],
        "flags": {},
        "order": number,
    }
    return (
        {"id": number, "type": kind, "mode": 0, "inputs": inputs, "outputs": outputs}
        | place
        | more
        | {
            "properties": more.get("properties", {}),
            "widgets_values": values,
        }
    )


def workflow(control):
    """ComfyUI's default graph of 2023 in small: latent, sampler and file, and a second sampler."""
    nodes = [
        node(1, "EmptyLatentImage", [512, 512, 1], outputs=[("LATENT", [1, 2])]),
        node(
            2,
            "KSampler",
            [156680208700286, control, 20, 8.0, "sample_dpmpp_2m", "karras", 0.00001],
            [("latent_image", "LATENT", 1)],
            [("LATENT", [3])],
        ),
        node(
            3,
            "KSamplerAdvanced",
            ["enable", 7, control, 25, 7.5, "euler", "normal", 0, 10000, "disable"],
            [("latent_image", "LATENT", 2)],
            [("LATENT", [])],
            title="second: one",
        ),
        node(
            4,
            "SaveLatent",
            [
                "%KSampler.seed%-%KSampler.cfg%-%KSampler.denoise%-%second: one.add_noise%"
                "-%first size.width%-%Nobody.seed%-%KSampler.none%-%width%"
            ],
            [("samples", "LATENT", 3)],
        ),
    ]
    nodes[0]["properties"] = {"Node name for S&R": "first size"}
    links = [[1, 1, 0, 2, 0, "LATENT"], [2, 1, 0, 3, 0, "LATENT"], [3, 2, 0, 4, 0, "LATENT"]]
    return {
        "last_node_id": 4,
        "last_link_id": 3,
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def test_seed_controls_and_file_names_are_read_as_the_browser_reads_them(tab, server):
    tab.open()
    with urllib.request.urlopen(f"{server}/object_info") as answer:
        object_info = json.loads(answer.read())
    for control in (True, False):
        saved = workflow(control)
        tab.page.evaluate("saved => app.loadGraphData(saved)", saved)
        browsers = tab.evaluate("app.graphToPrompt().then(prompt => prompt.output)")
        ours = to_api(saved, object_info)
        assert ours == browsers
        assert ours["2"]["inputs"]["sampler_name"] == "dpmpp_2m" and ours["3"]["inputs"]["steps"] == 25
        assert ours["4"]["inputs"]["filename_prefix"] == (
            "156680208700286-8-0.00001-enable-512-%Nobody.seed%-%KSampler.none%-%width%"
        )

"""Workflows as the browser saves them, brought into API format: a graph for each rule, and a round trip."""

import json
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtraverse.remote.api_format import bundled, read_workflow, to_api

INFO = {
    "Load": {"input": {"required": {"name": [["a.ckpt", "b.ckpt"], {}]}}, "display_name": "Load model"},
    "Latent": {
        "input": {"required": {"width": ["INT", {"default": 512}], "height": ["INT", {"default": 512}]}}
    },
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "latent": ["LATENT"],
                "seed": ["INT", {"default": 7}],
                "steps": ["INT", {"default": 20}],
                "sampler": ["COMBO", {"options": ["ddim", "euler"]}],
            },
            "optional": {"strength": ["FLOAT", {"default": 1.0}], "guide": ["IMAGE"]},
        },
        "input_order": {
            "required": ["model", "seed", "steps", "sampler", "latent"],
            "optional": ["strength", "guide"],
        },
    },
    "Either": {"input": {"required": {"source": ["LATENT,IMAGE"]}}},
    "Picture": {
        "input": {
            "required": {"image": [["x.png"], {"image_upload": True}]},
            "optional": {"channel": [["red", "alpha"]]},
        }
    },
    "Text": {"input": {"required": {"text": ["STRING", {"dynamicPrompts": True}]}}},
    "Forced": {"input": {"required": {"a": ["INT", {"forceInput": True}], "b": ["INT", {"default": 0}]}}},
    "Wander": {
        "input": {
            "required": {
                "pick": [["p", "q"], {"control_after_generate": True}],
                "walk": ["INT", {"control_after_generate": True}],
                "last": ["STRING", {}],
            }
        }
    },
    "Dynamic": {
        "input": {
            "required": {
                "mode": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "off", "inputs": {}},
                            {"key": "on", "inputs": {"required": {"gain": ["FLOAT", {}], "mask": ["MASK"]}}},
                        ]
                    },
                ],
                "end": ["INT", {}],
            }
        }
    },
    "Save": {"input": {"required": {"latent": ["LATENT"], "prefix": ["STRING", {"default": "out"}]}}},
}
OUTPUT = {"Load": "MODEL", "Latent": "LATENT", "Sample": "LATENT", "Picture": "IMAGE"}


class Ui:
    """A workflow in the browser's format, node by node; links by input name."""

    def __init__(self):
        self.nodes, self.links = [], []

    def add(self, kind, values=(), links=None, inputs=(), mode=0, outputs=None, **more):
        node = {
            "id": len(self.nodes) + 1,
            "type": kind,
            "mode": mode,
            "widgets_values": values if isinstance(values, dict) else list(values),
            "inputs": [],
            "outputs": [{"type": one, "links": []} for one in (outputs or [OUTPUT.get(kind, "*")])],
            **more,
        }
        self.nodes.append(node)
        for name, origin in (links or {}).items():
            self.link(origin, node, name, dict(inputs).get(name, "LATENT"))
        return node

    def link(self, origin, node, name, kind, widget=False):
        origin, slot = origin if isinstance(origin, tuple) else (origin, 0)
        number = len(self.links) + 100
        self.links.append([number, origin["id"], slot, node["id"], len(node["inputs"]), kind])
        if slot < len(origin["outputs"]):
            origin["outputs"][slot]["links"].append(number)
        node["inputs"].append(
            {"name": name, "type": kind, "link": number, **({"widget": {"name": name}} if widget else {})}
        )

    def file(self, **more):
        return {"version": 0.4, "nodes": self.nodes, "links": self.links, **more}


def inputs(ui, node, **more):
    return to_api(ui.file(**more), INFO)[str(node["id"])]["inputs"]


def test_values_follow_the_schema_past_the_seed_control():
    ui = Ui()
    node = ui.add("Sample", [1500, "randomize", 30, "euler", 0.5])
    assert inputs(ui, node) == {"seed": 1500, "steps": 30, "sampler": "euler", "strength": 0.5}


def test_a_file_without_the_control_value_reads_as_well():
    ui = Ui()
    node = ui.add("Sample", [1500, 30, "euler", 0.5])
    assert inputs(ui, node)["steps"] == 30


@pytest.mark.parametrize("control", [True, False])
def test_a_control_saved_as_a_truth_in_2023_is_no_value(control):
    ui = Ui()
    node = ui.add("Sample", [1500, control, 30, "euler", 0.5])
    assert inputs(ui, node) == {"seed": 1500, "steps": 30, "sampler": "euler", "strength": 0.5}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([7, True, False, 3], [7, False, 3]),  # a control and a switch
        ([7, "fixed", False, 3], [7, False, 3]),
        ([7, False, 3], [7, False, 3]),  # a switch, and no control in the file
    ],
)
def test_a_truth_after_a_seed_is_a_switch_where_the_count_says_so(values, wanted):
    spec = {"seed": ["INT", {}], "tiled": ["BOOLEAN", {}], "size": ["INT", {}]}
    ui = Ui()
    ui.add("Tiles", values)
    assert list(to_api(ui.file(), {"Tiles": {"input": {"required": spec}}})["1"]["inputs"].values()) == wanted


SAVE = {"input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}}}
KSAMPLER = {
    "display_name": "KSampler",
    "input": {
        "required": {
            "seed": ["INT", {"control_after_generate": True}],
            "cfg": ["FLOAT", {"default": 8.0}],
            "sampler_name": [["euler", "dpmpp_2m"], {}],
        }
    },
}


def prefix(text, kind="SaveImage", **more):
    ui = Ui()
    ui.add("KSampler", [5, "fixed", 7.0, "sample_dpmpp_2m"], mode=2, **more)
    ui.add("Sample", [8, "fixed", 30, "euler", 0.00001], title="My: sampler")
    node = ui.add(kind, [text])
    info = INFO | {kind: SAVE, "KSampler": KSAMPLER}
    return to_api(ui.file(), info)[str(node["id"])]["inputs"]["filename_prefix"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a-%KSampler.seed%-b", "a-5-b"),
        ("%KSampler.cfg%", "7"),  # as JavaScript writes it
        ("%KSampler.sampler_name%", "dpmpp_2m"),
        ("%My: sampler.strength%", "0.00001"),
        ("%Sample.sampler%/%Sample.seed%", "euler/8"),
        ("%SaveImage.filename_prefix%", "%SaveImage.filename_prefix%"),  # saving nodes have no such name
        ("%Nobody.seed%", "%Nobody.seed%"),
        ("%KSampler.none%", "%KSampler.none%"),
        ("%width%x%height% 100%", "%width%x%height% 100%"),
        ("%year%-%a.b.c%", "%year%-%a.b.c%"),
    ],
)
def test_a_file_name_takes_values_of_other_nodes_as_in_the_browser(text, wanted):
    assert prefix(text) == wanted


def test_a_file_name_goes_by_the_name_for_replacing_and_stays_in_its_folder():
    named = {"properties": {"Node name for S&R": "first"}, "title": "a/b"}
    assert prefix("%first.seed% %KSampler.seed% %a/b.seed%", **named) == "5 %KSampler.seed% 5"
    ui = Ui()
    ui.add("Sample", [8, "fixed", 30, "../a\\b:c", 1])
    ui.add("SaveImage", ["%Sample.sampler%"])
    graph = to_api(ui.file(), INFO | {"SaveImage": SAVE})
    assert graph["2"]["inputs"]["filename_prefix"] == ".._a_b_c"


def test_other_nodes_keep_the_text():
    assert prefix("%KSampler.seed%", "SaveTraversalFigure") == "%KSampler.seed%"


def test_a_file_name_takes_the_date():
    before = datetime.now()
    text = prefix("%date:yyyy-MM-dd%")
    assert text in {f"{moment:%Y-%m-%d}" for moment in (before, datetime.now())}
    assert re.fullmatch(r"\d\d [1-9]\d? [0-2]\d", prefix("%date:yy M hh%"))


def test_controls_of_choices_and_of_named_numbers_are_no_values():
    ui = Ui()
    node = ui.add("Wander", ["q", "increment-wrap", "", 4, "fixed", "end"])
    assert inputs(ui, node) == {"pick": "q", "walk": 4, "last": "end"}


def test_values_that_the_file_lacks_are_defaults():
    ui = Ui()
    node = ui.add("Sample", [3, "fixed"])
    assert inputs(ui, node) == {"seed": 3, "steps": 20, "sampler": "ddim", "strength": 1.0}


def test_the_upload_button_is_no_value():
    ui = Ui()
    node = ui.add("Picture", ["mine.png", "alpha", "image"])
    assert inputs(ui, node) == {"image": "mine.png", "channel": "alpha"}


def test_dummies_of_forced_inputs_in_old_files_are_dropped():
    ui = Ui()
    old, new = ui.add("Forced", [0, 9]), ui.add("Forced", [9])
    assert inputs(ui, old) == inputs(ui, new) == {"b": 9}


def test_a_value_turned_into_an_input_keeps_its_place_in_the_values():
    ui = Ui()
    width = ui.add("Latent", [8, 8], outputs=["INT"])
    node = ui.add("Latent", [640, 320])
    ui.link(width, node, "height", "INT", widget=True)
    assert inputs(ui, node) == {"width": 640, "height": ["1", 0]}


def test_an_unknown_type_that_the_file_marks_as_value_is_one():
    info = {"Odd": {"input": {"required": {"a": ["PACKTYPE"], "b": ["PACKTYPE"]}}}}
    ui = Ui()
    ui.add("Odd", ["x"], outputs=[])["inputs"].append(
        {"name": "b", "type": "PACKTYPE", "link": None, "widget": {"name": "b"}}
    )
    assert to_api(ui.file(), info)["1"]["inputs"] == {"b": "x"}


def test_values_saved_by_name():
    ui = Ui()
    node = ui.add(
        "Sample",
        {"steps": 12, "seed": 5, "pix_fmt": "yuv420p", "videopreview": {"hidden": False}, "model": None},
    )
    assert inputs(ui, node) == {
        "seed": 5,
        "steps": 12,
        "sampler": "ddim",
        "strength": 1.0,
        "pix_fmt": "yuv420p",
    }


def test_a_list_value_is_not_taken_for_a_link():
    ui = Ui()
    node = ui.add("Save", [["1", 0]])
    assert inputs(ui, node) == {"prefix": {"__value__": ["1", 0]}}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (["on", 0.5, 3], {"mode": "on", "mode.gain": 0.5, "end": 3}),
        (["off", 3], {"mode": "off", "end": 3}),
    ],
)
def test_a_dynamic_choice_brings_its_own_values(chosen, expected):
    ui = Ui()
    node = ui.add("Dynamic", chosen)
    assert inputs(ui, node) == expected


def test_muted_nodes_are_gone_with_their_links_and_notes_too():
    ui = Ui()
    muted = ui.add("Latent", [8, 8], mode=2)
    ui.add("Save", ["x"], {"latent": muted})
    ui.add("Note", ["remember"])
    ui.add("MarkdownNote", ["# remember"])
    ui.add("Fast Groups Muter (pack)")
    graph = to_api(ui.file(), INFO)
    assert graph == {"2": {"class_type": "Save", "inputs": {"prefix": "x"}, "_meta": {"title": "Save"}}}


def test_a_bypassed_node_hands_on_the_input_of_the_same_type():
    ui = Ui()
    model, latent = ui.add("Load", ["a.ckpt"]), ui.add("Latent", [8, 8])
    bypassed = ui.add(
        "Sample", [1, "fixed", 2, "ddim"], {"model": model, "latent": latent}, {"model": "MODEL"}, mode=4
    )
    node = ui.add("Save", ["x"], {"latent": bypassed})
    assert inputs(ui, node)["latent"] == ["2", 0]


def test_a_bypassed_node_without_such_an_input_feeds_nothing():
    ui = Ui()
    bypassed = ui.add(
        "Sample", [1, "fixed"], {"model": ui.add("Load", ["a.ckpt"])}, {"model": "MODEL"}, mode=4
    )
    node = ui.add("Save", ["x"], {"latent": bypassed})
    assert inputs(ui, node) == {"prefix": "x"}


@pytest.mark.parametrize(("kind", "found"), [("LATENT,IMAGE", "2"), ("IMAGE,LATENT", "2"), ("IMAGE", None)])
def test_types_with_alternatives_match_any_of_them(kind, found):
    ui = Ui()
    mask, latent = ui.add("Load", ["a.ckpt"]), ui.add("Latent", [8, 8])
    bypassed = ui.add("Sample", [], {"model": mask, "latent": latent}, {"model": "MODEL"}, mode=4)
    node = ui.add("Either", [], {"source": bypassed}, {"source": kind})
    assert inputs(ui, node) == ({"source": [found, 0]} if found else {})


def test_reroutes_and_set_and_get_nodes_lead_to_the_source():
    ui = Ui()
    latent = ui.add("Latent", [8, 8])
    ui.add("SetNode", ["base"], {"": ui.add("Reroute", [], {"": latent})})
    node = ui.add("Save", ["x"], {"latent": ui.add("Reroute", [], {"": ui.add("GetNode", ["base"])})})
    assert inputs(ui, node)["latent"] == ["1", 0]


def test_a_muted_reroute_still_leads_on_as_in_the_browser():
    ui = Ui()
    node = ui.add("Save", ["x"], {"latent": ui.add("Reroute", [], {"": ui.add("Latent", [8, 8])}, mode=2)})
    assert inputs(ui, node)["latent"] == ["1", 0]


def test_a_primitive_gives_its_value():
    ui = Ui()
    primitive = ui.add("PrimitiveNode", [77, "increment"])
    node = ui.add("Latent", [1, 2])
    ui.link(ui.add("Reroute", [], {"": primitive}), node, "width", "INT", widget=True)
    assert inputs(ui, node) == {"width": 77, "height": 2}
    assert list(to_api(ui.file(), INFO)) == [str(node["id"])]


def subgraph(mode=0, values=(77,), properties=None, link=False):
    """A file whose node 9 holds a Latent and a Save.

    Its inputs are the Latent's width and a reroute's source.
    """
    definition = {
        "id": "s-1",
        "name": "Sub",
        "inputs": [{"name": "size", "type": "INT", "linkIds": [1]}],
        "outputs": [{"name": "latent", "type": "LATENT", "linkIds": [2]}],
        "nodes": [
            {
                "id": 3,
                "type": "Latent",
                "widgets_values": [8, 16],
                "outputs": [{"type": "LATENT"}],
                "inputs": [{"name": "width", "type": "INT", "link": 1, "widget": {"name": "width"}}],
            },
            {
                "id": 4,
                "type": "Save",
                "widgets_values": ["in"],
                "inputs": [{"name": "latent", "type": "LATENT", "link": 3}],
                "outputs": [],
            },
        ],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 3, "target_slot": 0, "type": "INT"},
            {"id": 2, "origin_id": 3, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "LATENT"},
            {"id": 3, "origin_id": 3, "origin_slot": 0, "target_id": 4, "target_slot": 0, "type": "LATENT"},
        ],
    }
    outside = {
        "id": 9,
        "type": "s-1",
        "mode": mode,
        "widgets_values": list(values),
        "properties": properties or {},
        "inputs": [{"name": "size", "type": "INT", "widget": {"name": "size"}, "link": 50 if link else None}],
        "outputs": [{"type": "LATENT", "links": [51]}],
    }
    save = {
        "id": 10,
        "type": "Save",
        "widgets_values": ["outer"],
        "inputs": [{"name": "latent", "type": "LATENT", "link": 51}],
    }
    size = {"id": 11, "type": "Latent", "widgets_values": [1, 1], "outputs": [{"type": "INT", "links": [50]}]}
    return {
        "version": 1,
        "nodes": [outside, save, size],
        "definitions": {"subgraphs": [definition]},
        "links": [
            {"id": 50, "origin_id": 11, "origin_slot": 0, "target_id": 9, "target_slot": 0, "type": "INT"},
            {"id": 51, "origin_id": 9, "origin_slot": 0, "target_id": 10, "target_slot": 0, "type": "LATENT"},
        ],
    }


def test_a_subgraph_is_expanded_and_takes_the_value_set_on_it():
    graph = to_api(subgraph(), INFO)
    assert graph["9:3"]["inputs"] == {"width": 77, "height": 16}
    assert graph["9:4"]["inputs"]["latent"] == graph["10"]["inputs"]["latent"] == ["9:3", 0]
    assert set(graph) == {"9:3", "9:4", "10", "11"}


def test_a_link_into_a_subgraph_goes_before_its_value():
    assert to_api(subgraph(link=True), INFO)["9:3"]["inputs"]["width"] == ["11", 0]


def test_values_shown_on_a_subgraph_go_by_its_list_of_them():
    shown = {"proxyWidgets": [["3", "height"], ["-1", "size"]]}
    assert to_api(subgraph(values=[None, 5], properties=shown), INFO)["9:3"]["inputs"] == {
        "width": 5,
        "height": 16,
    }


def test_a_subgraph_without_a_value_of_its_own_keeps_the_inner_one():
    assert to_api(subgraph(values=[]), INFO)["9:3"]["inputs"] == {"width": 8, "height": 16}


@pytest.mark.parametrize("mode", [2, 4])
def test_a_muted_or_bypassed_subgraph_is_not_entered(mode):
    assert set(to_api(subgraph(mode=mode), INFO)) == {"10", "11"}


def test_a_subgraph_within_itself_is_refused():
    file = subgraph()
    file["definitions"]["subgraphs"][0]["nodes"].append({"id": 5, "type": "s-1"})
    with pytest.raises(ValueError, match="contains itself"):
        to_api(file, INFO)


def test_missing_nodes_are_all_named_with_their_packs():
    ui = Ui()
    ui.add("Save", ["x"], {"latent": ui.add("FancyLatent", properties={"cnr_id": "fancy-pack"})})
    ui.add("Odd", [], {"latent": ui.nodes[0]})
    ui.add("Gone", [], {"latent": ui.nodes[0]}, mode=2)
    with pytest.raises(
        ValueError, match=r"lacks nodes: FancyLatent \(node 1, pack fancy-pack\), Odd \(node 3\)\. Install"
    ) as caught:
        to_api(ui.file(), INFO)
    assert "Gone" not in str(caught.value)


def test_links_in_a_circle_are_refused():
    ui = Ui()
    first = ui.add("Reroute")
    second = ui.add("Reroute", [], {"": first})
    ui.link(second, first, "", "*")
    ui.add("Save", ["x"], {"latent": second})
    with pytest.raises(ValueError, match="in a circle"):
        to_api(ui.file(), INFO)


def test_group_nodes_are_refused_with_the_remedy():
    ui = Ui()
    ui.add("workflow>mine", [], {"latent": ui.add("Latent", [8, 8])})
    with pytest.raises(ValueError, match="convert it to a subgraph"):
        to_api(ui.file(), INFO)


def test_a_prompt_loses_comments_and_a_random_choice_is_refused():
    ui = Ui()
    node = ui.add("Text", ["a chest /* not hand */ X-ray \\{PA\\} // note"])
    assert inputs(ui, node) == {"text": "a chest  X-ray {PA} "}
    ui.add("Text", ["a {small|large} effusion"])
    with pytest.raises(ValueError, match="text of node 2 has a choice in braces"):
        to_api(ui.file(), INFO)


def test_titles_are_the_nodes_own_or_the_display_name():
    ui = Ui()
    ui.add("Load", ["a.ckpt"])
    ui.add("Load", ["a.ckpt"], title="Mine")
    assert [node["_meta"]["title"] for node in to_api(ui.file(), INFO).values()] == ["Load model", "Mine"]


@st.composite
def graphs(draw):
    """A graph in API format of Latent, Sample and Save nodes, every value given."""
    graph, latents = {}, []
    for key in map(str, range(1, draw(st.integers(2, 7)))):
        kind = draw(st.sampled_from(["Latent", "Sample", "Save"] if latents else ["Latent"]))
        whole = st.integers(0, 2**64 - 1)
        if kind == "Latent":
            values = {"width": draw(whole), "height": draw(whole)}
        elif kind == "Save":
            values = {"prefix": draw(st.text(max_size=5))}
        else:
            values = {
                "seed": draw(whole),
                "steps": draw(whole),
                "sampler": draw(st.sampled_from(["ddim", "euler"])),
                "strength": draw(st.floats(0, 1)),
            }
        if kind != "Latent":
            values["latent"] = [draw(st.sampled_from(latents)), 0]
        if kind != "Save":
            latents.append(key)
        graph[key] = {
            "class_type": kind,
            "inputs": values,
            "_meta": {"title": draw(st.sampled_from(["one", "two"]))},
        }
    return graph


@given(graphs(), st.data())
def test_a_graph_comes_back_from_the_browsers_format(graph, data):
    """Saved in either version, with reroutes, bypassed nodes and primitives thrown in.

    Part of the values is left to a primitive.
    """
    order = {
        "Latent": ["width", "height"],
        "Sample": ["seed", "steps", "sampler", "strength"],
        "Save": ["prefix"],
    }
    nodes, links, extra = [], [], iter(range(1000, 2000))

    def link(origin, target, name, kind, widget=False):
        links.append([next(extra), origin, 0, target["id"], len(target["inputs"]), kind])
        target["inputs"].append(
            {
                "name": name,
                "type": kind,
                "link": links[-1][0],
                **({"widget": {"name": name}} if widget else {}),
            }
        )

    def between(origin):
        for kind in data.draw(st.lists(st.sampled_from(["Reroute", "Sample"]), max_size=2)):
            node = {
                "id": next(extra),
                "type": kind,
                "mode": 4 if kind == "Sample" else 0,
                "inputs": [],
                "outputs": [{"type": "LATENT" if kind == "Sample" else "*"}],
                "widgets_values": [],
            }
            link(origin, node, "latent", "LATENT" if kind == "Sample" else "*")
            nodes.append(node)
            origin = node["id"]
        return origin

    for key, node in graph.items():
        kind, values = node["class_type"], dict(node["inputs"])
        saved = {
            "id": int(key),
            "type": kind,
            "title": node["_meta"]["title"],
            "inputs": [],
            "outputs": [{"type": "LATENT"}],
            "widgets_values": [],
        }
        nodes.append(saved)
        if "latent" in values:
            link(between(int(values["latent"][0])), saved, "latent", "LATENT")
        for name in order[kind]:
            shown = values[name]
            if data.draw(st.booleans()):
                primitive = {
                    "id": next(extra),
                    "type": "PrimitiveNode",
                    "inputs": [],
                    "outputs": [{"type": "*"}],
                    "widgets_values": [shown, "fixed"],
                }
                nodes.append(primitive)
                link(primitive["id"], saved, name, "INT", widget=True)
                shown = 0
            saved["widgets_values"] += [shown] + ["fixed"] * (name == "seed")
    version = data.draw(st.sampled_from([0.4, 1]))
    if version == 1:
        links = [
            dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), one))
            for one in links
        ]
    assert (
        to_api({"version": version, "nodes": data.draw(st.permutations(nodes)), "links": links}, INFO)
        == graph
    )


def test_the_api_format_stays_as_it_is_and_may_be_wrapped(tmp_path):
    graph = {"1": {"class_type": "Latent", "inputs": {"width": 3}}}
    assert to_api(graph, INFO) is graph
    path = tmp_path / "wrapped.json"
    path.write_text(json.dumps({"prompt": graph, "client_id": "x"}))
    assert read_workflow(path) == graph


def test_bundled_workflows_go_by_their_bare_names():
    assert bundled()
    for name in bundled():
        assert read_workflow(name)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "is no JSON"),
        ("[1]", "no ComfyUI workflow"),
        ("{}", "no ComfyUI workflow"),
        (None, "there is no file"),
    ],
)
def test_what_is_no_workflow_is_refused(tmp_path, content, fault):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=f"workflow: .*{fault}"):
        read_workflow(path)


def test_a_misspelt_bundled_name_gets_the_right_one():
    name = sorted(bundled())[0]
    with pytest.raises(ValueError, match=f"did you mean {name}"):
        read_workflow(name[:-1])

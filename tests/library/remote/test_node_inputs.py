"""NODE.INPUT=VALUE: which node, which input, which value."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtraverse.remote.node_inputs import set_value

INFO = {
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"min": 0, "max": 100}],
                "cfg": ["FLOAT", {"min": 0.0, "max": 10.0}],
                "sampler": [["ddim", "euler", "heun"], {}],
                "tiled": ["BOOLEAN", {}],
                "text": ["STRING", {}],
            },
            "optional": {
                "either": ["INT,FLOAT"],
                "several": ["COMBO", {"options": ["a", "b"], "multi_select": True}],
                "size": ["COMBO", {"options": [1, 2]}],
            },
        }
    },
    "Picture": {"input": {"required": {"image": [["x.png"], {"image_upload": True}]}}},
    "Dynamic": {
        "input": {
            "required": {
                "mode": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "off", "inputs": {}},
                            {"key": "on", "inputs": {"required": {"gain": ["FLOAT", {}]}}},
                        ]
                    },
                ]
            }
        }
    },
}
GRAPH = {
    "1": {
        "class_type": "Sample",
        "inputs": {"model": ["9", 0], "seed": ["9", 1], "text": "old"},
        "_meta": {"title": "Swap, v1.5"},
    },
    "2": {"class_type": "Picture", "inputs": {"image": "x.png"}, "_meta": {"title": "twin"}},
    "3": {"class_type": "Dynamic", "inputs": {"mode": "on", "mode.gain": 1.0}, "_meta": {"title": "twin"}},
    "4:7": {"class_type": "Picture", "inputs": {"image": "x.png"}},
}


@pytest.mark.parametrize(
    ("assignment", "key", "name", "value"),
    [
        ("1.seed=42", "1", "seed", 42),
        ("Sample.seed=42", "1", "seed", 42),
        ("Swap, v1.5.seed=42", "1", "seed", 42),
        ("swap, V1.5.seed=42", "1", "seed", 42),
        ("4:7.image=any/where.png", "4:7", "image", "any/where.png"),
        ("1.cfg=7", "1", "cfg", 7.0),
        ("1.sampler=heun", "1", "sampler", "heun"),
        ("1.tiled=Yes", "1", "tiled", True),
        ("1.tiled=false", "1", "tiled", False),
        ("1.text= a = b.c ", "1", "text", " a = b.c "),
        ("1.text=", "1", "text", ""),
        ("1.either=3", "1", "either", 3),
        ("1.either=3.5", "1", "either", 3.5),
        ("1.several=b, a", "1", "several", {"__value__": ["b", "a"]}),
        ("1.size=2", "1", "size", 2),
        ("3.mode=off", "3", "mode", "off"),
        ("3.mode.gain=0.25", "3", "mode.gain", 0.25),
    ],
)
def test_the_value_goes_where_it_says_and_nowhere_else(assignment, key, name, value):
    before = copy.deepcopy(GRAPH)
    after = set_value(GRAPH, assignment, INFO)
    assert before == GRAPH
    expected = copy.deepcopy(GRAPH)
    expected[key]["inputs"][name] = value
    assert after == expected and type(after[key]["inputs"][name]) is type(value)


@pytest.mark.parametrize(
    ("assignment", "fault"),
    [
        ("seed", "is not NODE.INPUT=VALUE"),
        ("1.seed", "is not NODE.INPUT=VALUE"),
        ("seed=3", "is not NODE.INPUT=VALUE"),
        ("Sampel.seed=3", "there is no node 'Sampel'; did you mean Sample"),
        ("twin.image=3", "'twin' is 2 nodes; .*twin \\(Picture, node 2\\); twin \\(Dynamic, node 3\\)"),
        ("Picture.image=3", "'Picture' is 2 nodes"),
        ("1.sed=3", "no input 'sed'; did you mean seed"),
        ("3.mode.gian=3", "no input 'mode.gian'; did you mean mode.gain"),
        ("1.model=3", "takes the output of another node \\(MODEL\\)"),
        ("1.seed=many", "seed of Swap, v1.5 \\(Sample, node 1\\) is 'many'; give a whole number"),
        ("1.seed=1.5", "give a whole number"),
        ("1.seed=101", "must be from 0 to 100"),
        ("1.cfg=nan", "give a number"),
        ("1.cfg=-0.1", "must be from 0.0 to 10.0"),
        ("1.sampler=eular", "did you mean euler\\? it can be ddim, euler, heun"),
        ("1.tiled=maybe", "give true or false"),
        ("1.several=a,c", "it can be a, b"),
        ("3.mode=half", "it can be off, on"),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(assignment, fault):
    with pytest.raises(ValueError, match=f"^--set: .*{fault}"):
        set_value(GRAPH, assignment, INFO)


@given(st.integers(0, 100), st.floats(0, 10), st.text())
def test_every_value_in_range_is_taken_as_written(seed, cfg, text):
    graph = GRAPH
    for assignment in (f"1.seed={seed}", f"1.cfg={cfg!r}", f"1.text={text}"):
        graph = set_value(graph, assignment, INFO)
    assert {name: graph["1"]["inputs"][name] for name in ("seed", "cfg", "text")} == {
        "seed": seed,
        "cfg": cfg,
        "text": text,
    }

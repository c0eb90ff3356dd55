"""Translations against the schemas that they translate, both read as text: no ComfyUI is needed."""

import json
import re

import pytest

from tests.library.schema_texts import ROOT, schemas

LANGUAGES = ("en", "fr", "zh")
NODES = {
    language: json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for language in LANGUAGES
}
WIDGETS = {
    language: json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))[
        "medtraverse"
    ]
    for language in ("fr", "zh")
}


SCHEMAS = schemas()
GROUPS = ("inputs", "outputs")


def texts(node):
    """Every text of a node by where it stands."""
    yield from (((key,), node[key]) for key in ("display_name", "description"))
    for group in GROUPS:
        for name, slot in node[group].items():
            yield from (((group, name, key), slot[key]) for key in ("name", "tooltip"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_and_slot_is_there_and_no_other(language):
    assert len(SCHEMAS) >= 15
    assert {
        node: {group: list(slots[group]) for group in GROUPS} for node, slots in NODES[language].items()
    } == {node: {group: list(slots[group]) for group in GROUPS} for node, slots in SCHEMAS.items()}


def test_english_is_what_the_schemas_say():
    for node, schema in SCHEMAS.items():
        assert {key: NODES["en"][node][key] for key in ("display_name", "description")} == {
            key: schema[key] for key in ("display_name", "description")
        }
        for group in GROUPS:
            assert {
                name: (slot["name"], slot["tooltip"]) for name, slot in NODES["en"][node][group].items()
            } == schema[group]


def numbers(text):
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))


@pytest.mark.parametrize("language", LANGUAGES[1:])
@pytest.mark.parametrize("node", sorted(SCHEMAS))
def test_a_translation_is_one_with_the_same_numbers_and_quoted_values(node, language):
    english = dict(texts(NODES["en"][node]))
    for place, text in texts(NODES[language][node]):
        said = english[place]
        assert text.strip() and not re.search(r"[@{}|]", text), place  # the frontend's own syntax
        assert text != said or len(said.split()) <= 3, place
        assert numbers(text) == numbers(said), place
        assert re.findall(r"'(\w+)'", text) == re.findall(r"'(\w+)'", said), place


def test_the_widgets_words_are_those_that_they_ask_for():
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "web").rglob("*.js"))
    assert WIDGETS["fr"].keys() == WIDGETS["zh"].keys()
    for text in WIDGETS["fr"]:
        assert repr(text) in scripts or f"'{text}'" in scripts, text
    for asked in re.findall(r"\b(?:t|translate)\('([^']+)'", scripts):
        assert asked in WIDGETS["fr"], asked

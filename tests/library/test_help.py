"""Help pages against the code that they describe, both read as text: no ComfyUI is needed."""

import ast
import json
import re

import pytest

from medtraverse.domain import read_domain
from medtraverse.notice import NOTICE
from tests.library.schema_texts import FLOOR, ROOT, schemas

PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "web" / "docs").glob("*.md")}


# The names that each input or output is shown by, in their order.
SCHEMAS = {
    node: {
        heading: [shown for shown, _ in schema[heading.lower()].values()] for heading in ("Inputs", "Outputs")
    }
    for node, schema in schemas().items()
}


def raised_texts():
    """Return the text of every ``raise`` in the pack, its values left out."""
    library = [
        ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "medtraverse").rglob("*.py"))
    ]
    return [
        "\0".join(
            part.value
            for part in ast.walk(node)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        )
        for tree in (*FLOOR.values(), *library)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
    ]


RAISED = raised_texts()


def first_cells(page, heading):
    """Return what stands in backticks in the first cell of each row of the table under a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGES[page], re.M | re.S)
    assert section, f"{page}.md has no section {heading!r}"
    return re.findall(r"^\| `(.+?)` \|", section[1], re.M)


def test_every_node_has_a_page_and_every_page_a_node():
    assert len(SCHEMAS) >= 13
    assert PAGES.keys() == SCHEMAS.keys()


@pytest.mark.parametrize("heading", ["Inputs", "Outputs"])
@pytest.mark.parametrize("page", sorted(SCHEMAS))
def test_a_page_lists_the_slots_of_its_node_in_their_order(page, heading):
    assert first_cells(page, heading) == SCHEMAS[page][heading]


@pytest.mark.parametrize("page", sorted(SCHEMAS))
def test_quoted_messages_are_those_that_the_code_raises(page):
    """The ellipses of a quoted message stand for values; what is between them stands in one
    ``raise``, in that order.
    """
    messages = first_cells(page, "Common errors")
    assert messages
    for message in messages:
        pattern = re.compile(".*".join(map(re.escape, message.split("…"))), re.S)
        assert any(map(pattern.search, RAISED)), message


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_page_is_plain_markdown_with_a_picture_at_most_and_the_notice_at_its_end(page):
    text = PAGES[page]
    assert text.endswith(f"\n\n{NOTICE}\n")
    assert not re.search(r"</?[A-Za-z]", text)
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", text)
    assert bool(pictures) == (ROOT / "web" / "docs" / "images" / f"{page}.jpg").exists()
    for words, picture in pictures:
        assert picture == f"images/{page}.jpg" and len(words.split()) >= 4
        content = (ROOT / "web" / "docs" / picture).read_bytes()
        assert content[:2] == b"\xff\xd8" and NOTICE.encode() in content and len(content) < 150_000
    assert 25 <= len(text.splitlines()) <= 72


def test_the_domain_on_the_loaders_page_is_read(tmp_path):
    example = re.search(r"```json\n(.*?)```", PAGES["MedicalCheckpointLoader"], re.S)[1]
    path = tmp_path / "knee.json"
    path.write_text(example, encoding="utf-8")
    domain = read_domain(path)
    assert domain.name == json.loads(example)["name"]
    assert domain.prompt(domain.attributes[0]) == "Normal knee X-ray with an implant"

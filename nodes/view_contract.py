"""What a view's JSON file holds: nodes/views.py writes it and web/ reads it.

``python nodes/view_contract.py`` writes this contract again as a JSON schema (web/types/views.schema.json)
and as the page's types (web/types/views.d.ts); a test holds both to this file. Whoever changes what a field
means raises FORMAT, here and in web/parts/server.js: a page that does not know a file's format says so and
draws nothing.
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal

# pydantic reads typing's own TypedDict only from Python 3.12 on; torch brings typing_extensions everywhere.
from typing_extensions import NotRequired, TypedDict

FORMAT = 1


class Written(TypedDict):
    """Names the JSON file of a view. Not by ``filename``: App mode would show such a file as a result."""

    view: str
    subfolder: str
    type: Literal["temp"]


class Unwritten(TypedDict):
    """Stands for a view whose files could not be written."""

    unwritten: str
    """the reason, as the operating system gives it"""


class Shown(TypedDict):
    """What a node with a view puts into its ``ui``."""

    medtraverse_view: list[Written | Unwritten]


class Pictures(TypedDict):
    """Where the image of a row lies: in the file ``prefix + row + suffix``."""

    subfolder: str
    type: Literal["temp"]
    prefix: str
    suffix: str


class Sheets(TypedDict):
    """Where thumbnails lie: row by row on the contact sheets ``prefix + number + suffix``."""

    subfolder: str
    type: Literal["temp"]
    prefix: str
    suffix: str
    columns: int
    """cells across"""
    rows: int
    """cells down"""
    side: int
    """pixels of a cell"""


class Attribute(TypedDict):
    """An attribute of a trajectory."""

    name: str
    colour: str
    """``#RRGGBB``"""
    labels: list[str]
    """the classifier's labels that it should raise"""


class View(TypedDict):
    """What every view says of its trajectory."""

    format: Literal[1]
    notice: str
    """that the images are synthetic and not for clinical use"""
    key: str
    """the same for all views of one traversal"""
    kind: Literal["swap", "curve"]
    neutral: str
    """the neutral prompt's name"""
    seeds: list[int | str]
    """of each patient shown; as text where a browser's numbers would round it"""
    attributes: list[Attribute]
    points: list[str]
    """the neutral point first, then swap steps or frames"""
    index: list[list[list[int]]]
    """the row of each patient, attribute and point"""


class TrajectoryFile(View):
    """The trajectory viewer's file."""

    view: Literal["trajectory"]
    size: list[int]
    """width and height of an image, in pixels"""
    images: Pictures
    approximate: bool
    """whether the images are rough colours of latents"""
    left_out: int
    """patients that are not shown"""
    decoder: NotRequired[str]
    """where the server decodes an image when asked: followed by the row, an address"""


class MapFile(View):
    """The latent map's file."""

    view: Literal["map"]
    x: list[float]
    """of each row"""
    y: list[float]
    """of each row"""
    perplexity: float
    seed: int
    sheets: Sheets | None


class FlipRate(TypedDict):
    """In how many patients an attribute's probability passes a threshold, and where first."""

    rate: float | None
    """flipped / could_flip; null where nobody could flip"""
    interval: list[float] | None
    """95 %"""
    flipped: int
    could_flip: int
    """patients whose neutral image does not pass"""
    already_above: int
    """patients whose neutral image passes"""
    patients: int
    threshold: float
    median_first_point: str | None
    """the point by which half of those who flip have flipped"""
    patients_by_first_point: dict[str, int]


class Result(TypedDict):
    """CFRT of one attribute."""

    attribute: str
    target: int
    """index of its label"""
    cfrt: float
    low: float
    """of the 95 % interval"""
    high: float
    """of the 95 % interval"""
    successes: int
    patients: int
    published: float | None
    """the paper's CFRT"""
    success: list[bool]
    """of each patient"""
    leaked: list[int]
    """of each patient the index of the label that rose most, -1 for a success"""
    deltas: list[list[float]]
    """of each patient the mean change of every label, -1 to 1"""
    flip_rate: NotRequired[FlipRate]


class CFRTFile(View):
    """The CFRT Evaluator's file."""

    view: Literal["cfrt"]
    labels: list[str]
    """the classifier's labels"""
    probabilities: list[list[float]]
    """of each row and label"""
    far: list[str]
    """points of the trajectory's far part"""
    results: list[Result]


class Pair(TypedDict):
    """An image and its counterfactual."""

    title: str
    before: int
    """the image's row"""
    after: int
    """the row of its counterfactual"""
    truth: NotRequired[int]
    """the row of the true counterfactual, where it is known"""
    facts: list[str]
    """lines that are said of the pair"""


class CompareFile(TypedDict):
    """The compare viewer's file."""

    format: Literal[1]
    notice: str
    """that the images are synthetic and not for clinical use"""
    view: Literal["compare"]
    size: list[int]
    """width and height of an image, in pixels"""
    images: Pictures
    deep: bool
    """whether an image is grey and of 16 bits: the upper eight as red, the lower eight as green"""
    pairs: list[Pair]
    left_out: int
    """pairs that are not shown"""


ViewFile = TrajectoryFile | MapFile | CFRTFile | CompareFile


def adapter() -> tuple[Any, Any]:
    """Return pydantic's strict validators of a view's file and of ``ui``; other fields are refused."""
    from pydantic import TypeAdapter

    for name, kind in globals().copy().items():
        if name != "TypedDict" and isinstance(kind, type) and issubclass(kind, dict):
            config = {"extra": "forbid", "strict": True, "use_attribute_docstrings": True}
            setattr(kind, "__pydantic_config__", config)  # noqa: B010 — mypy knows no such attribute
    return TypeAdapter(ViewFile), TypeAdapter(Shown)


def schema() -> dict[str, Any]:
    """Return the JSON schema of a view's file, with that of a node's ``ui`` beside it."""
    file, shown = adapter()
    made = file.json_schema()
    shown_schema = shown.json_schema()
    made["$defs"].update(shown_schema.pop("$defs"), Shown=shown_schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ViewFile", **made}


def typescript(schema: dict[str, Any]) -> str:
    """Return the types of a schema's definitions as a TypeScript declaration file."""
    lines = ["// Made from nodes/view_contract.py by `python nodes/view_contract.py`; not to be edited."]
    for name, made in sorted(schema["$defs"].items()):
        lines += ["", f"/** {made['description']} */", f"export interface {name} {{"]
        for field, kind in made["properties"].items():
            if "description" in kind:
                lines.append(f"  /** {kind['description']} */")
            optional = "" if field in made["required"] else "?"
            lines.append(f"  {field}{optional}: {_type(kind)}")
        lines.append("}")
    return "\n".join([*lines, "", f"export type ViewFile = {_type(schema)}", ""])


def _type(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        return str(kind["$ref"]).rsplit("/", 1)[1]
    if "const" in kind or "enum" in kind:
        return " | ".join(json.dumps(value) for value in kind.get("enum", [kind.get("const")]))
    if "anyOf" in kind:
        return " | ".join(map(_type, kind["anyOf"]))
    if kind["type"] == "array":
        items = _type(kind["items"])
        return f"({items})[]" if " | " in items else f"{items}[]"
    if isinstance(values := kind.get("additionalProperties"), dict):
        return f"Record<string, {_type(values)}>"
    return "number" if kind["type"] == "integer" else str(kind["type"])


def files() -> dict[Path, str]:
    """Return the text of each file that is made from the contract, by its path."""
    made, folder = schema(), Path(__file__).resolve().parents[1] / "web" / "types"
    return {
        folder / "views.schema.json": json.dumps(made, indent=2, ensure_ascii=False) + "\n",
        folder / "views.d.ts": typescript(made),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(path, file=sys.stderr)

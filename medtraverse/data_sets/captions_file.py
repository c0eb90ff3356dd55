"""Captions that somebody has written: a line a file with its text.

``captions.jsonl`` of ``python -m medtraverse data captions``, Hugging Face's imagefolder
(``metadata.jsonl`` or ``metadata.csv``, also one in each of the folders ``train``, ``validation`` and
``test``), or a CSV of file and text.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..labels import plain
from ..whole_file import write_text
from .listing import TEST, TRAIN, VALIDATION, Fault, Listing, Options, frame_of, views_of
from .tables import Table, header_of, numbers, read_json_lines, read_table, states

if TYPE_CHECKING:
    import pandas

    from .policies import DataSet

NAME, TITLE = "captions", "a table of files and texts"
FILES = ("file_name", "file", "filename", "image", "image_path", "path")
TEXTS = ("text", "caption", "prompt")
PATIENTS = ("patient", "patient_id", "subject_id", "lesion_id", "lesion")
SPLITS = {
    "train": TRAIN, "training": TRAIN, "validation": VALIDATION, "validate": VALIDATION, "valid": VALIDATION,
    "val": VALIDATION, "dev": VALIDATION, "test": TEST,
}  # fmt: skip
_OWN = ("split", "view", "projection", "sex", "age")
_NAMES = ("captions.jsonl", "metadata.jsonl", "metadata.csv")
# The first line of `captions.jsonl` holds what is true of all of them, under this key.
HEAD = "medtraverse"
CAPTIONS_NOTICE = (
    "Captions for training. What the trained model makes are synthetic images, not for clinical use."
)


def find(folder: Path) -> Path | None:
    """Return the folder, or the table, where it is one of the forms."""
    if folder.is_file():
        return folder if folder.suffix in (".jsonl", ".csv") and _has_texts(folder) else None
    if any(_has_texts(path) for path in _tables(folder)):
        return folder
    return None


def read(folder: Path, options: Options) -> Listing:
    """Read the table, or those of all splits."""
    import pandas

    paths = [folder] if folder.is_file() else [path for path in _tables(folder) if _has_texts(path)]
    home = folder.parent if folder.is_file() else folder
    faults: list[Fault] = []
    head: dict[str, Any] = {}
    parts, labels = [], []
    for path in paths:
        if path.suffix == ".jsonl":
            head = _head(path)
            table = read_json_lines(path, home)
            if head:
                table = Table(
                    path,
                    table.name,
                    table.cells.iloc[1:].reset_index(drop=True).drop(columns=HEAD),
                    table.lines[1:],
                )
        else:
            table = read_table(path, home)
        rows, values = _rows(table, "" if path.parent == home else path.parent.name, head, faults)
        parts.append(rows)
        labels.append(values)
    root = Path(head["root"]) if "root" in head else home
    if not root.is_dir():
        raise ValueError(
            f"{paths[0]}: the folder of its images, {root}, is not there; write where it is into the first "
            "line."
        )
    rule = f"as written in {', '.join(path.relative_to(home).as_posix() for path in paths)}"
    return Listing(
        head.get("layout", NAME),
        root,
        pandas.concat(parts, ignore_index=True),
        pandas.concat(labels, ignore_index=True),
        None,
        head.get("labels", ()),
        head.get("rule", rule),
        head.get("neutrals", {}),
        head.get("attributes", {}),
        head.get("domain"),
        faults,
        head.get("policies"),
    )


def _tables(folder: Path) -> list[Path]:
    for name in _NAMES:
        if (folder / name).is_file():
            return [folder / name]
        if parts := [folder / split / name for split in SPLITS if (folder / split / name).is_file()]:
            return parts
    others = [path for path in sorted(folder.glob("*.csv")) if _has_texts(path)]
    return others if len(others) == 1 else []


def _has_texts(path: Path) -> bool:
    if path.suffix == ".csv":
        names = set(header_of(path))
    else:
        names = set(map(plain, _first(path)))
        if HEAD in names:
            return True
    return bool(names & set(map(plain, FILES))) and bool(names & set(map(plain, TEXTS)))


def _first(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return first if isinstance(first, dict) else {}


def _head(path: Path) -> dict[str, Any]:
    head = _first(path).get(HEAD)
    return head if isinstance(head, dict) else {}


def _rows(table: Table, below: str, head: dict[str, Any], faults: list[Fault]) -> tuple[Any, Any]:
    import pandas

    file = table.column(*FILES)
    split = table.text("split").map(lambda word: SPLITS.get(plain(word), "")) if not below else SPLITS[below]
    rows = frame_of(
        table,
        file=file if not below else f"{below}/" + file,
        caption=table.column(*TEXTS),
        patient=table.text(*PATIENTS),
        split=split,
        view=views_of(
            table.text("view"), {"frontal": "frontal", "lateral": "lateral", "pa": "frontal", "ap": "frontal"}
        ),
        projection=table.text("projection"),
        sex=table.text("sex"),
        age=numbers(table.text("age")),
    )
    rows.loc[rows.caption == "", "reason"] = "no text"
    taken = {plain(name) for name in (*FILES, *TEXTS, *PATIENTS, *_OWN)}
    values = {}
    for name in head.get("labels", [name for name in table.cells.columns if plain(name) not in taken]):
        column = table.find(name)
        if column is None:
            continue
        found, faulty = states(column)
        # any other column is somebody's own
        if "labels" in head or not faulty.any():
            values[name] = found
    return rows, pandas.DataFrame(values, rows.index)


def write(data: DataSet, out: str | os.PathLike[str]) -> None:
    """Write a data set as a table of captions, which `read` takes as the data set itself.

    The first line holds what is true of all (`HEAD`: root, rule, labels, policies, …), each other line an
    image: ``file_name`` below the root, ``text``, ``patient`` (only to keep a patient's images together),
    ``split``, what is known of view and person, and a key a label: 1, 0, -1 (uncertain), null (blank).

    Parameters
    ----------
    data : DataSet
    out : path
        A ``.jsonl`` file. One that is such a table is replaced.

    Raises
    ------
    ValueError
        The file has another suffix, lies in the data set's folder, is something else, or cannot be written.
    """
    out = Path(out)
    check_out(out, data.root)
    from .. import __version__

    assert data.states is not None
    states = data.states.where(data.states != -1, 1 if data.policies["uncertain"] == "positive" else -1)
    head: dict[str, Any] = {
        "layout": data.layout,
        "root": str(data.root.resolve()),
        "rule": data.rule,
        "domain": data.domain,
        "neutrals": data.neutrals,
        "attributes": data.attributes,
        "labels": [str(name) for name in states.columns],
        "policies": data.policies,
        "left_out": data.left_out,
        "version": __version__,
        "notice": CAPTIONS_NOTICE,
    }
    known = [name for name in _OWN if name == "split" or _says(data.frame[name])]
    columns = [data.frame[name].tolist() for name in ("file", "caption", "patient", *known)]
    columns += [[_number(value) for value in states[name].tolist()] for name in states.columns]
    names = ("file_name", "text", "patient", *known, *head["labels"])
    lines = [{HEAD: head}, *(dict(zip(names, map(_number, row))) for row in zip(*columns))]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    try:
        write_text(out, text)
    except OSError as error:
        raise ValueError(f"out: {out} cannot be written ({error.strerror}); name another place.") from error


def check_out(out: str | os.PathLike[str], *folders: Path) -> None:
    """Raise ValueError where `write` would, before any work: `folders` are the data set's own."""
    out = Path(out)
    if out.suffix != ".jsonl":
        raise ValueError(f"out: {out.name} does not end in .jsonl; name such a file.")
    outside("out", out, *folders)
    if out.exists() and not _head(out):
        raise ValueError(f"out: {out} is there already, and is no table of captions; name another.")


def outside(name: str, out: str | os.PathLike[str], *folders: Path) -> None:
    """Raise ValueError, naming the input `name`, where a file would lie in a data set's folder."""
    if any(folder.is_dir() and folder.resolve() in Path(out).resolve().parents for folder in folders):
        raise ValueError(
            f"{name}: {out} lies in the data set's folder, in which nothing is written; name another place."
        )


def _says(column: pandas.Series) -> bool:
    return bool((column.notna() & (column != "")).any())


def _number(value: Any) -> Any:
    """Return a number as JSON has it: None for NaN, whole where it is."""
    if not isinstance(value, float):
        return value
    return None if value != value else int(value) if value == int(value) else value

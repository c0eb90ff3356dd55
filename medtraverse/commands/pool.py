"""``python -m medtraverse pool``: the tables and figures of studies, and of tables of predictions."""

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

# What --by takes without a table: studies that differ in their neutral alone, as MEL and NV.
NEUTRAL = "neutral"


def add(commands: Any) -> None:
    """Add the subcommand to argparse's subparsers."""
    command = commands.add_parser(
        "pool",
        help="tables and figures of a study, or of several",
        description="Reads the folders of studies, or tables of predictions in the reference "
        "implementation's layout, counts every seed once, and writes CFRT and flip rate with 95 %% "
        "intervals, direction cosines, identity, the failing seeds and the figures. Studies that differ in "
        "settings or weights are refused by name.",
    )
    command.add_argument(
        "sources", nargs="+", metavar="FOLDER", help="folders of studies, or CSV tables of predictions"
    )
    command.add_argument(
        "--out", metavar="DIR", help="default: pooled, in the first folder; for tables nothing is written"
    )
    command.add_argument("--target", metavar="ATTRIBUTE", help="of tables: the attribute meant to change")
    command.add_argument(
        "--points", default="", metavar="POINTS", help="far part of swaps or of tables (default: the paper's)"
    )
    command.add_argument("--frames", default="", metavar="FRAMES", help="far part of curves, as --points")
    command.add_argument(
        "--threshold", type=float, default=0.5, metavar="P", help="for the flip rate (default: %(default)s)"
    )
    command.add_argument(
        "--seeds-table", metavar="TABLE.csv", help="a column seed, and columns that tell patients apart"
    )
    command.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a row for each value of this column of the seeds table; may be given several times. neutral, "
        "without a table, takes studies of several neutrals, such as MEL and NV",
    )
    command.add_argument(
        "--map", type=int, metavar="PATIENTS", help="draw the t-SNE map of so many, where latents are kept"
    )
    command.add_argument(
        "--vector", default="svg", choices=["svg", "pdf", "none"], help="default: %(default)s"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of tables")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Pool what the command line names."""
    tables = [source for source in arguments.sources if source.lower().endswith(".csv")]
    if tables and len(tables) < len(arguments.sources):
        raise ValueError("pool: folders and tables stand side by side; pool either by itself.")
    if set(arguments.by) - {NEUTRAL} and not arguments.seeds_table:
        raise ValueError("--by: it names a column of --seeds-table, or neutral; give the table.")
    if arguments.seeds_table and not arguments.by:
        raise ValueError("--seeds-table: no column of it is named; give --by COLUMN.")
    if tables:
        _pool_tables(arguments, tables)
    elif NEUTRAL in arguments.by and not arguments.seeds_table:
        _pool_neutrals(arguments)
    else:
        _pool_studies(arguments)


def _pool_tables(arguments: argparse.Namespace, tables: list[str]) -> None:
    from ..predictions import read_table
    from ..study.tables import pooled_predictions, predictions_text
    from ..whole_file import write_text

    if not arguments.target:
        raise ValueError("--target: tables do not say which attribute was meant to change; name it.")
    if arguments.by or arguments.map:
        raise ValueError("pool: --by and --map are for folders of studies; leave them out for tables.")
    pooled = pooled_predictions([read_table(table) for table in tables])
    text, table = predictions_text(pooled, arguments.target, arguments.points, arguments.threshold)
    if arguments.out:
        write_text(Path(arguments.out) / "cfrt.csv", table)
        write_text(Path(arguments.out) / "predictions.csv", pooled.to_csv())
    if arguments.json:
        print(json.dumps(list(csv.DictReader(io.StringIO(table))), indent=1))
    else:
        print(text, end="")


def _pool_neutrals(arguments: argparse.Namespace) -> None:
    """Tables of each neutral in a folder of its own, and one with a row for each."""
    from ..study import Store, read
    from ..study.tables import Choices, file_stem, part_rows
    from ..whole_file import write_text

    groups: dict[str, list[str]] = {}
    for source in arguments.sources:
        groups.setdefault(Store(source).identity.settings["neutral"], []).append(source)
    out = Path(arguments.out or Path(arguments.sources[0]) / "pooled")
    for neutral, sources in groups.items():
        own = {"sources": sources, "by": [], "out": str(out / file_stem(neutral))}
        _pool_studies(argparse.Namespace(**{**vars(arguments), **own}))
    parts = {neutral: read(*sources) for neutral, sources in groups.items()}
    choices = Choices(arguments.points, arguments.frames, arguments.threshold, arguments.vector)
    text, rows = part_rows(parts, NEUTRAL, choices)
    write_text(out / f"subgroups-{NEUTRAL}.csv", rows)
    if not arguments.json:
        print(text, end="")


def _pool_studies(arguments: argparse.Namespace) -> None:
    from ..study import Store, read
    from ..study.subgroups import read_seeds_table
    from ..study.tables import (
        Choices,
        file_stem,
        study_report,
        study_text,
        subgroup_rows,
        write_map,
        write_tables,
    )
    from ..whole_file import write_text

    study = read(*arguments.sources)
    choices = Choices(arguments.points, arguments.frames, arguments.threshold, arguments.vector)
    out = Path(arguments.out or Path(arguments.sources[0]) / "pooled")
    texts = [study_text(study, choices)]
    files = write_tables(study, out, choices)
    if arguments.by:
        table = read_seeds_table(arguments.seeds_table)
        for column in arguments.by:
            text, rows = subgroup_rows(study, table, column, choices)
            files.append(out / f"subgroups-{file_stem(column)}.csv")
            write_text(files[-1], rows)
            texts.append(f"By {column}\n{text}")
    if arguments.map:
        stores = [Store(folder) for folder in arguments.sources]
        files += write_map(study, stores, arguments.map, out, arguments.vector)
    if arguments.json:
        print(json.dumps({**study_report(study, choices), "files": list(map(str, files))}, indent=1))
    else:
        print("\n".join(texts), end="")
        print(f"{len(files)} files are in {out}.")

"""``python -m medtraverse data``: look through a data set, and write its captions."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add ``data audit`` and ``data captions``."""
    group = commands.add_parser(
        "data",
        help="look through a data set, and write its captions",
        description="Reads CheXpert, CheXpert Plus, MIMIC-CXR-JPG, NIH ChestX-ray14, PadChest, VinDr-CXR, "
        "ISIC 2019 and HAM10000 as they are published, and any table of files and texts. Nothing in a data "
        "set's folder is written.",
    )
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    command = actions.add_parser(
        "audit",
        help="counts, prompts, and each fault by file and line",
        description="Counts images, labels and prompts, looks at every image that is used, and names each "
        "fault by file and line: missing, truncated, no image, duplicates, a patient in two splits.",
    )
    command.add_argument("folder", metavar="FOLDER")
    command.add_argument("--json", metavar="FILE", help="also write everything to this file, as JSON")
    command.add_argument(
        "--show",
        type=int,
        default=10,
        metavar="N",
        help="faults of a kind, and prompts (default: %(default)s)",
    )
    _add_check(command)
    add_options(command)
    command.set_defaults(run=partial(_interrupted, _audit))
    command = actions.add_parser(
        "captions",
        help="write a table of captions, which the trainers take",
        description="Writes captions.jsonl: a line an image with its caption, labels and split. Images that "
        "cannot be read are left out.",
    )
    command.add_argument("folder", metavar="FOLDER")
    command.add_argument("--out", required=True, metavar="FILE.jsonl")
    _add_check(command)
    add_options(command)
    command.set_defaults(run=partial(_interrupted, _captions))


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the policies of `medtraverse.data_sets.read`; `options` reads them."""
    from ..data_sets import BLANKS, LAYOUTS, UNCERTAIN, VIEWS

    group = command.add_argument_group("the data set; what stands first is the paper's")
    group.add_argument("--layout", choices=LAYOUTS, help="default: by its tables")
    group.add_argument(
        "--uncertain", choices=UNCERTAIN, default=UNCERTAIN[0], help="what becomes of labels of -1"
    )
    group.add_argument("--views", choices=VIEWS, default=VIEWS[0], help="which films are used")
    group.add_argument(
        "--blank", choices=BLANKS, default=BLANKS[0], help="what an empty label is; captions are the same"
    )
    group.add_argument(
        "--artefacts",
        metavar="TABLE.csv",
        help="of ISIC 2019: isic_inferred_wocarcinoma.csv, if not in the folder",
    )
    group.add_argument(
        "--threshold",
        type=float,
        default=0.9,
        metavar="P",
        help="of ISIC 2019: probability from which an artefact is there (default: %(default)s)",
    )
    group.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of the patients or lesions, for validation, where the set has none (default: %(default)s)",
    )
    group.add_argument(
        "--split-seed", type=int, default=0, metavar="N", help="of that choice (default: %(default)s)"
    )


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_options` added, as `medtraverse.data_sets.read` takes it."""
    names = ("layout", "uncertain", "views", "blank", "artefacts", "threshold", "held_out")
    return {name: getattr(arguments, name) for name in names} | {"seed": arguments.split_seed}


def _add_check(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-check", action="store_true", help="do not look at the images, only whether they are there"
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="processes that look at images (default: one a processor)"
    )


def _interrupted(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    try:
        return run(arguments)
    except KeyboardInterrupt:
        print("medtraverse data: interrupted; nothing is written", file=sys.stderr)
        return 130


def _audit(arguments: argparse.Namespace) -> int:
    import json

    from ..data_sets import layout_of
    from ..data_sets.audit import audit
    from ..data_sets.captions_file import outside
    from ..whole_file import write_text

    if arguments.json:
        outside("json", arguments.json, layout_of(Path(arguments.folder), arguments.layout)[1])
    found = audit(
        arguments.folder,
        check=not arguments.no_check,
        workers=arguments.workers,
        progress=Progress("images"),
        **options(arguments),
    )
    if arguments.json:
        outside("json", arguments.json, found.data.root)
        try:
            write_text(arguments.json, json.dumps(found.report(), indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ValueError(
                f"json: {arguments.json} cannot be written ({error.strerror}); name another place."
            ) from error
    print(found.text(arguments.show), end="")
    return 0


def _captions(arguments: argparse.Namespace) -> int:
    from ..data_sets import layout_of
    from ..data_sets.audit import audit
    from ..data_sets.captions_file import check_out, write

    check_out(arguments.out, layout_of(Path(arguments.folder), arguments.layout)[1])
    found = audit(
        arguments.folder,
        check=not arguments.no_check,
        workers=arguments.workers,
        progress=Progress("images"),
        faulty=False,
        **options(arguments),
    )
    data = found.usable()
    if not len(data.frame):
        raise ValueError(
            f"data: no image of {arguments.folder} is left; python -m medtraverse data audit says why."
        )
    write(data, arguments.out)
    counts = ", ".join(f"{split} {count:,}" for split, count in data.frame.split.value_counts().items())
    print(
        f"{arguments.out}: {len(data.frame):,} images ({counts}), {data.frame.caption.nunique():,} captions"
    )
    for reason, count in data.left_out.items():
        print(f"  left out, {reason}: {count:,}")
    return 0


class Progress:
    """A line on stderr: how far, how fast, how long yet; a terminal's is written over, a file's seldom."""

    def __init__(self, unit: str):
        self.unit = unit
        self.begin = self.last = time.monotonic()
        self.live = sys.stderr.isatty()

    def __call__(self, done: int, count: int) -> None:
        now = time.monotonic()
        if done == 0:
            self.begin = now
        if (done < count and now - self.last < (0.5 if self.live else 30)) or not done:
            return
        if done == count and not self.live and now - self.begin < 30:
            return
        self.last = now
        pace = done / max(now - self.begin, 1e-3)
        left = (count - done) / pace
        span = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        text = f"{done:,} of {count:,} {self.unit}, {pace:,.0f} a second, {span} left"
        end = "\r" if self.live and done < count else "\n"
        print(f"\x1b[2K{text}" if self.live else text, end=end, file=sys.stderr, flush=True)

"""A data set looked through before anything is trained on it: counts, prompts, faults by file and line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..table import aligned
from . import listing
from .captions_file import CAPTIONS_NOTICE
from .image_check import Checked, check_images
from .listing import FRONTAL, LATERAL, TEST, TRAIN, VALIDATION, Fault, Listing, Options
from .policies import UNNAMED, DataSet, data_set

# Correlation of brightness ranks from which two images of a patient are one with other contrast.
_SAME = 0.99
# Kinds that are no fault of the set, but facts that somebody training on it should know.
NOTES = (LATERAL, "other view", "view unknown", "blank labels", UNNAMED, "more than 8 bits", "other format")
# Words for films from the side, which CheXpert has beside "Frontal".
_SIDEWAYS = ("LL", "RL", "L", "LATERAL", "LLD", "RLD")
_LESIONS = ("isic2019", "ham10000")
_WHAT = {
    "missing": "is not there; put it back, or leave its row out.",
    LATERAL: "is a lateral film, which the option --views leaves out.",
    "other view": "is neither frontal nor lateral, and left out by the option --views.",
    "view unknown": "has no view in the table, and is left out by the option --views.",
    "excluded by its readers": "is not to be judged, as its readers say; it is left out.",
    "no text": "has no text; write one.",
    UNNAMED: "shows what no caption has a word for; it is left out, as the neutral sentence would be wrong.",
}


@dataclass(frozen=True, eq=False)
class Audit:
    """What was found.

    Attributes
    ----------
    listing : Listing
        All rows, with the reason of those that are not used.
    data : DataSet
        What is used. Images that cannot be read are still in it; `usable` leaves them out.
    faults : list of Fault
        In the tables' order within a kind.
    checked : dict of int to Checked
        By row of ``data.frame``; empty where images were not looked at.
    """

    listing: Listing
    data: DataSet
    faults: list[Fault]
    checked: dict[int, Checked]

    def usable(self) -> DataSet:
        """Return the data set without the images that cannot be read."""
        from dataclasses import replace

        bad = {row: one.kind for row, one in self.checked.items() if one.kind}
        keep = ~self.data.frame.index.isin(list(bad))
        assert self.data.states is not None
        return replace(
            self.data,
            frame=self.data.frame[keep].reset_index(drop=True),
            labels=self.data.labels[keep].reset_index(drop=True),
            states=self.data.states[keep].reset_index(drop=True),
            left_out=dict(Counter(self.data.left_out) + Counter(bad.values())),
        )

    def report(self) -> dict[str, Any]:
        """Return everything, JSON-serialisable."""
        data, frame = self.data, self.data.frame
        states = data.states
        assert states is not None
        views = self.listing.rows.groupby(["view", "projection"], sort=False).size()
        prompts = frame.groupby(["caption", "split"], sort=False).size().unstack(fill_value=0)
        prompts = prompts.loc[prompts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
        sizes = Counter(one.size for one in self.checked.values() if one.digest)
        return {
            "layout": data.layout,
            "root": str(data.root),
            "rows": len(self.listing.rows),
            "used": len(frame),
            "left_out": data.left_out,
            "splits": {
                split: {
                    "images": len(part),
                    self.who() + "s": int(part.patient[part.patient != ""].nunique()),
                }
                for split in (TRAIN, VALIDATION, TEST)
                if len(part := frame[frame.split == split])
            },
            "views": [
                {"view": view, "projection": projection, "rows": int(count)}
                for (view, projection), count in views.items()
            ],
            "labels": {
                str(name): {
                    "present": int((column == 1).sum()),
                    "absent": int((column == 0).sum()),
                    "uncertain": int((column == -1).sum()),
                    "blank": int(column.isna().sum()),
                }
                for name, column in states.items()
            },
            "captions": [
                {
                    "text": text,
                    "images": int(row.sum()),
                    **{str(split): int(n) for split, n in row.items() if n},
                }
                for text, row in prompts.iterrows()
            ],
            "rule": data.rule,
            "domain": data.domain,
            "policies": data.policies,
            "images_checked": len(self.checked),
            "sizes": [{"columns": c, "rows": r, "images": n} for (c, r), n in sizes.most_common()],
            "faults": [asdict(fault) for fault in self.faults],
            "notice": CAPTIONS_NOTICE,
        }

    def text(self, most: int = 10) -> str:
        """Return the report for a reader, with at most so many prompts, and faults of a kind."""
        report = self.report()
        lines = [f"{report['layout']}: {report['rows']:,} rows, images in {report['root']}"]
        for split, counts in report["splits"].items():
            images, people = counts["images"], counts[self.who() + "s"]
            lines.append(f"  {split}: {images:,} images" + (f", {people:,} {self.who()}s" if people else ""))
        lines += [f"  left out, {reason}: {count:,}" for reason, count in report["left_out"].items()]
        if views := [row for row in report["views"] if row["view"]]:
            told = (f"{' '.join(filter(None, (r['view'], r['projection'])))} {r['rows']:,}" for r in views)
            lines += ["", f"views: {', '.join(told)}"]
        if sizes := report["sizes"]:
            told = (f"{row['columns']} × {row['rows']} ({row['images']:,})" for row in sizes[:5])
            lines.append(f"sizes: {', '.join(told)}{f' and {len(sizes) - 5:,} more' * (len(sizes) > 5)}")
        if report["labels"]:
            header = ("label", "present", "absent", "uncertain", "blank")
            rows = [
                (name, *(f"{row[key]:,}" for key in header[1:])) for name, row in report["labels"].items()
            ]
            lines += ["", aligned([header, *rows]).rstrip()]
        captions = report["captions"]
        lines += ["", f"{len(captions):,} different captions, by {report['rule']}"]
        lines += [f"  {row['images']:>9,}  {row['text']}" for row in captions[:most]]
        if len(captions) > most:
            lines.append(f"  and {len(captions) - most:,} more")
        for title, noted in (("faults", False), ("to know", True)):
            kinds = Counter(fault.kind for fault in self.faults if (fault.kind in NOTES) == noted)
            lines += ["", f"{title}: {sum(kinds.values()):,}"]
            for kind, count in kinds.most_common():
                lines.append(f"  {kind}: {count:,}")
                alike = [fault for fault in self.faults if fault.kind == kind]
                lines += [
                    f"    {one.place}: {one.file}{' ' * bool(one.file)}{one.what}" for one in alike[:most]
                ]
                if count > most:
                    lines.append(f"    and {count - most:,} more")
        if not self.checked:
            lines += ["", "The images themselves were not looked at."]
        return "\n".join(lines) + "\n"

    def who(self) -> str:
        """Return what a key of ``patient`` stands for."""
        return "lesion" if self.data.layout in _LESIONS else "patient"


def audit(
    folder: str | os.PathLike[str],
    layout: str | None = None,
    check: bool = True,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, count: None,
    *,
    uncertain: str = "ignore",
    views: str = "frontal",
    threshold: float = 0.9,
    artefacts: str | os.PathLike[str] | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    blank: str = "unknown",
    faulty: bool = True,
) -> Audit:
    """Look through a data set. Nothing is written.

    Parameters
    ----------
    folder, layout, uncertain, views, threshold, artefacts, held_out, seed, blank
        As for `medtraverse.data_sets.read`.
    check : bool
        Whether to look at the images that are used, too.
    workers, progress
        As for `check_images`.
    faulty : bool
        Whether cells that cannot be read are faults; otherwise the first is raised, as `read` does.

    Returns
    -------
    Audit

    Raises
    ------
    ValueError
        The folder is of no layout that is known, a table lacks a column, or an option is out of range.
    """
    options = Options(threshold, None if artefacts is None else Path(artefacts))
    listed = listing(folder, layout, options, faulty)
    data = data_set(listed, uncertain, views, held_out, seed, blank)
    faults = list(listed.faults)
    rows = listed.rows
    for reason, what in _WHAT.items():
        alike = rows[rows.reason == reason]
        faults += [Fault(reason, place, file, what) for place, file in zip(alike.place, alike.file)]
    if len(listed.states.columns):
        blanks = rows[listed.states.isna().all(axis=1) & rows.reason.isin(("", "blank labels"))]
        faults += [
            Fault("blank labels", place, file, "has no label that is 1, 0 or -1.")
            for place, file in zip(blanks.place, blanks.file)
        ]
    found = check_images(data.root, list(data.frame.file), workers, progress) if check else []
    result = Audit(listed, data, faults, dict(enumerate(found)))
    sideways = data.frame[(data.frame.view == FRONTAL) & data.frame.projection.str.upper().isin(_SIDEWAYS)]
    faults += [
        Fault("doubtful view", place, file, f"is frontal, but its projection is {word}; look at it.")
        for place, file, word in zip(sideways.place, sideways.file, sideways.projection)
    ]
    faults += _in_two_splits(rows, result.who())
    for place, file, one in zip(data.frame.place, data.frame.file, found):
        if one.kind:
            faults.append(Fault(one.kind, place, file, one.what))
        faults += [Fault(kind, place, file, what) for kind, what in one.notes]
    faults += _duplicates(data, found)
    return result


def _in_two_splits(rows: Any, who: str) -> list[Fault]:
    """Name the first row of each patient that is in another split than the patient's first."""
    known = rows[(rows.patient != "") & (rows.file != "")]
    kinds = known.groupby("patient").split.nunique()
    faults = []
    for _, images in known[known.patient.isin(kinds[kinds > 1].index)].groupby("patient", sort=False):
        first = images.iloc[0]
        for _, other in images[images.split != first.split].drop_duplicates("split").iterrows():
            what = (
                f"shows a {who} of whom {first.place} is in {first.split}, in {other.split}; keep one split."
            )
            faults.append(Fault("two splits", other.place, other.file, what))
    return faults


def _duplicates(data: DataSet, found: list[Checked]) -> list[Fault]:
    """Name images with the pixels of an earlier one, and those of a patient that differ in contrast alone."""
    frame, faults = data.frame, []
    first: dict[str, int] = {}

    def fault(kind: str, row: int, other: int, what: str) -> Fault:
        apart = frame.split[row] != frame.split[other]
        splits = f"; they are in {frame.split[other]} and {frame.split[row]}" if apart else ""
        return Fault(
            kind,
            frame.place[row],
            frame.file[row],
            f"{what} {frame.file[other]} ({frame.place[other]}){splits}; keep one.",
        )

    for row, one in enumerate(found):
        if one.digest and (earlier := first.setdefault(one.digest, row)) != row:
            faults.append(fault("duplicate pixels", row, earlier, "has the pixels of"))
    single = [
        row for row, one in enumerate(found) if one.ranks and first[one.digest] == row and frame.patient[row]
    ]
    for _, group in frame.iloc[single].groupby("patient", sort=False):
        if len(group) < 2:
            continue
        ranks = np.stack([np.frombuffer(found[row].ranks, np.uint8) for row in group.index]).astype(
            np.float64
        )
        alike: np.ndarray = np.asarray(np.corrcoef(ranks))
        for later in range(1, len(group)):
            earlier = int(alike[later, :later].argmax())
            if alike[later, earlier] >= _SAME:
                rows = int(group.index[later]), int(group.index[earlier])
                faults.append(fault("other contrast", *rows, "is, in other contrast, the picture of"))
    return faults

"""Which of a classifier's outputs are used, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence

from ..labels import position, repeated
from .judge import Judge


def parse_labels(text: str) -> list[str]:
    """Read labels from a text: one a line, or separated by commas where it is one line without a prompt.

    A prompt may hold commas, so that a text with `=` and several labels is written in lines, or with
    semicolons.
    """
    parts: list[str] = []
    lines = [piece for line in text.strip().splitlines() for piece in line.split(";") if piece.strip()]
    for line in lines:
        prompt = "|" in line or (line.count("=") == 1 and "," not in line.partition("=")[0])
        parts += [line] if prompt else line.split(",")
    return [part.strip() for part in parts if part.strip()]


def resolve_labels(
    asked: Sequence[str] | None, judges: Sequence[Judge], names: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Return the labels and the columns, over all judges' outputs in order, that they name.

    Parameters
    ----------
    asked : sequence of str or None
        None takes what the files say. Names, one for each output. Or lines `label = logit`: only those
        outputs
        are kept; a logit is named as its file names it, in any case, or by its number from 0.
    judges : sequence of Judge
    names : sequence of str
        Of their files, for messages.

    Raises
    ------
    ValueError
        If the labels are not known, do not fit the outputs, or repeat a name.
    """
    outputs = sum(judge.outputs for judge in judges)
    where = ", ".join(names)
    own = [label for judge in judges for label in (judge.labels or [""] * judge.outputs)]
    if asked is not None and any("=" in line for line in asked if isinstance(line, str)):
        labels, columns = _renamed(asked, own, where)
    elif asked is not None:
        labels, columns = list(asked), list(range(outputs))
        if len(labels) != outputs:
            raise ValueError(
                f"labels: {len(labels)} names ({', '.join(map(str, labels))}) for {outputs} logits of "
                f"{where}; give "
                "one for each logit, or lines `label = logit` for those that you want."
            )
    else:
        unnamed = next((name for name, judge in zip(names, judges) if judge.labels is None), None)
        if unnamed is not None:
            raise ValueError(
                f"labels: {unnamed} does not say what its logits mean; give one name for each, in their "
                "order."
            )
        labels, columns = own, list(range(outputs))
        if len(labels) != outputs:
            raise ValueError(
                f"labels: {where} names {len(labels)} labels for {outputs} logits; give one for each logit."
            )
    if not all(isinstance(label, str) and label.strip() for label in labels) or repeated(labels):
        raise ValueError(
            f"labels: {list(labels)!r} repeats a name or has an empty one; give different names."
        )
    return labels, columns


def _renamed(lines: Sequence[str], own: Sequence[str], where: str) -> tuple[list[str], list[int]]:
    labels, columns = [], []
    for line in lines:
        label, equals, logit = (part.strip() for part in line.partition("="))
        if not equals or not label or not logit:
            raise ValueError(f"labels: cannot read {line!r}; write every one as `label = logit`, or none.")
        column = position(logit, own)
        if column is None and logit.isdigit() and int(logit) < len(own):
            column = int(logit)
        if column is None:
            known = ", ".join(label for label in own if label) or f"numbers from 0 to {len(own) - 1}"
            raise ValueError(f"labels: {where} has no logit {logit!r}; it has {known}.")
        labels.append(label)
        columns.append(column)
    return labels, columns

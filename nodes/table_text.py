"""Numbers as text: CSV with the notice, lists for JSON."""

import csv
import io

from ..medtraverse.notice import NOTICE


def csv_text(header, rows):
    """Return rows as CSV, the notice in a last column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "notice"])
    writer.writerows([*row, NOTICE] for row in rows)
    return text.getvalue()


def finite(values):
    """Return a tensor as a list for JSON, which has no NaN: null in its place."""
    return [None if value != value else value for value in values.tolist()]

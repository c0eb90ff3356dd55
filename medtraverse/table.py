"""Tables as CSV text, each row with the notice."""

import csv
import io

from .notice import NOTICE


def csv_text(header, rows) -> str:
    """Return rows as CSV, lines ended by a line feed, the notice in a last column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "notice"])
    writer.writerows([*row, NOTICE] for row in rows)
    return text.getvalue()

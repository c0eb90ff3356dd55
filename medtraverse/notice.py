"""The sentence that every figure, table and file of the pack carries."""

NOTICE = "Synthetic images. Not for clinical use."

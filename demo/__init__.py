"""Phantom patients with known factors, and the training of the demo model on them.

Synthetic images. Not for clinical use.
"""

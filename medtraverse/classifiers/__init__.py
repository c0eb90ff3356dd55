"""Readers of the image classifiers that researchers have, each with the preprocessing of its own files.

A reader returns a `Judge`: a network, what its outputs are called, and how an image becomes its input. Which
reader a file needs is decided by `medtraverse.classifiers.formats`.
"""

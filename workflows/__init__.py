"""The bundled workflows: `graphs` says what they are, `canvas` lays them out.

``python -m workflows.build`` writes their files.
"""

"""The ComfyUI floor: one file per stage, each node a schema and an ``execute`` that
unpacks, calls the library and packs.
"""

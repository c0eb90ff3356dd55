"""Studies: the figures of thousands of patients in a folder, which grows a block at a time and pools.

``medtraverse.study.read(FOLDER).frame()`` is all of it as a pandas table.
"""

from .block import Block
from .pooled import Study, read
from .store import Store

__all__ = ["Block", "Store", "Study", "read"]

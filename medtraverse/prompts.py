"""Prompts as the text encoder must see them, and the conditionings of a traversal."""

import re
from dataclasses import dataclass, field
from typing import Any

from .labels import Aliases, repeated


@dataclass(frozen=True)
class PromptedAttribute:
    """An attribute with its encoded prompt; ``conditioning`` is whatever the sampler's host uses for one."""

    name: str
    colour: str
    labels: tuple[str, ...]
    prompt: str
    conditioning: Any


@dataclass(frozen=True)
class AttributeSet:
    """The attributes of a traversal.

    ``size`` is the domain's image side in pixels, 0 when unknown; ``aliases`` are its other words for labels.
    """

    attributes: tuple[PromptedAttribute, ...]
    domain: str = ""
    neutral: str = "neutral"
    neutral_prompt: str = ""
    size: int = 0
    aliases: Aliases = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice = repeated([attribute.name for attribute in self.attributes])
        if twice is not None:
            raise ValueError(f"attributes: {twice!r} is given twice; give each attribute a name of its own.")


def literal(prompt: str) -> str:
    r"""Return the prompt with every parenthesis escaped, so that ComfyUI encodes it letter by letter.

    ComfyUI reads ``(MEL)`` as emphasis 1.1 and drops the brackets, which moves the embedding by 3. ``\(``
    and ``\)`` that are there already are kept.
    """
    return re.sub(r"(?<!\\)([()])", r"\\\1", prompt)

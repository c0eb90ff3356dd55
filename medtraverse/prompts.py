"""Prompts as the text encoder must see them, and the conditionings of a traversal."""

import re
from dataclasses import dataclass
from typing import Any


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
    """The attributes of a traversal; ``size`` is the domain's image side in pixels, 0 when unknown."""

    attributes: tuple[PromptedAttribute, ...]
    domain: str = ""
    neutral: str = "neutral"
    neutral_prompt: str = ""
    size: int = 0

    def __post_init__(self) -> None:
        names = [attribute.name for attribute in self.attributes]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"attributes: {repeated[0]!r} is given twice; give each attribute a name of its own."
            )


def literal(prompt: str) -> str:
    r"""Return the prompt with every parenthesis escaped, so that ComfyUI encodes it letter by letter.

    ComfyUI reads ``(MEL)`` as emphasis 1.1 and drops the brackets, which moves the embedding by 3. ``\(``
    and ``\)`` that are there already are kept.
    """
    return re.sub(r"(?<!\\)([()])", r"\\\1", prompt)

"""What every node that samples a traversal asks for, and how that becomes the settings of a run."""

from typing import Any

from comfy_api.latest import io

from ..medtraverse.prompts import AttributeSet, PromptedAttribute
from ..medtraverse.traversal import TraversalSettings
from . import samplers
from .sockets import Attributes

# The paper's λ.
SWAP_STEPS = "45,40,35,30,25,20,15,10,5"


def part_inputs() -> list[Any]:
    """Return the inputs of what reaches the latents: ``model``, ``neutral``, ``negative``, ``attributes``."""
    return [
        io.Model.Input("model", tooltip="The fine-tuned model."),
        io.Conditioning.Input("neutral", tooltip="Conditioning of the neutral prompt."),
        io.Conditioning.Input(
            "negative", tooltip="Conditioning of the negative prompt (the paper's is empty)."
        ),
        io.MultiType.Input(
            "attributes",
            types=[Attributes, io.Conditioning],
            tooltip="Attributes from Medical Attribute Prompts, or one plain CONDITIONING.",
        ),
    ]


def size_inputs() -> list[Any]:
    """Return the inputs ``width`` and ``height``."""
    return [
        io.Int.Input(
            "width",
            default=0,
            min=0,
            max=4096,
            step=8,
            tooltip="Image width in pixels; 0 takes the domain's size.",
        ),
        io.Int.Input(
            "height",
            default=0,
            min=0,
            max=4096,
            step=8,
            tooltip="Image height in pixels; 0 takes the domain's size.",
        ),
    ]


def sampling_inputs() -> list[Any]:
    """Return the inputs ``steps`` to ``noise``, in the order that they have on every node."""
    return [
        io.Int.Input("steps", default=50, min=2, max=999, tooltip="Sampling steps. The paper: 50."),
        io.Float.Input(
            "cfg",
            default=7.5,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Classifier-free guidance. The paper: 7.5.",
        ),
        io.Combo.Input(
            "sampler",
            options=samplers.sampler_names(),
            default="ddim",
            tooltip="The paper: ddim. Samplers with adaptive steps are not offered.",
        ),
        io.Combo.Input(
            "scheduler",
            options=samplers.scheduler_names(),
            default=samplers.DIFFUSERS_DDIM,
            tooltip="diffusers_ddim is the paper's: diffusers' DDIM with its first and last step.",
        ),
        io.String.Input(
            "swap_steps",
            default=SWAP_STEPS,
            tooltip="Swap steps λ: steps 0…λ run under the neutral prompt. High λ changes little, low λ "
            "much. 90% is a share of the steps.",
        ),
        io.Combo.Input(
            "noise",
            options=["cpu", "gpu"],
            default="cpu",
            tooltip="Where noise is drawn. 'cpu' is the same on every machine; 'gpu' (CUDA) gives the "
            "paper's own seeds.",
        ),
    ]


def attribute_set(attributes: Any, name: str = "attribute") -> AttributeSet:
    """Return the attributes of a node's input; a plain CONDITIONING is one attribute of the name."""
    if isinstance(attributes, AttributeSet):
        return attributes
    return AttributeSet((PromptedAttribute(name, "#444444", (name,), "", attributes),))


def traversal_settings(
    attributes: AttributeSet, width: int, height: int, **sampling: Any
) -> TraversalSettings:
    """Return the settings of a traversal of the attributes.

    Parameters
    ----------
    attributes : AttributeSet
    width, height : int
        In pixels; 0 takes the domain's size.
    sampling
        The other fields of ``TraversalSettings`` that the attributes do not say.

    Raises
    ------
    ValueError
        The size is none, or no multiple of 8.
    """
    width, height = width or attributes.size, height or attributes.size
    if not width or not height or width % 8 or height % 8:
        raise ValueError(
            f"width, height: {width}×{height} cannot be used; give multiples of 8 (512 for the paper's "
            "models)."
        )
    return TraversalSettings(
        width=width,
        height=height,
        domain=attributes.domain,
        neutral=attributes.neutral,
        neutral_prompt=attributes.neutral_prompt,
        prompts=tuple((item.name, item.prompt) for item in attributes.attributes),
        **sampling,
    )

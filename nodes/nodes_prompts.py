"""MedicalAttributePrompts and AttributeConditioning: the conditionings of a traversal."""

import re
from dataclasses import replace

import torch
from comfy_api.latest import io

from ..medtraverse.domain import check_colour, parse_attributes
from ..medtraverse.prompts import AttributeSet, PromptedAttribute, literal
from . import sources
from .schema import schema
from .sockets import CATEGORY, Attributes, Domain, checked_sockets


def encode(clip, prompt):
    """Encode a plain prompt exactly as transformers' CLIP does.

    Raises ValueError for one over 75 tokens, and for one that names an embedding which core would leave out.
    """
    tokens = clip.tokenize(literal(prompt))
    _check_embeddings(clip, prompt, tokens)
    if any(len(chunks) > 1 for chunks in tokens.values()):
        raise ValueError(f"prompt: {prompt!r} has more than 75 tokens, CLIP's limit; shorten it.")
    return clip.encode_from_tokens_scheduled(tokens)


def _check_embeddings(clip, prompt, tokens):
    """Raises ValueError for ``embedding:name`` that is not there, or not of the text encoder's width."""
    for name in re.findall(r"(?<!\S)embedding:(\S*)", prompt):
        # Core's tokenizer gives vectors for an embedding that it finds, and nothing for one that it does not.
        if not any(_vectors(chunks) for chunks in clip.tokenize(literal(f"embedding:{name}")).values()):
            raise ValueError(
                f"prompt: there is no embedding {name!r}; put its file into models/embeddings, or "
                "take it out."
            )
    for encoder, chunks in tokens.items():
        module = getattr(clip.cond_stage_model, f"clip_{encoder}", None)
        if module is None:
            continue
        width = module.transformer.get_input_embeddings().embedding_dim
        other = {vector.shape[-1] for vector in _vectors(chunks)} - {width}
        if other:
            raise ValueError(
                f"prompt: {prompt!r} has an embedding of width {min(other)}, and the text encoder's is "
                f"{width}; take one that was trained for this model."
            )


def _vectors(chunks):
    """Return the vectors of embeddings among tokens."""
    return [token[0] for chunk in chunks for token in chunk if isinstance(token[0], torch.Tensor)]


class MedicalAttributePrompts(io.ComfyNode):
    """The prompts of a traversal, encoded: neutral, negative, and one for each attribute.

    Prompts of the domains that ship are those of TehraniNasab, Kumar, Arbel 2025.
    """

    @classmethod
    def define_schema(cls):
        neutrals = dict.fromkeys(name for domain in sources.domains().values() for name in domain.neutrals)
        return schema(
            node_id="MedicalAttributePrompts",
            display_name="Medical Attribute Prompts",
            category=CATEGORY,
            search_aliases=["chest X-ray prompt", "pathology prompt", "skin lesion prompt", "text encode"],
            essentials_category="Medical",
            description=(
                "Encodes a domain's neutral prompt, the negative prompt and one prompt per attribute, "
                "letter by letter: (MEL) keeps its brackets."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint."),
                Domain.Input("domain", tooltip="The domain from Load Medical Checkpoint."),
                io.Combo.Input(
                    "neutral",
                    options=["auto", *neutrals],
                    default="auto",
                    tooltip=(
                        "Which neutral prompt: 'normal' (CheXpert), 'MEL' or 'NV' (ISIC). 'auto' takes the "
                        "domain's first."
                    ),
                ),
                io.String.Input(
                    "attributes",
                    default="",
                    tooltip="Attributes to traverse to, comma-separated; empty takes the domain's own.",
                ),
                io.String.Input(
                    "extra_attributes",
                    default="",
                    multiline=True,
                    tooltip="Attributes of your own, one 'name = prompt' or 'name #RRGGBB = prompt' a line.",
                ),
                io.String.Input(
                    "neutral_prompt",
                    default="",
                    tooltip=(
                        "A neutral prompt of your own in place of the domain's; empty keeps the domain's."
                    ),
                ),
                io.String.Input(
                    "negative_prompt", default="", tooltip="The unconditional prompt. The paper's is empty."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "neutral_conditioning",
                    display_name="neutral",
                    tooltip="Conditioning of the neutral prompt.",
                ),
                io.Conditioning.Output(
                    "negative_conditioning",
                    display_name="negative",
                    tooltip="Conditioning of the negative prompt.",
                ),
                Attributes.Output(
                    "attribute_conditionings",
                    display_name="attributes",
                    tooltip="The named attribute conditionings.",
                ),
                io.String.Output("prompts", display_name="prompts", tooltip="All prompts as text."),
            ],
        )

    @classmethod
    @checked_sockets
    def execute(cls, clip, domain, neutral, attributes, extra_attributes, neutral_prompt, negative_prompt):
        name, prompt = domain.neutral(neutral)
        if neutral_prompt.strip():
            domain = replace(domain, neutrals={name: neutral_prompt.strip()})
            prompt = neutral_prompt.strip()
        chosen = domain.select(attributes) if attributes.strip() or not extra_attributes.strip() else ()
        prompted = tuple(
            PromptedAttribute(item.name, item.colour, item.labels, text, encode(clip, text))
            for item in (*chosen, *parse_attributes(extra_attributes))
            for text in [domain.prompt(item, name)]
        )
        negative = negative_prompt or domain.negative
        lines = [
            f"neutral ({name}): {prompt}",
            f"negative: {negative or '(empty)'}",
            *(f"{item.name}: {item.prompt}" for item in prompted),
        ]
        return io.NodeOutput(
            encode(clip, prompt),
            encode(clip, negative),
            AttributeSet(prompted, domain.name, name, prompt, domain.size, domain.aliases),
            "\n".join(lines),
        )


class AttributeConditioning(io.ComfyNode):
    """A CONDITIONING of other nodes, named as an attribute."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AttributeConditioning",
            display_name="Attribute from Conditioning",
            category=CATEGORY,
            search_aliases=["name conditioning", "attribute prompt"],
            description=(
                "Names a CONDITIONING (from CLIPTextEncode, ControlNet, hooks…) as an attribute, and adds "
                "it to others."
            ),
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="Conditioning of the attribute's prompt."),
                io.String.Input(
                    "name", default="attribute", tooltip="The attribute's name in figures and tables."
                ),
                io.String.Input("colour", default="#444444", tooltip="Its colour in figures, #RRGGBB."),
                io.String.Input(
                    "labels",
                    default="",
                    tooltip="Classifier labels that it should raise, comma-separated; empty means its name.",
                ),
                Attributes.Input("others", optional=True, tooltip="Attributes to add this one to."),
            ],
            outputs=[
                Attributes.Output(
                    "attributes",
                    display_name="attributes",
                    tooltip="The attributes with this one at the end.",
                )
            ],
        )

    @classmethod
    @checked_sockets
    def execute(cls, conditioning, name, colour, labels, others=None):
        named = tuple(label.strip() for label in labels.split(",") if label.strip()) or (name.strip(),)
        if not name.strip():
            raise ValueError("name: an attribute needs a name, such as 'pleural effusion'.")
        check_colour(colour)
        item = PromptedAttribute(name.strip(), colour, named, "", conditioning)
        base = others or AttributeSet(())
        return io.NodeOutput(replace(base, attributes=(*base.attributes, item)))

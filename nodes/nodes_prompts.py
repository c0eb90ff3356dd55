"""MedicalAttributePrompts and AttributeConditioning: the conditionings of a traversal."""

from dataclasses import replace

from comfy_api.latest import io

from ..medtraverse.domain import check_colour, parse_attributes
from ..medtraverse.prompts import AttributeSet, PromptedAttribute, literal
from . import sources
from .sockets import CATEGORY, Attributes, Domain


def encode(clip, prompt):
    """Encode a plain prompt exactly as transformers' CLIP does. Raises ValueError for one over 75 tokens."""
    tokens = clip.tokenize(literal(prompt))
    if any(len(chunks) > 1 for chunks in tokens.values()):
        raise ValueError(f"prompt: {prompt!r} has more than 75 tokens, CLIP's limit; shorten it.")
    return clip.encode_from_tokens_scheduled(tokens)


class MedicalAttributePrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        neutrals = dict.fromkeys(name for domain in sources.domains().values() for name in domain.neutrals)
        return io.Schema(
            node_id="MedicalAttributePrompts",
            display_name="Medical Attribute Prompts",
            category=CATEGORY,
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
            AttributeSet(prompted, domain.name, name, prompt, domain.size),
            "\n".join(lines),
        )


class AttributeConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="AttributeConditioning",
            display_name="Attribute from Conditioning",
            category=CATEGORY,
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
    def execute(cls, conditioning, name, colour, labels, others=None):
        named = tuple(label.strip() for label in labels.split(",") if label.strip()) or (name.strip(),)
        if not name.strip():
            raise ValueError("name: an attribute needs a name, such as 'pleural effusion'.")
        check_colour(colour)
        item = PromptedAttribute(name.strip(), colour, named, "", conditioning)
        base = others or AttributeSet(())
        return io.NodeOutput(replace(base, attributes=(*base.attributes, item)))

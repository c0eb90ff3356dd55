"""Attribute prompts: embeddings equal transformers' CLIP on the plain prompt."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def transformers_clip(pack):
    transformers = pytest.importorskip("transformers")
    folder = pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd"
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)

    def encode(prompt):
        tokens = tokenizer(
            prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        return encoder(tokens)[0]

    return encode


@pytest.mark.parametrize("domain", ["CheXpert", "ISIC"])
def test_every_prompt_of_a_domain_is_encoded_letter_by_letter(run, demo, pack, transformers_clip, domain):
    chosen = pack.nodes.sources.domains()[domain]
    names = ",".join(item.name for item in chosen.attributes)
    for neutral, prompt in chosen.neutrals.items():
        ours = run(
            "MedicalAttributePrompts", clip=demo[1], domain=chosen, neutral=neutral, attributes=names
        ).args
        assert (ours[0][0][0] - transformers_clip(prompt)).abs().max() < 1e-4
        assert (ours[1][0][0] - transformers_clip("")).abs().max() < 1e-4
        for item in ours[2].attributes:
            assert (item.conditioning[0][0] - transformers_clip(item.prompt)).abs().max() < 1e-4


def test_brackets_that_comfyui_would_read_as_emphasis_would_be_seen(demo, transformers_clip):
    prompt = "a dermoscopic image with melanoma (MEL)"
    plain = demo[1].encode_from_tokens(demo[1].tokenize(prompt))
    assert (plain - transformers_clip(prompt)).abs().max() > 1e-2


def test_own_attributes_and_neutral(run, demo):
    _neutral, _, attributes, text = run(
        "MedicalAttributePrompts",
        clip=demo[1],
        domain=demo[3],
        attributes="pleural effusion",
        extra_attributes="big heart #112233 = Chest X-ray showing Cardiomegaly",
        neutral_prompt="a chest",
    ).args
    assert [item.name for item in attributes.attributes] == ["pleural effusion", "big heart"]
    assert attributes.attributes[1].colour == "#112233"
    assert "neutral (normal): a chest" in text and attributes.size == 128


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({"attributes": "edema"}, "attributes: .*no attribute 'edema'"),
        ({"neutral": "MEL"}, "neutral: .*'MEL'"),
        (
            {"extra_attributes": "pleural effusion = x", "attributes": "pleural effusion"},
            "attributes: 'pleural effusion' is given twice",
        ),
        ({"neutral_prompt": "lung " * 80}, "prompt: .*more than 75 tokens"),
        ({"extra_attributes": "x = "}, "extra_attributes: 'x =' has no prompt"),
        ({"neutral_prompt": "a chest embedding:missing now"}, "prompt: there is no embedding 'missing'"),
    ],
)
def test_bad_inputs_are_named(run, demo, inputs, fault):
    with pytest.raises(ValueError, match=fault):
        run("MedicalAttributePrompts", clip=demo[1], domain=demo[3], **inputs)


def test_an_embedding_is_used_or_its_width_is_told(run, demo):
    """Files as textual inversion of diffusers saves them: one vector, or several, under the token's name."""
    import folder_paths
    from safetensors.torch import save_file

    folder = Path(folder_paths.get_folder_paths("embeddings")[0])
    folder.mkdir(parents=True, exist_ok=True)
    width = run("MedicalAttributePrompts", clip=demo[1], domain=demo[3])[0][0][0].shape[-1]
    vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    files = {"fits": vectors, "other": torch.zeros(1, width + 8)}
    try:
        for name, tensor in files.items():
            save_file({"<x>": tensor}, folder / f"{name}.safetensors")
        plain = run("MedicalAttributePrompts", clip=demo[1], domain=demo[3], neutral_prompt="a chest (MEL)")
        inputs = {"clip": demo[1], "domain": demo[3]}
        with_it = run("MedicalAttributePrompts", **inputs, neutral_prompt="a chest (MEL) embedding:fits")
        assert (with_it[0][0][0] - plain[0][0][0]).abs().max() > 1e-2
        with pytest.raises(ValueError, match=f"an embedding of width {width + 8}, .* is {width}; take one"):
            run("MedicalAttributePrompts", **inputs, negative_prompt="bad embedding:other")
    finally:
        for name in files:
            (folder / f"{name}.safetensors").unlink()


def test_named_conditionings_chain(run, prompts):
    neutral = prompts[0]
    first = run("AttributeConditioning", conditioning=neutral, name="a", colour="#010203", labels="x, y")[0]
    both = run("AttributeConditioning", conditioning=neutral, name="b", others=first)[0]
    assert [(item.name, item.labels) for item in both.attributes] == [("a", ("x", "y")), ("b", ("b",))]
    for inputs, fault in (
        ({"name": " "}, "name"),
        ({"name": "c", "colour": "red"}, "colour: 'red'"),
        ({"name": "a", "others": first}, "twice"),
    ):
        with pytest.raises(ValueError, match=fault):
            run("AttributeConditioning", conditioning=neutral, **inputs)

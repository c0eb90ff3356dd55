"""What does not belong into a socket is refused in a sentence, in every node."""

import dataclasses

import pytest
import torch

STEPS = {"steps": 4, "swap_steps": "2", "width": 64, "height": 64}
WRONG = {"a text": "x", "a number": 7, "an object": object(), "a tensor": torch.zeros(3), "nothing": None}


@pytest.fixture(scope="module")
def belonging(pack, run, demo, prompts, traverse):
    """What belongs into a socket, by its type."""
    trajectory = traverse(**STEPS)
    source = pack.medtraverse.medical_image.MedicalSource("PNG", 64, 64, True, 8)
    return {
        "MODEL": demo[0],
        "CLIP": demo[1],
        "VAE": demo[2],
        "CONDITIONING": prompts[0],
        "LATENT": {"samples": trajectory.latents},
        "IMAGE": torch.zeros(len(trajectory.latents), 64, 64, 3),
        "MASK": torch.zeros(1, 64, 64),
        "MEDTRAVERSE_START": run(
            "ProjectToLatent",
            model=demo[0],
            vae=demo[2],
            images=torch.zeros(1, 64, 64, 3),
            neutral=prompts[0],
        )[0],
        "MEDTRAVERSE_SOURCE": (source,),
        "MEDTRAVERSE_TRAJECTORY": trajectory,
        "MEDTRAVERSE_DOMAIN": demo[3],
        "MEDTRAVERSE_ATTRIBUTES": prompts[2],
        "MEDTRAVERSE_CLASSIFIER": run("MedicalClassifierLoader")[0],
        "MEDTRAVERSE_FIGURE": run("LatentDirectionCosine", trajectory=trajectory)[3],
    }


def sockets_of(node):
    """Name and type of every input of a node that takes an object."""
    declared = node.INPUT_TYPES()
    inputs = {**declared.get("required", {}), **declared.get("optional", {})}
    widgets = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
    return {
        name: kind
        for name, (kind, *_) in inputs.items()
        if isinstance(kind, str) and not widgets & set(kind.split(","))
    }


def test_every_node_refuses_what_does_not_belong(run, node_classes, belonging):
    tried = set()
    for node_id, node in node_classes.items():
        sockets = sockets_of(node)
        optional = node.INPUT_TYPES().get("optional", {})
        good = {name: belonging[kind.split(",")[0]] for name, kind in sockets.items()}
        for name, kind in sockets.items():
            for what, wrong in WRONG.items():
                if wrong is None and name in optional:
                    continue
                with pytest.raises(ValueError, match=f"^{name}: ") as caught:
                    run(node_id, **{**good, name: wrong})
                message = str(caught.value)
                assert " is no " in message and "; wire the output of " in message, (node_id, what, message)
            tried |= set(kind.split(","))
    assert tried >= set(belonging) - {"VAE"}


def test_the_message_says_what_stands_there(run, belonging):
    sentence = "^trajectory: 'x' is no trajectory; wire the output of Prompt Swap KSampler.$"
    with pytest.raises(ValueError, match=sentence):
        run("TrajectorySelect", trajectory="x")
    with pytest.raises(
        ValueError, match="^source: an object of type set is no trajectory and no LATENT; wire"
    ):
        run("BezierLatentInterpolate", source={1})


def test_a_schema_has_the_comforts_of_this_version_only(node_classes):
    from comfy_api.latest import io

    known = {field.name for field in dataclasses.fields(io.Schema)}
    schemas = {node_id: node.GET_SCHEMA() for node_id, node in node_classes.items()}
    if "search_aliases" in known:
        assert all(schema.search_aliases for schema in schemas.values())
        assert "counterfactual" in schemas["PromptSwapKSampler"].search_aliases
    if "has_intermediate_output" in known:
        assert schemas["PromptSwapKSampler"].has_intermediate_output
    if "essentials_category" in known:
        assert schemas["CFRTEvaluator"].essentials_category == "Medical"


def test_an_unknown_field_of_a_schema_is_an_error(pack):
    import importlib

    with pytest.raises(TypeError):
        importlib.import_module(f"{pack.__name__}.nodes.schema").schema(node_id="x", nonsense=1)

"""ComfyUI importable, on the CPU, and the pack imported as ComfyUI imports it. The pack's
root stays last on sys.path.
"""

import asyncio
import atexit
import importlib.util
import shutil
import sys
import tempfile

import pytest

from launcher.comfyui import PACK, installation, prepare_base

_base = tempfile.mkdtemp(prefix="medtraverse-nodes-")
atexit.register(shutil.rmtree, _base, ignore_errors=True)
prepare_base(_base)

sys.path.insert(0, str(installation().folder))
# Before anything else of comfy: model_management looks for a GPU, and folder_paths for
# its folders, when imported.
import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True
comfy.cli_args.args.base_directory = _base
import torch  # noqa: E402


@pytest.fixture(scope="session")
def pack():
    """The pack as a module. Its library is `pack.medtraverse`, whose classes are not those of a
    plain `import medtraverse`.
    """
    spec = importlib.util.spec_from_file_location(
        "medtraverse_pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def node_classes(pack):
    """Node id to class, by way of `comfy_entrypoint` as ComfyUI goes."""

    async def collect():
        return await (await pack.comfy_entrypoint()).get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(collect())}


class Nodes:
    """Calls nodes by id, as ComfyUI does: missing inputs take the schema's default."""

    def __init__(self, classes):
        self.classes = classes

    def __call__(self, node_id, **inputs):
        node = self.classes[node_id]
        for item in node.GET_SCHEMA().inputs:
            default = getattr(item, "default", None)
            if item.id not in inputs and not item.optional and default is not None:
                inputs[item.id] = default
        return node.EXECUTE_NORMALIZED(**inputs)


@pytest.fixture(scope="session")
def run(node_classes):
    """``run("NodeId", input=value)`` executes a node and returns its NodeOutput."""
    with torch.inference_mode():
        yield Nodes(node_classes)


@pytest.fixture(scope="session")
def demo(run):
    """The shipped model: MODEL, CLIP, VAE and domain, for CheXpert."""
    return run("MedicalCheckpointLoader", domain="CheXpert").args


@pytest.fixture(scope="session")
def prompts(run, demo):
    """Neutral, negative and attribute conditionings of the demo model."""
    return run("MedicalAttributePrompts", clip=demo[1], domain=demo[3]).args


@pytest.fixture(scope="session")
def traverse(run, demo, prompts):
    """``traverse(**inputs)`` runs PromptSwapKSampler on the demo model and returns its trajectory."""

    def call(**inputs):
        neutral, negative, attributes, _ = prompts
        return run(
            "PromptSwapKSampler",
            **{
                "model": demo[0],
                "neutral": neutral,
                "negative": negative,
                "attributes": attributes,
                **inputs,
            },
        )[1]

    return call


@pytest.fixture(scope="session")
def pipeline(pack):
    """The reference: diffusers' pipeline and DDIM scheduler on the shipped model, in float32."""
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        pack.nodes.sources.DEMO_WEIGHTS / "phantom-sd", torch_dtype=torch.float32, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe

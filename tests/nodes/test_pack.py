import importlib.util
import subprocess
import sys

import comfy.model_management

import nodes
from launcher.comfyui import PACK, installation


def test_the_pack_is_imported_without_comfyui():
    """Tools and test runners import the root `__init__.py` where no ComfyUI is."""
    code = f"""if True:
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("pack", {str(PACK / "__init__.py")!r})
        module = importlib.util.module_from_spec(spec)
        sys.modules["pack"] = module
        spec.loader.exec_module(module)
        assert callable(module.comfy_entrypoint)
        assert not {{"torch", "comfy", "nodes"}} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACK.parent)


def test_core_keeps_its_own_nodes_module(pack):
    assert nodes.__file__ == str(installation().folder / "nodes.py")
    assert pack.__file__ == str(PACK / "__init__.py")


def test_computes_on_the_cpu(pack):
    assert comfy.model_management.get_torch_device().type == "cpu"


def test_every_node_has_a_schema_of_its_own(node_classes):
    assert len(node_classes) >= 9
    for node_id, node in node_classes.items():
        assert node.GET_SCHEMA().node_id == node_id
        assert importlib.util.find_spec(node.__module__)

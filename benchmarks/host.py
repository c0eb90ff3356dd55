"""ComfyUI and the pack inside this process, the models of both sides on the same weights, and counters."""

import asyncio
import contextlib
import importlib.util
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from launcher.comfyui import PACK, installation, prepare_base

DEMO = PACK / "demo" / "weights" / "phantom-sd"


@dataclass
class Host:
    """The pack's node classes, the models as ComfyUI holds them, and diffusers' pipeline on their weights."""

    nodes: dict
    model: object
    clip: object
    vae: object
    domain: object
    pipe: object
    device: object
    dtype: object
    latent: tuple
    attributes: list = field(default_factory=list)

    def call(self, node_id, **inputs):
        """Execute a node; inputs that are not given take the schema's default."""
        node = self.nodes[node_id]
        defaults = {
            item.id: item.default
            for item in node.GET_SCHEMA().inputs
            if getattr(item, "default", None) is not None
        }
        return node.EXECUTE_NORMALIZED(**{**defaults, **inputs}).args


def start(folder=DEMO, cpu=True, size=None):
    """Return a Host over a diffusers folder.

    ``size`` is the image side in pixels, None for the model's own.
    """
    sys.path.insert(0, str(installation().folder))
    arguments, sys.argv = sys.argv, sys.argv[:1]
    import comfy.cli_args

    sys.argv = arguments
    base = tempfile.mkdtemp(prefix="medtraverse-benchmark-")
    comfy.cli_args.args.cpu = cpu
    comfy.cli_args.args.base_directory = str(prepare_base(base))
    import comfy.model_management
    import comfy.utils
    import torch

    torch.set_grad_enabled(False)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    spec = importlib.util.spec_from_file_location(
        "medtraverse_pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    pack = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)

    async def collect():
        return await (await pack.comfy_entrypoint()).get_node_list()

    nodes = {node.GET_SCHEMA().node_id: node for node in asyncio.run(collect())}
    sources = pack.nodes.sources
    listed = sources.checkpoint_paths
    sources.checkpoint_paths = lambda: {**listed(), sources.DEMO_MODEL: Path(folder)}
    model, clip, vae, domain = (
        nodes["MedicalCheckpointLoader"].execute(sources.DEMO_MODEL, sources.FROM_CHECKPOINT, "CheXpert").args
    )
    device, dtype = comfy.model_management.get_torch_device(), model.model_dtype()

    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, safety_checker=None).to(device)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    side = (size or domain.size) // 8
    return Host(nodes, model, clip, vae, domain, pipe, device, dtype, (4, side, side))


class Counter:
    """Rows and calls of a module, by a hook on its forward."""

    def __init__(self, module):
        self.module, self.rows, self.calls = module, 0, 0

    def __enter__(self):
        self.handle = self.module.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.handle.remove()

    def _count(self, module, args, kwargs):
        self.rows += len(args[0] if args else kwargs["sample"])
        self.calls += 1


@contextlib.contextmanager
def peak_memory(device):
    """Yield a dict whose ``bytes`` becomes the peak beyond the start.

    Allocated memory on CUDA, resident memory of the process on a CPU.
    """
    import torch

    peak = {"bytes": 0}
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak["bytes"] = torch.cuda.max_memory_allocated() - before
        return
    import psutil

    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch():
        while not done.wait(0.02):
            peak["bytes"] = max(peak["bytes"], process.memory_info().rss - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def matmul_rate(device, dtype, side=None):
    """Return the measured rate of a large matrix product, in operations per second: median of seven."""
    import torch

    side = side or (8192 if device.type == "cuda" else 1536)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(9):
        begun = _now(device)
        a @ b
        seconds.append(_now(device) - begun)
    return 2 * side**3 / sorted(seconds[2:])[3]


def unet_operations(host):
    """Return the floating-point operations of one U-Net row, counted by PyTorch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    unet = host.pipe.unet
    text = torch.zeros(1, 77, unet.config.cross_attention_dim, device=host.device, dtype=host.dtype)
    with FlopCounterMode(display=False) as counter:
        unet(torch.zeros(1, *host.latent, device=host.device, dtype=host.dtype), 1, text)
    return counter.get_total_flops()


def timed(function, device):
    """Return ``(result, seconds)``."""
    begun = _now(device)
    result = function()
    return result, _now(device) - begun


def _now(device):
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()

"""ComfyUI and the pack inside this process, the models of both sides on the same weights, and counters."""

import asyncio
import atexit
import functools
import importlib.util
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

from launcher.comfyui import PACK, installation, prepare_base
from medtraverse.domain import Domain

_Result = TypeVar("_Result")


@dataclass
class Host:
    """The models as ComfyUI holds them, and diffusers' pipeline on their weights.

    ``latent`` is the shape of a latent, [C, h, w].
    """

    model: Any
    clip: Any
    vae: Any
    domain: Domain
    pipe: Any
    device: torch.device
    dtype: torch.dtype
    latent: tuple[int, int, int]


@functools.cache
def start(folder: Path, cpu: bool, size: int | None = None) -> Host:
    """Return a Host over a diffusers folder, once for a process and its arguments.

    ``size`` is the image side in pixels, None for the model's own. ComfyUI's folders are temporary and go at
    exit.
    """
    sys.path.insert(0, str(installation().folder))
    arguments, sys.argv = sys.argv, sys.argv[:1]
    import comfy.cli_args

    sys.argv = arguments
    base = tempfile.mkdtemp(prefix="medtraverse-benchmark-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    comfy.cli_args.args.cpu = cpu
    comfy.cli_args.args.base_directory = str(prepare_base(base))
    import comfy.model_management
    import comfy.utils

    torch.set_grad_enabled(False)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    pack = _pack()
    nodes = {node.GET_SCHEMA().node_id: node for node in asyncio.run(_nodes(pack))}
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
    return Host(model, clip, vae, domain, pipe, device, dtype, (4, side, side))


def _pack() -> ModuleType:
    """Import the checkout as a package, from which its nodes import relatively."""
    spec = importlib.util.spec_from_file_location(
        "medtraverse_pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None and spec.loader is not None
    pack = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return pack


async def _nodes(pack: ModuleType) -> list[Any]:
    extension = await pack.comfy_entrypoint()
    nodes: list[Any] = await extension.get_node_list()
    return nodes


class Counter:
    """Rows and calls of a module, by a hook on its forward."""

    def __init__(self, module: torch.nn.Module):
        self.module, self.rows, self.calls = module, 0, 0

    def __enter__(self) -> "Counter":
        self.handle = self.module.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _count(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.rows += len(args[0] if args else kwargs["sample"])
        self.calls += 1


class Peak:
    """Peak of memory in ``bytes`` beyond the start of a `with` block, known at its end.

    Allocated memory on CUDA, resident memory of the process on a CPU.
    """

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __enter__(self) -> "Peak":
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self.before, self.done = _resident(), threading.Event()
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated() - self.before
        else:
            self.done.set()
            self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(0.02):
            self.bytes = max(self.bytes, _resident() - self.before)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the measured rate of a large matrix product, in operations per second: median of seven."""
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = [timed(lambda: a @ b, device)[1] for _ in range(9)]
    return float(2 * side**3 / sorted(seconds[2:])[3])


def unet_operations(host: Host) -> int:
    """Return the floating-point operations of one U-Net row, counted by PyTorch."""
    from torch.utils.flop_counter import FlopCounterMode

    unet = host.pipe.unet
    text = torch.zeros(1, 77, unet.config.cross_attention_dim, device=host.device, dtype=host.dtype)
    with FlopCounterMode(display=False) as counter:
        unet(torch.zeros(1, *host.latent, device=host.device, dtype=host.dtype), 1, text)
    return int(counter.get_total_flops())


def timed(function: Callable[[], _Result], device: torch.device) -> tuple[_Result, float]:
    """Return ``(result, seconds)``."""
    begun = _now(device)
    result = function()
    return result, _now(device) - begun


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()

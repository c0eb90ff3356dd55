"""Stable Diffusion 1.5 and 2.1 at full size, with random weights, loaded and sampled on a live ComfyUI.

    python run.py python -m benchmarks.full_size --model sd21

diffusers writes the folder in fp16 (2 to 3 GB, deleted afterwards). A server loads it by Load Medical
Checkpoint and samples a short traversal at a small size. The same steps are then done by a plain loop of
diffusers, in float32. With ``--single-file`` core saves the model as one file instead, which is loaded
without a word on heads and must give the same latents.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sd15 import write_random_sd15

if TYPE_CHECKING:
    from torch import Tensor

NEUTRAL, ATTRIBUTE = "50 year old female. Normal chest radiograph.", "50 year old female. Large effusion."
STEPS, SWAPS, SIDE, SEED, CFG, SCALE = 4, (2, 1, 0), 64, 7, 3.0, 0.18215


def write_random_sd21(folder: Path) -> Path:
    """Write Stable Diffusion 2.1 (768 pixels, v-prediction) of random weights and return its folder."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from launcher.comfyui import installation

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=96,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
        upcast_attention=True,
    ).half()
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=768,
    ).half()
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            projection_dim=512,
            hidden_act="gelu",
            eos_token_id=2,
        )
    ).half()
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    place = installation().folder / "comfy" / "sd1_tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(place, pad_token="!", model_max_length=77)
    StableDiffusionPipeline(
        vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    ).save_pretrained(folder)
    return folder


WRITERS = {"sd15": write_random_sd15, "sd21": write_random_sd21}


class Graph(dict[str, Any]):
    """A graph in API format; ``add`` returns a function from output slot to link."""

    def add(self, class_type: str, **inputs: Any) -> Callable[[int], list[Any]]:
        """Add a node."""
        name = str(len(self) + 1)
        self[name] = {"class_type": class_type, "inputs": inputs}
        return lambda slot: [name, slot]

    def traversal(self, checkpoint: str, prefix: str) -> Callable[[int], list[Any]]:
        """Add a loader, a short traversal, and what saves its latents; return the loader."""
        loaded = self.add(
            "MedicalCheckpointLoader", checkpoint=checkpoint, unet="from checkpoint", domain="CheXpert"
        )
        prompts = self.add(
            "MedicalAttributePrompts",
            clip=loaded(1),
            domain=loaded(3),
            neutral="auto",
            attributes="",
            extra_attributes=f"effusion = {ATTRIBUTE}",
            neutral_prompt=NEUTRAL,
            negative_prompt="",
        )
        sampled = self.add(
            "PromptSwapKSampler",
            model=loaded(0),
            neutral=prompts(0),
            negative=prompts(1),
            attributes=prompts(2),
            width=SIDE,
            height=SIDE,
            seed=SEED,
            patients=1,
            steps=STEPS,
            cfg=CFG,
            sampler="ddim",
            scheduler="diffusers_ddim",
            swap_steps=",".join(map(str, SWAPS)),
            noise="cpu",
            rows_per_call=0,
            cache_mb=0,
        )
        self.add("SaveLatent", samples=sampled(0), filename_prefix=prefix)
        images = self.add("VAEDecode", samples=sampled(0), vae=loaded(2))
        self.add("PreviewImage", images=images(0))
        return loaded


def reference(folder: Path) -> Tensor:
    """Return the latents [rows, 4, h, w] of a plain loop of diffusers, neutral first, in diffusers' scale."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    negative, neutral, attribute = (
        pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("", NEUTRAL, ATTRIBUTE)
    )
    rows = 1 + len(SWAPS)
    noise = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(SEED))
    x = noise.repeat(rows, 1, 1, 1)
    scheduler.set_timesteps(STEPS)
    with torch.inference_mode():
        for step, timestep in enumerate(scheduler.timesteps):
            prompts = [neutral, *(neutral if step <= swap else attribute for swap in SWAPS)]
            both = pipe.unet(torch.cat([x, x]), timestep, torch.cat([negative] * rows + prompts)).sample
            unconditional, conditional = both.chunk(2)
            guided = unconditional + CFG * (conditional - unconditional)
            x = scheduler.step(guided, timestep, x).prev_sample
    return x


def peak_memory(pid: int) -> float | None:
    """Return the most memory that a process has held, in GB; None where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return round(int(status.split("VmHWM:")[1].split()[0]) / 2**20, 1)


def measure(model: str, single_file: bool) -> dict[str, Any]:
    """Return what was measured of a model, as a dict."""
    import psutil
    import torch
    from safetensors.torch import load_file

    from launcher.comfyui import start_server
    from medtraverse.remote.client import Client

    base = Path(tempfile.mkdtemp(prefix="medtraverse-full-size-"))
    try:
        started = time.monotonic()
        folder = WRITERS[model](base / "models" / "diffusers" / f"{model}-cxr")
        gc.collect()
        report: dict[str, Any] = {"model": model, "writing_s": round(time.monotonic() - started)}
        files = [file for file in folder.rglob("*") if file.suffix in (".safetensors", ".bin")]
        report["size_gb"] = round(sum(file.stat().st_size for file in files) / 1e9, 2)
        with start_server(base=base, log_path=base / "server.log", cpu=True, timeout=600) as url:
            client = Client(url)
            graph = Graph()
            loaded = graph.traversal(f"diffusers/{model}-cxr", "folder")
            if single_file:
                graph.add(
                    "CheckpointSave", model=loaded(0), clip=loaded(1), vae=loaded(2), filename_prefix="whole"
                )
            started = time.monotonic()
            client.run(graph)
            report["loading_and_sampling_s"] = round(time.monotonic() - started)
            if single_file:
                (whole,) = (base / "output").glob("whole*.safetensors")
                checkpoints = base / "models" / "checkpoints"
                checkpoints.mkdir(exist_ok=True)
                shutil.move(whole, checkpoints / "whole-cxr.safetensors")
                graph = Graph()
                graph.traversal("whole-cxr.safetensors", "single")
                started = time.monotonic()
                client.run(graph)
                report["single_file_s"] = round(time.monotonic() - started)
            servers = [
                child
                for child in psutil.Process().children(recursive=True)
                if any(word.endswith("main.py") for word in child.cmdline())
            ]
            report["peak_memory_gb"] = peak_memory(servers[0].pid) if servers else None
        ours = {
            file.name.split("_")[0]: load_file(file)["latent_tensor"] * SCALE
            for file in (base / "output").glob("*.latent")
        }
        wanted = ours["folder"] if single_file else reference(folder)
        report["largest_latent"] = wanted.abs().max().item()
        for name, latents in ours.items():
            report[f"difference_{name}"] = (latents - wanted).abs().max().item()
        report["least_change_by_prompt"] = (wanted[1:] - wanted[:1]).abs().amax((1, 2, 3)).min().item()
        report["finite"] = all(bool(torch.isfinite(latents).all()) for latents in ours.values())
        return report
    finally:
        shutil.rmtree(base, ignore_errors=True)


def main() -> None:
    """Measure, print as JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", choices=sorted(WRITERS), required=True)
    parser.add_argument("--single-file", action="store_true", help="core saves one file, which is loaded too")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.model, arguments.single_file), indent=2))


if __name__ == "__main__":
    main()

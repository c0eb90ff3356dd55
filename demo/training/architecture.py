"""Stable Diffusion 1's architecture, scaled down: the parts of the demo model and their diffusers folder.

Channels stay multiples of 32 (GroupNorm has 32 groups) and the VAE keeps its four levels, so that everything
which loads SD 1.x loads this.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "demo" / "weights" / "phantom-sd"
SCALING = 0.18215
LATENT = 16
TEXT_WIDTH = 64
TOKENS = 77
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
Network = TypeVar("Network", bound=torch.nn.Module)


def build_vae() -> AutoencoderKL:
    """AutoencoderKL, 128x128x3 to 16x16x4."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=LATENT * 8,
        scaling_factor=SCALING,
    )


def build_unet() -> UNet2DConditionModel:
    """Noise predictor on 4x16x16 latents.

    ``attention_head_dim`` is the number of heads, as in SD 1's own config.

    9.5 MB in fp16, so that the base's and three fine-tuned ones stay under 60 MB with all else. Width falls
    only where most of the weights are, below 16x16: 0.60 GFLOP a row by torch's FlopCounterMode. Measured
    beside it: (64, 128, 192) 17.4 MB and 0.88; (64, 64, 96) in two layers a block, as in SD 1, 8.4 MB and
    0.69; (96, 96, 96) in one, 9.5 MB and 0.93; (64, 96, 96) in two, 11.0 MB and 0.87.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        layers_per_block=1,
        block_out_channels=(64, 96, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def build_text_encoder() -> CLIPTextModel:
    """CLIPTextModel of 2 layers, 64 wide, over CLIP's own vocabulary."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            max_position_embeddings=TOKENS,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=TEXT_WIDTH,
            hidden_act="quick_gelu",
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )


def build_scheduler() -> DDIMScheduler:
    """The paper's DDIM: scaled-linear betas, leading spacing, last step at alpha-bar 0 of the table."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )


def write_tokenizer(folder: Path) -> None:
    """Write CLIP's BPE tokenizer, from the shipped weights or from ComfyUI.

    ComfyUI's copy claims 8192 tokens where the model has 77.
    """
    sources = [WEIGHTS / "tokenizer", ROOT / ".comfyui" / "comfy" / "sd1_tokenizer"]
    source = next((s for s in sources if (s / "merges.txt").exists()), None)
    if source is None:
        raise FileNotFoundError(
            f"vocabulary: CLIP's is in neither {sources[0]} nor {sources[1]}; "
            "check out the weights or set up ComfyUI."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if source.resolve() == folder.resolve():
        return
    for name in _TOKENIZER_FILES:
        shutil.copyfile(source / name, folder / name)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(cache: Path) -> CLIPTokenizer:
    """CLIPTokenizer over the files that `write_tokenizer` leaves in `cache`."""
    from transformers import CLIPTokenizer

    write_tokenizer(cache / "tokenizer")
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(cache / "tokenizer")
    return tokenizer


def half_precision(name: str, part: Network) -> Network:
    """The network in fp16, in place.

    Raises ValueError that names the part if a weight is not finite there.
    """
    part = part.to(torch.float16)
    bad = [key for key, value in part.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"{name}: {bad[0]} is not finite in fp16; train with a lower learning rate.")
    return part


def write_folder(
    folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel
) -> None:
    """Save a diffusers pipeline folder in safetensors fp16.

    Raises
    ------
    ValueError
        If a weight is not finite in fp16.
    """
    parts = {"vae": vae, "unet": unet, "text_encoder": text_encoder}
    for name, part in parts.items():
        part = half_precision(name, part)
        part.save_pretrained(folder / name, safe_serialization=True)
        for file in (folder / name).glob("*.safetensors"):
            file.chmod(0o644)
    write_tokenizer(folder / "tokenizer")
    build_scheduler().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.30.0",
        "requires_safety_checker": False,
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

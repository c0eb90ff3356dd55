"""The model that a fine-tuning begins with: a diffusers folder, looked at before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import read_unet, sampling_settings, weight_files
from ..digest import sha256_of

PARTS = ("unet", "vae", "text_encoder")


@dataclass(frozen=True)
class Base:
    """Facts of a base's files.

    Attributes
    ----------
    folder : Path
    configs : dict of str to dict
        Of ``unet``, ``vae``, ``text_encoder`` and ``scheduler``.
    sha256 : dict of str to str
        Of each weight file, by its place in the folder.
    size : int
        Side, in pixels, that the U-Net was trained at.
    factor : int
        Pixels a side of one latent.
    scaling : float
        By which the VAE's latents are multiplied for the U-Net.
    prediction : str
        ``epsilon`` or ``v_prediction``.
    """

    folder: Path
    configs: dict[str, dict[str, Any]]
    sha256: dict[str, str]
    size: int
    factor: int
    scaling: float
    prediction: str

    @property
    def latent_channels(self) -> int:
        """Of the VAE and the U-Net."""
        return int(self.configs["unet"].get("in_channels", 4))

    @property
    def text_width(self) -> int:
        """Of an embedding."""
        return int(self.configs["text_encoder"]["hidden_size"])

    def digest(self, part: str) -> str:
        """Return the digests of a part's files as one text."""
        return ",".join(value for name, value in sorted(self.sha256.items()) if name.startswith(f"{part}/"))

    def check_size(self, size: int) -> None:
        """Raise ValueError where images of a side cannot go through the U-Net."""
        step = self.factor * 2 ** (len(self.configs["unet"].get("block_out_channels", (0,) * 4)) - 1)
        if size % step:
            raise ValueError(
                f"size: {size} pixels do not fit the U-Net of {self.folder.name}; give a multiple of {step}."
            )

    def load(self, part: str) -> Any:
        """Return a part as diffusers' or transformers' module in float32: unet, vae or text_encoder."""
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        classes: dict[str, Any] = {
            "unet": UNet2DConditionModel,
            "vae": AutoencoderKL,
            "text_encoder": CLIPTextModel,
        }
        import torch

        variant = next(
            (name for name in ("fp16", "non_ema") if any(f".{name}." in file for file in self._files(part))),
            None,
        )
        from transformers.utils import logging

        # A bar for a file that is read at once.
        logging.disable_progress_bar()
        try:
            return classes[part].from_pretrained(
                self.folder / part, torch_dtype=torch.float32, variant=variant, local_files_only=True
            )
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"base: {self.folder.name}/{part} cannot be loaded ({reason}); save that part again."
            ) from error
        finally:
            logging.enable_progress_bar()

    def tokenizer(self) -> Any:
        """Return the tokenizer; it cuts where the text encoder ends, whatever its own config says."""
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)
        positions = int(self.configs["text_encoder"].get("max_position_embeddings", 77))
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
        return tokenizer

    def _files(self, part: str) -> list[str]:
        return [name for name in self.sha256 if name.startswith(f"{part}/")]


def read_base(folder: Path) -> Base:
    """Look at a base's files.

    Raises
    ------
    ValueError
        It is no diffusers folder of Stable Diffusion 1.x or 2.x from text, a part is missing, or its parts do
        not fit each other.
    """
    if folder.is_file():
        raise ValueError(
            f"base: {folder.name} is a single file; give a diffusers folder, which "
            "diffusers.StableDiffusionPipeline.from_single_file(…).save_pretrained(…) makes of it."
        )
    index = _json(folder / "model_index.json", "base")
    kind = index.get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ValueError(
            f"base: {folder.name} is of {kind or 'no known pipeline'}; give a diffusers folder of Stable "
            "Diffusion 1.x or 2.x from text, with model_index.json in it."
        )
    configs = {part: _json(folder / part / "config.json", "base") for part in PARTS}
    configs["scheduler"] = _json(folder / "scheduler" / "scheduler_config.json", "base")
    configs["text_encoder"] = configs["text_encoder"].get("text_config", configs["text_encoder"])
    if not (folder / "tokenizer").is_dir():
        raise ValueError(f"base: {folder.name} has no tokenizer; save that part again.")
    files = weight_files(folder)
    for part in PARTS:
        if not any(name.startswith(f"{part}/") for name in files):
            raise ValueError(f"base: {folder.name}/{part} holds no weights; save that part again.")
    unet, vae, text = (configs[part] for part in PARTS)
    prediction = sampling_settings(configs["scheduler"])[0]
    channels, latents = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latents:
        raise ValueError(
            f"base: the U-Net of {folder.name} takes {channels} channels and its VAE gives {latents}; give a "
            "text-to-image model, not one for inpainting or editing."
        )
    width, attended = text.get("hidden_size"), unet.get("cross_attention_dim", 1280)
    if width != attended:
        raise ValueError(
            f"base: the U-Net of {folder.name} attends to text of width {attended} and its text encoder "
            f"gives {width}; put the text encoder of its own training there."
        )
    factor = 2 ** (len(vae.get("block_out_channels", (64,))) - 1)
    side = unet.get("sample_size")
    return Base(
        folder,
        configs,
        {name: sha256_of(file) for name, file in files.items()},
        factor * side if isinstance(side, int) else 512,
        factor,
        float(vae.get("scaling_factor", 0.18215)),
        prediction,
    )


def lay_over(unet: Any, path: Path, base: Base) -> None:
    """Load the weights of a U-Net alone into a base's.

    Raises ValueError where it is no U-Net, or one of another shape.
    """
    weights, _ = read_unet(path)
    try:
        unet.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"unet: {path.name} does not fit the U-Net of {base.folder.name} ({reason}); "
            "give one that was fine-tuned from that base."
        ) from error


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{name}: {path} is not there ({error.strerror}); give a whole diffusers folder."
        ) from error
    except ValueError as error:
        raise ValueError(f"{name}: {path} is no JSON ({error}); save that part again.") from error
    return dict(record)

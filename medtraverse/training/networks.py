"""The networks that are trained: the whole U-Net or a LoRA of it, and the text encoder where asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..lora import renamed
from .base_model import Base, lay_over
from .settings import ADAMW_8BIT, BF16, FP16, FP32, LORA, Settings

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# Of a transformer's blocks, what is not attention.
FURTHER = ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
DTYPES = {FP32: torch.float32, BF16: torch.bfloat16, FP16: torch.float16}


class Denoiser(nn.Module):
    """U-Net and, where it is trained, text encoder: one module, so that processes keep both in step."""

    def __init__(self, unet: nn.Module, text: nn.Module | None):
        super().__init__()
        self.unet: Any = unet
        self.text: Any = text

    def forward(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Predict ε or v of noisy latents [B, C, h, w].

        `context` is embeddings, or ids of a trained encoder.
        """
        if self.text is not None:
            context = self.text(context).last_hidden_state
        predicted: Tensor = self.unet(noisy, timesteps, context).sample
        return predicted


def build_denoiser(settings: Settings, base: Base) -> Denoiser:
    """Load the networks, and say which of their weights are trained.

    Raises
    ------
    ValueError
        The weights cannot be loaded, are not finite, or the U-Net laid over the base is of another shape.
    """
    unet = base.load("unet")
    if settings.unet:
        lay_over(unet, Path(settings.unet), base)
    text = base.load("text_encoder") if settings.train_text_encoder else None
    broken = next((name for name, value in unet.named_parameters() if not bool(value.isfinite().all())), None)
    if broken is not None:
        raise ValueError(
            f"base: weight {broken} of the U-Net is not finite; give a base whose weights are whole."
        )
    if settings.method == LORA:
        layers = ATTENTION if settings.lora_layers == "attention" else ATTENTION + FURTHER
        for network, names in ((unet, layers), (text, TEXT_ATTENTION)):
            if network is not None:
                _add_lora(network, names, settings)
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        if text is not None:
            text.gradient_checkpointing_enable()
    # On a CPU it makes an update up to a third slower.
    if settings.channels_last and torch.cuda.is_available() and settings.device != "cpu":
        unet.to(memory_format=torch.channels_last)
    if settings.compile:
        unet.compile()
    unet.train()
    if text is not None:
        text.train()
    return Denoiser(unet, text)


def _add_lora(network: Any, layers: tuple[str, ...], settings: Settings) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    network.requires_grad_(False)
    # Frozen weights need no more than they are computed with; those of the adapter stay in float32.
    network.to(DTYPES[settings.precision])
    # PEFT's own function: the networks' add_adapter may ask for a PEFT that has not been released yet.
    inject_adapter_in_model(
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha or settings.rank,
            init_lora_weights="gaussian",
            target_modules=list(layers),
        ),
        network,
    )
    for value in network.parameters():
        if value.requires_grad:
            value.data = value.data.float()


def trainable(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that are trained, by name."""
    return {name: value for name, value in denoiser.named_parameters() if value.requires_grad}


def build_optimizer(settings: Settings, denoiser: Denoiser) -> torch.optim.Optimizer:
    """Return AdamW over the weights that are trained.

    Raises ValueError where bitsandbytes is asked for and is not there.
    """
    groups = [
        {"params": [value for value in network.parameters() if value.requires_grad], "lr": rate}
        for network, rate in (
            (denoiser.unet, settings.rate),
            (denoiser.text, settings.text_rate or settings.rate),
        )
        if network is not None
    ]
    options: dict[str, Any] = {
        "betas": (settings.beta1, settings.beta2),
        "weight_decay": settings.weight_decay,
        "eps": settings.epsilon,
    }
    if settings.optimizer == ADAMW_8BIT:
        try:
            from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]
        except ImportError as error:
            raise ValueError(
                f"optimizer: {ADAMW_8BIT} needs bitsandbytes ({error}); install it, or take adamw."
            ) from None
        optimizer: torch.optim.Optimizer = AdamW8bit(groups, **options)
        return optimizer
    # A fused step leaves out what overflowed by itself, and nobody could count it. Apple's GPUs are untried.
    apple = torch.backends.mps.is_available() and settings.device != "cpu"
    fused = settings.precision != FP16 and not apple
    return torch.optim.AdamW(groups, fused=fused, **options)


class Average:
    """Averaged weights, diffusers' `EMAModel`; nothing at all where none are wanted."""

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float):
        from diffusers.training_utils import EMAModel

        self.weights = weights
        self.model = EMAModel(list(weights.values()), decay=decay, foreach=True) if decay else None

    def update(self) -> None:
        """Take in the weights of one more update."""
        if self.model is not None:
            self.model.step(list(self.weights.values()))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The networks hold the averaged weights, if there are any, inside the block."""
        if self.model is None:
            yield
            return
        values = list(self.weights.values())
        self.model.store(values)
        self.model.copy_to(values)
        try:
            yield
        finally:
            self.model.restore(values)

    def state(self) -> dict[str, Any]:
        """Return what a continued run needs of it."""
        if self.model is None:
            return {}
        shadow = dict(zip(self.weights, self.model.shadow_params, strict=True))
        return {"updates": self.model.optimization_step, "weights": shadow}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        if self.model is None or not state:
            return
        self.model.optimization_step = int(state["updates"])
        self.model.shadow_params = [
            state["weights"][name].to(value.device) for name, value in self.weights.items()
        ]


def lora_weights(denoiser: Denoiser, settings: Settings) -> dict[str, Tensor]:
    """Return the LoRA under the keys that ComfyUI applies."""
    from peft import get_peft_model_state_dict

    alpha = settings.alpha or settings.rank
    state = {f"unet.{key}": value for key, value in get_peft_model_state_dict(denoiser.unet).items()}
    if denoiser.text is not None:
        for key, value in get_peft_model_state_dict(denoiser.text).items():
            # transformers 5 leaves out a prefix that core's text encoder has.
            bare = key.removeprefix("text_model.")
            state[f"text_encoder.text_model.{bare}"] = value
    scales = {"unet.lora_alpha": alpha, "text_encoder.lora_alpha": alpha}
    return renamed({key: value.detach().cpu() for key, value in state.items()}, scales)

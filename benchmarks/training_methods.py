"""Three ways through the same training, timed update by update: ours, diffusers' loop, and the U-Net alone.

Each takes a `Work` and returns a `Timing`. Each is called in a process of its own, so that its peak of memory
is its own.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLIP = 1.0
# What runs of ours write, below Work.out; who starts them removes it.
RUNS = "runs"


@dataclass(frozen=True)
class Work:
    """What is trained, alike for all.

    Attributes
    ----------
    base : str
        Diffusers folder.
    data : str
        Folder in CheXpert's layout.
    out : str
        Folder for runs and caches.
    size : int
        Side of the images, in pixels.
    batch, accumulation : int
        Images at a time, and such batches an update.
    updates, warm : int
        Updates that are timed, after those that are not.
    precision : str
        fp32, bf16 or fp16.
    cpu : bool
    workers : int
        That prepare batches, on a GPU.
    checkpointing : bool
        Gradient checkpointing.
    own_time : bool
        Take the processor's time that the process has used, not the clock's: on a CPU that others use too.
    """

    base: str
    data: str
    out: str
    size: int
    batch: int
    accumulation: int
    updates: int
    warm: int
    precision: str
    cpu: bool
    workers: int
    checkpointing: bool = False
    own_time: bool = False

    @property
    def images(self) -> int:
        """Images an update."""
        return self.batch * self.accumulation


@dataclass(frozen=True)
class Timing:
    """Median seconds of an update, bytes at the peak beyond the start, losses of the updates that were "
    "timed."""

    seconds: float
    peak: int
    losses: tuple[float, ...]


class Stopwatch:
    """Takes the time at the beginning of updates, the device's work done; the first ones are left out."""

    def __init__(self, work: Work):
        self.work, self.times = work, list[float]()
        self.begun = 0

    def __call__(self) -> None:
        """Note that an update begins, or that the last one is over."""
        self.begun += 1
        if self.begun > self.work.warm:
            if not self.work.cpu:
                import torch

                torch.cuda.synchronize()
            self.times.append(time.process_time() if self.work.own_time else time.perf_counter())

    @property
    def seconds(self) -> float:
        """Median of the timed updates."""
        return statistics.median(late - early for early, late in zip(self.times, self.times[1:]))


def ours(work: Work) -> Timing:
    """`python -m medtraverse train unet`, its latents and texts in the cache."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel  # noqa: F401
    from diffusers.optimization import get_scheduler  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    from benchmarks.host import Peak
    from medtraverse.data_sets import read
    from medtraverse.training.fine_tune import fine_tune
    from medtraverse.training.loop import Updates
    from medtraverse.training.settings import Settings

    update, watch = Updates.__call__, Stopwatch(work)

    def timed(self: Updates, step: int, batches: Iterator[dict[str, torch.Tensor]]) -> Any:
        watch()
        if watch.begun > work.warm + work.updates:
            measuring.close()  # the state that is written at the end is no part of a step
        return update(self, step, batches)

    # Processes of one run meet at a port, and each reads the log of the first.
    run = Path(work.out) / RUNS / (os.environ.get("MASTER_PORT") or str(os.getpid()))
    updates = work.warm + work.updates + 1
    settings = Settings(
        data=work.data,
        base=work.base,
        out=str(run),
        cache=str(Path(work.out) / "cache"),
        steps=updates,
        size=work.size,
        batch=work.batch,
        accumulation=work.accumulation,
        precision=work.precision,
        clip=CLIP,
        held_out=0.0,
        validate_every=0,
        save_every=10**9,
        workers=work.workers,
        device="cpu" if work.cpu else "auto",
        gradient_checkpointing=work.checkpointing,
    )
    Updates.__call__ = timed  # type: ignore[method-assign]
    read(work.data)  # what modules take is in memory before, as it is for the others
    peak, measuring = Peak(_device(work)), ExitStack()
    try:
        with measuring:
            measuring.enter_context(peak)
            fine_tune(settings, False, lambda line: None)
    finally:
        Updates.__call__ = update  # type: ignore[method-assign]
    lines = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    return Timing(watch.seconds, peak.bytes, tuple(losses[work.warm : work.warm + work.updates]))


def diffusers_loop(work: Work) -> Timing:
    """diffusers' examples/text_to_image/train_text_to_image.py, written anew from its documentation.

    What it does: images are opened, resized, cropped and normalised for every batch, captions are tokenised
    once; VAE and text encoder, frozen and in the precision of the computation, run inside the step; the U-Net
    trains under accelerate with AdamW and clipped gradients; the loss is read after every batch.
    """
    import torch
    from accelerate import Accelerator
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from diffusers.optimization import get_scheduler
    from PIL import Image
    from torch.nn import functional as F
    from torchvision import transforms
    from transformers import CLIPTextModel, CLIPTokenizer

    from benchmarks.host import Peak
    from medtraverse.data_sets import read

    accelerator = Accelerator(
        gradient_accumulation_steps=work.accumulation,
        mixed_precision={"fp32": "no"}.get(work.precision, work.precision),
        cpu=work.cpu or None,
    )
    device, dtype = accelerator.device, _dtype(work.precision)
    data, watch = read(work.data, held_out=0.0), Stopwatch(work)
    base = Path(work.base)
    with Peak(_device(work)) as peak:
        tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
        text = CLIPTextModel.from_pretrained(base / "text_encoder", torch_dtype=dtype).to(device)
        vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=dtype).to(device)
        unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32)
        noises = DDPMScheduler.from_pretrained(base / "scheduler")
        text.requires_grad_(False)
        vae.requires_grad_(False)
        unet.train()
        if work.checkpointing:
            unet.enable_gradient_checkpointing()
        picture = transforms.Compose(
            [
                transforms.Resize(work.size, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(work.size),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )
        ids = tokenizer(
            list(data.frame["caption"]),
            max_length=tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids

        class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
            def __len__(self) -> int:
                return len(data.frame)

            def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
                with Image.open(data.root / data.frame["file"].iloc[row]) as image:
                    return {"pixels": picture(image.convert("RGB")), "ids": ids[row]}

        loader = torch.utils.data.DataLoader(
            Rows(), work.batch, shuffle=True, drop_last=True, num_workers=0 if work.cpu else work.workers
        )
        optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, weight_decay=1e-2, eps=1e-8)
        schedule = get_scheduler("constant", optimizer)
        unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)
        losses, total, micro = [], 0.0, 0
        while watch.begun <= work.warm + work.updates:
            for batch in loader:
                if micro % work.accumulation == 0:
                    watch()
                    if watch.begun > work.warm + work.updates:
                        break
                micro += 1
                with accelerator.accumulate(unet):
                    latents = vae.encode(batch["pixels"].to(dtype)).latent_dist.sample()
                    latents = latents * vae.config.scaling_factor
                    noise = torch.randn_like(latents)
                    timesteps = torch.randint(
                        0, noises.config.num_train_timesteps, (len(latents),), device=device
                    ).long()
                    noisy = noises.add_noise(latents, noise, timesteps)
                    context = text(batch["ids"], return_dict=False)[0]
                    wanted = noise
                    if noises.config.prediction_type == "v_prediction":
                        wanted = noises.get_velocity(latents, noise, timesteps)
                    predicted = unet(noisy, timesteps, context, return_dict=False)[0]
                    loss = F.mse_loss(predicted.float(), wanted.float(), reduction="mean")
                    total += accelerator.gather(loss.repeat(work.batch)).mean().item() / work.accumulation
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(unet.parameters(), CLIP)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                if micro % work.accumulation == 0:
                    losses.append(total)
                    total = 0.0
    return Timing(watch.seconds, peak.bytes, tuple(losses[work.warm :]))


def unet_alone(work: Work) -> Timing:
    """Forward and backward of the U-Net on what is already on the device, and nothing else."""
    import torch
    from diffusers import UNet2DConditionModel

    from benchmarks.host import Peak

    device, watch = _device(work), Stopwatch(work)
    with Peak(device) as peak:
        unet = UNet2DConditionModel.from_pretrained(Path(work.base) / "unet", torch_dtype=torch.float32)
        order = torch.contiguous_format if work.cpu else torch.channels_last  # the faster one
        unet = unet.to(device, memory_format=order).train()
        if work.checkpointing:
            unet.enable_gradient_checkpointing()
        side = work.size // 8
        noisy, noise = (torch.randn(work.batch, 4, side, side, device=device) for _ in range(2))
        timesteps = torch.randint(0, 1000, (work.batch,), device=device)
        context = torch.randn(work.batch, 77, unet.config.cross_attention_dim, device=device)
        for _ in range(work.warm + work.updates):
            watch()
            for _ in range(work.accumulation):
                with torch.autocast(device.type, _dtype(work.precision), enabled=work.precision != "fp32"):
                    predicted = unet(noisy, timesteps, context).sample
                (predicted.float() - noise).square().mean().backward()
            unet.zero_grad(set_to_none=True)
        watch()
    return Timing(watch.seconds, peak.bytes, ())


METHODS: dict[str, Callable[[Work], Timing]] = {
    "ours": ours,
    "diffusers": diffusers_loop,
    "unet": unet_alone,
}


def rates(work: Work) -> tuple[int, float]:
    """Return operations of training on one image, forward and backward, and those a second that are measured.

    The backward counts twice the forward.
    """
    import torch
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.host import matmul_rate

    device, dtype = _device(work), _dtype(work.precision)
    unet = UNet2DConditionModel.from_pretrained(Path(work.base) / "unet", torch_dtype=dtype).to(device)
    text = torch.zeros(1, 77, unet.config.cross_attention_dim, device=device, dtype=dtype)
    side = work.size // 8
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(torch.zeros(1, 4, side, side, device=device, dtype=dtype), 1, text)
    return 3 * int(counter.get_total_flops()), matmul_rate(device, dtype)


def _device(work: Work) -> Any:
    import torch

    return torch.device("cpu" if work.cpu else "cuda")


def _dtype(precision: str) -> Any:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

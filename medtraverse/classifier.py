"""The attribute classifiers that CFRT is measured with: EfficientNets in the paper's checkpoint format.

The paper (TehraniNasab, Kumar, Arbel 2025, arXiv 2503.23623) scores images with torchvision's
EfficientNet-B0, its head replaced by `Dropout(0.3)` and a linear layer with one logit per attribute, on 512 ×
512 inputs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .digest import sha256_of
from .weights import PYTORCH, SAFETENSORS, metadata_of, read_tensors

PAPER_INPUT_SIZE = 512
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What an EfficientNet-B4 holds at once: 144 channels at half the side in float32, before and after
# normalisation.
_BYTES_PER_PIXEL = 320
# Strides leave no trace in the weights; these are every EfficientNet's.
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EXPECTED = "torchvision's EfficientNet (B0 to B4, any width) with one linear layer as head"
_FIRST_KEY, _LAST_KEY = "features.0.0.weight", "features.8.0.weight"


class Classifier:
    """Multi-label image classifier. Made by `load_classifier`.

    Attributes
    ----------
    labels : tuple of str
        Attribute of each column of `predict`.
    input_size : int
        Side, in pixels, that images are resized to.
    sha256 : str
        Digest of the weight file; of several files, their digests joined by commas.
    module : torch.nn.Module
        Maps normalised images [N, 3, H, W] to logits [N, L].
    """

    def __init__(self, members: Sequence[nn.Module], labels: Sequence[str], input_size: int, sha256: str):
        self.module = _Panel(members).eval().requires_grad_(False)
        self.labels = tuple(labels)
        self.input_size = input_size
        self.sha256 = sha256

    def predict(
        self, images: Tensor, batch_size: int = 64, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Probability of every attribute in every image.

        Parameters
        ----------
        images : Tensor [N, H, W, 3]
            RGB in 0..1, any size.
        batch_size : int
            Images per forward pass; no effect on the result. Halved where memory runs out.
        progress : callable, optional
            Called with (images done, N) after each batch; may raise to cancel.

        Returns
        -------
        Tensor [N, L]
            float32 probabilities on the CPU, columns in the order of `labels`.

        Raises
        ------
        ValueError
            If `images` has another shape or type, is empty, not finite or outside 0..1, or `batch_size` is
            below 1.
        """
        return torch.sigmoid(self._run(self.module, images, batch_size, progress))

    def features(
        self, images: Tensor, batch_size: int = 64, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Pooled features [N, C] before the head, float32 on the CPU.

        Takes and raises what `predict` does.
        """
        return self._run(self.module.features, images, batch_size, progress)

    def _run(
        self,
        forward: Callable[[Tensor], Tensor],
        images: Tensor,
        batch_size: int,
        progress: Callable[[int, int], None] | None,
    ) -> Tensor:
        _check_images(images, batch_size)
        device = next(self.module.parameters()).device
        rows: list[Tensor] = []
        done = 0
        self.module.eval()
        # TF32 convolutions would make results depend on which kernel a batch size selects.
        flags = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        with torch.inference_mode(), flags, torch.autocast(device.type, enabled=False):
            while done < len(images):
                batch = images[done : done + batch_size].to(device=device, dtype=torch.float32)
                try:
                    made = forward(self._prepare(batch)).float().cpu()
                except RuntimeError as error:
                    if batch_size == 1 or not _out_of_memory(error):
                        raise
                    made = None
                # Retried out here: inside, the error's traceback would hold on to the tensors of the failed
                # call.
                if made is None:
                    batch_size = (min(batch_size, len(batch)) + 1) // 2
                    continue
                rows.append(made)
                done += len(made)
                if progress is not None:
                    progress(done, len(images))
        # Outside inference mode again: an ordinary tensor, which callers may do anything with.
        return torch.cat(rows)

    def memory(self, count: int, batch_size: int = 64) -> int:
        """Bytes that the judging of `count` images takes beside the weights, a generous estimate."""
        return min(count, batch_size) * self.input_size**2 * _BYTES_PER_PIXEL

    def _prepare(self, images: Tensor) -> Tensor:
        """Images [N, H, W, 3] in 0..1 → normalised network input [N, 3, S, S]."""
        images = images.permute(0, 3, 1, 2).contiguous()
        images = F.interpolate(images, size=(self.input_size,) * 2, mode="bilinear", antialias=True)
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        return (images - mean) / std


def load_classifier(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    labels: Sequence[str] | None = None,
    input_size: int | None = None,
    device: str | torch.device = "cpu",
) -> Classifier:
    """Load one classifier file, or several that each judge some of the attributes (the paper's CheXpert
    pair).

    Parameters
    ----------
    path : path or sequence of paths
        `.safetensors`, or `.pth`, `.pt`, `.ckpt`, `.bin` holding a state dict, bare or in a trainer's
        container. Prefixes of wrappers and the head's name do not matter. Width, depth and number of logits
        are read from the weights.
    labels : sequence of str, optional
        Attribute of each logit, over all files in order. Default: the files' metadata.
    input_size : int, optional
        Side in pixels. Default: the files' metadata, else the paper's 512.
    device : str or torch.device
        Where the network is put.

    Raises
    ------
    ValueError
        If a file is missing, unreadable or of another architecture, if no labels are known, if their number
        is not the number of logits, or if the files disagree.
    """
    paths = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(p) for p in path]
    if not paths:
        raise ValueError("classifier: no file is named; give at least one.")
    if isinstance(labels, str):
        raise ValueError(f"labels: {labels!r} is a text; give a list of names, one for each logit.")
    members, named, sizes, digests = [], [], {}, []
    for file in paths:
        state, metadata = _read(file)
        member = _network(file, state)
        members.append(member.to(device))
        named.append(metadata.get("labels"))
        sizes[file.name] = metadata.get("image_size", PAPER_INPUT_SIZE)
        digests.append(sha256_of(file))
    if input_size is None and len(set(sizes.values())) > 1:
        raise ValueError(f"input_size: the files name different sizes ({sizes}); give one for all.")
    size = input_size if input_size is not None else next(iter(sizes.values()))
    if isinstance(size, bool) or not isinstance(size, int) or size < 32:
        raise ValueError(f"input_size: {size!r} is no side in pixels; give a whole number, 32 or more.")
    names = ", ".join(file.name for file in paths)
    if labels is None:
        unnamed = next((file.name for file, group in zip(paths, named) if group is None), None)
        if unnamed is not None:
            raise ValueError(
                f"labels: {unnamed} does not say what its logits mean; give one name for each, in their "
                "order."
            )
        labels = [label for group in named for label in group or ()]
    logits = [len(member.get_parameter("classifier.1.weight")) for member in members]
    if len(labels) != sum(logits):
        raise ValueError(
            f"labels: {len(labels)} names ({', '.join(map(str, labels))}) for {sum(logits)} logits of "
            f"{names}; give one for each logit."
        )
    if not all(isinstance(label, str) and label.strip() for label in labels) or len(set(labels)) < len(
        labels
    ):
        raise ValueError(
            f"labels: {list(labels)!r} repeats a name or has an empty one; give different names."
        )
    return Classifier(members, labels, size, ",".join(digests))


class _Panel(nn.Module):
    """Networks side by side; their logits, and their features, are concatenated."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([member(inputs) for member in self.members], 1)

    def features(self, inputs: Tensor) -> Tensor:
        return torch.cat([_pooled(member, inputs) for member in self.members], 1)


def _pooled(network: nn.Module, inputs: Tensor) -> Tensor:
    pooled: Tensor = network.get_submodule("avgpool")(network.get_submodule("features")(inputs))
    return pooled.flatten(1)


def _out_of_memory(error: RuntimeError) -> bool:
    """CUDA has two exceptions for it, MPS and DirectML only the words."""
    return any(words in str(error).lower() for words in ("out of memory", "allocate memory"))


def _check_images(images: Tensor, batch_size: int) -> None:
    if (
        not isinstance(images, Tensor)
        or images.ndim != 4
        or images.shape[-1] != 3
        or not images.is_floating_point()
    ):
        found = (
            f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        )
        raise ValueError(
            f"images: {found} is no batch of pictures; give a floating-point tensor [N, height, width, 3] "
            "of RGB in 0..1."
        )
    if 0 in images.shape:
        raise ValueError(f"images: the batch is empty, shape {list(images.shape)}; give at least one image.")
    if not torch.isfinite(images).all():
        raise ValueError("images: there is NaN or infinity in them; give RGB in 0..1.")
    low, high = images.min().item(), images.max().item()
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(f"images: they range from {low:.4g} to {high:.4g}; give RGB in 0..1.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            f"batch_size: {batch_size!r} is no number of images; give a whole number, 1 or more."
        )


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict of a classifier file, keys as torchvision names them, and its decoded metadata."""
    if file.suffix.lower() not in (*SAFETENSORS, *PYTORCH):
        raise ValueError(
            f"classifier: {file.name} ends in {file.suffix or 'no suffix'!r}; give a .safetensors, .pth, "
            ".pt, .ckpt or .bin file."
        )
    return _bare(file, read_tensors(file, "classifier")), _decode(file, metadata_of(file))


def _bare(file: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys without what wrappers put before them (`module.`, `backbone.`, …), the head as `classifier.1`."""
    before = [key.removesuffix(_FIRST_KEY) for key in state if key.endswith(_FIRST_KEY)]
    if len(before) != 1:
        return state  # `_network` says what is there
    body = f"{before[0]}features."
    network = {
        f"features.{key.removeprefix(body)}": value for key, value in state.items() if key.startswith(body)
    }
    others = {key: value for key, value in state.items() if not key.startswith(body) and not _in_loss(key)}
    channels = network.get(_LAST_KEY, torch.empty(0)).shape[0]
    heads = [
        key for key, value in others.items() if key.endswith(".weight") and value.shape[1:] == (channels,)
    ]
    linear = [key for key, value in others.items() if value.ndim == 2]
    if heads and heads == linear:
        old = heads[0].removesuffix(".weight")
        for part in ("weight", "bias"):
            if f"{old}.{part}" in others:
                network[f"classifier.1.{part}"] = others.pop(f"{old}.{part}")
    elif linear:
        raise ValueError(
            f"classifier: {file.name} has {len(linear)} linear layers behind its features "
            f"({', '.join(linear[:3])}); {_EXPECTED} is read."
        )
    return network | {key.removeprefix(before[0]): value for key, value in others.items()}


def _in_loss(key: str) -> bool:
    """Trainers keep class weights and metrics beside the network."""
    return key.endswith("pos_weight") or key.split(".")[0] in ("criterion", "loss", "loss_fn", "metrics")


def _decode(file: Path, metadata: dict[str, str]) -> dict[str, Any]:
    decoded: dict[str, Any] = {}
    for key, kind, wanted in (("labels", list, '["hair", "ink"]'), ("image_size", int, "128")):
        if key in metadata:
            try:
                decoded[key] = json.loads(metadata[key])
            except json.JSONDecodeError:
                decoded[key] = None
            if not isinstance(decoded[key], kind):
                raise ValueError(
                    f"classifier: the metadata of {file.name} has {key} = {metadata[key]!r}; write JSON "
                    f"such as {wanted}."
                )
    return decoded


def _network(file: Path, state: dict[str, Tensor]) -> nn.Module:
    """EfficientNet whose blocks are read from the shapes in `state`, with those weights in float32."""
    try:
        network = _build(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        first = ", ".join(list(state)[:3])
        reason = f"no key {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"classifier: {file.name} is not an EfficientNet ({reason}; its keys begin with {first}); "
            f"{_EXPECTED} is read."
        ) from error
    expected = network.state_dict()
    missing, unmapped = [k for k in expected if k not in state], [k for k in state if k not in expected]
    if missing or unmapped:
        faults = [
            f"{len(keys)} keys {word} ({', '.join(keys[:3])})"
            for keys, word in ((missing, "missing"), (unmapped, "unmapped"))
            if keys
        ]
        raise ValueError(f"classifier: {file.name} does not fit, {'; '.join(faults)}; {_EXPECTED} is read.")
    wrong = [
        f"{k} {list(state[k].shape)}, not {list(v.shape)}"
        for k, v in expected.items()
        if state[k].shape != v.shape
    ]
    if wrong:
        raise ValueError(
            f"classifier: {file.name} does not fit, {'; '.join(wrong[:3])}; {_EXPECTED} is read."
        )
    network.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()})
    return network


def _build(state: dict[str, Tensor]) -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig  # type: ignore[import-untyped]

    stages = []
    for index, stride in enumerate(_STRIDES, 1):
        block = f"features.{index}.0.block."
        layers = {int(m[1]) for key in state if (m := re.match(rf"features\.{index}\.(\d+)\.", key))}
        parts = {int(m[1]) for key in state if (m := re.match(re.escape(block) + r"(\d+)\.", key))}
        if not layers or not parts:
            raise ValueError(f"no key starts with {block}")
        # An expansion by 1 leaves its convolution out: three parts instead of four.
        last, expands = max(parts), len(parts) == 4
        depthwise, project = state[f"{block}{last - 2}.0.weight"], state[f"{block}{last}.0.weight"]
        channels = state[f"{block}0.0.weight"].shape[1] if expands else depthwise.shape[0]
        stages.append(
            MBConvConfig(
                depthwise.shape[0] / channels,
                depthwise.shape[-1],
                stride,
                channels,
                project.shape[0],
                len(layers),
                1.0,
                1.0,
            )
        )
    head, final = state["classifier.1.weight"], state["features.8.0.weight"]
    if final.shape[0] >= 2048:
        raise ValueError("B5 and larger use another batch normalisation")
    network: nn.Module = EfficientNet(
        stages, dropout=0.3, num_classes=head.shape[0], last_channel=final.shape[0]
    )
    return network

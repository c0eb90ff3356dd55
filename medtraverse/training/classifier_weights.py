"""Weights of a classifier: those it begins with, its temperatures, and the file that says all of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..classifiers.architectures import place_of
from ..whole_file import write_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn


def begin_with(network: nn.Module, head: nn.Module, path: str | os.PathLike[str]) -> str:
    """Load weights of the same backbone into a network; its head stays as it is where the file's is another.

    Parameters
    ----------
    network, head : torch.nn.Module
        By `architectures.build`.
    path : path
        Safetensors, or PyTorch weights read with ``weights_only``.

    Returns
    -------
    str
        What was taken, in words.

    Raises
    ------
    ValueError
        The file's weights are not those of this backbone.
    """
    from ..classifiers.formats import INNER
    from ..classifiers.torchvision_state import at_root
    from ..weights import read_tensors, without_wrappers

    own, name = network.state_dict(), Path(path).name
    state = read_tensors(path, "init")
    if not own.keys() & state.keys():
        state = at_root(without_wrappers(state, INNER))
    place = place_of(network, head)
    heads = {key for key in own if key.startswith(f"{place}.")}
    same_head = all(key in state and state[key].shape == own[key].shape for key in heads)
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    wanted = own.keys() - counters - (set() if same_head else heads)
    wrong = [key for key in own if key in wanted and (key not in state or state[key].shape != own[key].shape)]
    if wrong:
        raise ValueError(
            f"init: {name} is not of this backbone, {len(wrong)} of {len(wanted)} weights are missing or "
            "of another "
            f"shape ({', '.join(wrong[:3])}); give weights of the same backbone."
        )
    network.load_state_dict({**own, **{key: state[key].to(own[key].dtype) for key in wanted}})
    return f"{len(wanted)} weights are {name}'s; the head is {'its too' if same_head else 'new'}"


def fold(
    state: Mapping[str, Tensor], place: str, temperatures: Sequence[float], shifts: Sequence[float]
) -> dict[str, Tensor]:
    """Put temperatures into the weights of the last layer: logits z become (z − shift) / T, exactly.

    Parameters
    ----------
    state : mapping of str to Tensor
        State dict of a network.
    place : str
        Name of its last layer, with a row a label.
    temperatures, shifts : sequence of float, L
        A shift is the logarithm of the weight that positives had in the loss: it takes the probability back
        to what it would be without.

    Raises
    ------
    ValueError
        A shift for a layer without bias.
    """
    import torch

    folded = dict(state)
    weight = folded[f"{place}.weight"]
    scale = torch.as_tensor(list(temperatures), dtype=torch.float64, device=weight.device)
    offsets = torch.as_tensor(list(shifts), dtype=torch.float64, device=weight.device)
    shaped = scale.view(-1, *[1] * (weight.ndim - 1))
    folded[f"{place}.weight"] = (weight.double() / shaped).to(weight.dtype)
    bias = folded.get(f"{place}.bias")
    if bias is not None:
        folded[f"{place}.bias"] = ((bias.double() - offsets) / scale).to(bias.dtype)
    elif offsets.any():
        raise ValueError("pos_weight: this backbone's last layer has no bias; leave pos_weight out.")
    return folded


def write_weights(
    state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str], half: bool = False
) -> None:
    """Write a state dict as safetensors, whole or not at all; `half` stores floating point as fp16."""
    from safetensors.torch import save

    tensors = {
        key: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in state.items()
    }
    # save_file makes files that their owner alone can read
    write_bytes(path, save(tensors, metadata=dict(metadata)))


def stored_temperatures(file: Path) -> list[float] | None:
    """Return the temperatures in a file's weights; None where it has none yet."""
    from ..weights import metadata_of

    text = metadata_of(file).get("temperature")
    return None if text is None else [float(value) for value in json.loads(text)]

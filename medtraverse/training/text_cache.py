"""Embeddings of captions by the frozen text encoder, once for each distinct caption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .shards import Shards, check_room, fill

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .base_model import Base

PIECE = 32
# Reports are each a caption of its own: more than this is kept in half precision.
MOST_IN_FULL = 1 << 30


def token_ids(tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:
    """Return the ids of captions, long [N, 77], padded and cut as the pipeline does."""
    ids: torch.Tensor = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return ids


def too_long(tokenizer: Any, captions: Sequence[str]) -> int:
    """Return how many captions have more tokens than the text encoder reads."""
    most = tokenizer.model_max_length
    # A token is at least one letter, so short captions need no look.
    long = [caption for caption in captions if len(caption) > most - 2]
    return sum(len(ids) > most for ids in tokenizer(long).input_ids) if long else 0


def embed_captions(
    cache: Path,
    captions: Sequence[str],
    base: Base,
    accelerator: Accelerator,
    progress: Callable[[int, int], None],
) -> Shards:
    """Embed captions, shared by all processes, or take what is there already.

    Parameters
    ----------
    cache : Path
    captions : sequence of str
        Each once.
    base : Base
        Its text encoder is loaded only where something is to be embedded.
    accelerator : Accelerator
    progress : callable
        Gets the captions embedded and the number that were to be, of this process.

    Returns
    -------
    Shards
        The last hidden state, [captions, 77, C].

    Raises
    ------
    ValueError
        The disk has no room, or the text encoder gives no number.
    """
    tokenizer = base.tokenizer()
    files = sorted(path for path in (base.folder / "tokenizer").iterdir() if path.is_file())
    words = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    digest = json.dumps([list(captions), base.digest("text_encoder"), words, tokenizer.model_max_length])
    key = hashlib.sha256(digest.encode()).hexdigest()[:20]
    shape = (tokenizer.model_max_length, base.text_width)
    full = len(captions) * shape[0] * shape[1] * 4 <= MOST_IN_FULL
    shards = Shards(cache / f"texts-{key}", len(captions), shape, np.float32 if full else np.float16)
    if accelerator.is_local_main_process:
        check_room(shards, "cache")
    accelerator.wait_for_everyone()

    @torch.inference_mode()
    def make(numbers: list[int]) -> None:
        if not numbers:
            return
        encoder = base.load("text_encoder").eval().to(accelerator.device)
        done, total = 0, sum(len(shards.span(number)) for number in numbers)
        for number in numbers:
            ids = token_ids(tokenizer, [captions[row] for row in shards.span(number)])
            pieces = [encoder(piece.to(accelerator.device)).last_hidden_state for piece in ids.split(PIECE)]
            values = torch.cat(pieces).float().cpu()
            if not bool(torch.isfinite(values).all()):
                raise ValueError(
                    "base: its text encoder gives no finite number; give a base whose text encoder is whole."
                )
            shards.write(number, values.numpy())
            done += len(ids)
            progress(done, total)

    fill(shards, make, accelerator)
    return shards

"""Images through a network in batches, with the same numbers whatever the batch size, and cancellable."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def steady(device: torch.device) -> Iterator[None]:
    """Compute without gradients, and in one precision with one kernel whatever the batch size.

    TF32 convolutions would make results depend on which kernel a batch size selects.
    """
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), flags, torch.autocast(device.type, enabled=False):
        yield


def in_batches(
    forward: Callable[[slice], Tensor],
    count: int,
    batch_size: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Compute something of each image, a batch at a time.

    Parameters
    ----------
    forward : callable
        Slice of the images to what is wanted of them, [n, ...].
    count : int
        Number of images, 1 or more.
    batch_size : int
        Images at a time; halved where they do not fit into the device's memory.
    device : torch.device
        Where `forward` computes.
    progress : callable, optional
        Called with (images done, count) after each batch; may raise to cancel.

    Returns
    -------
    Tensor [count, ...]
        On the CPU.

    Raises
    ------
    RuntimeError
        What `forward` raises, out of memory only where one image alone does not fit.
    """
    rows: list[Tensor] = []
    done = 0
    with steady(device):
        while done < count:
            size = min(batch_size, count - done)
            try:
                made = forward(slice(done, done + size)).cpu()
            except RuntimeError as error:
                if size == 1 or not out_of_memory(error):
                    raise
                made = None
            # Retried out here: inside, the error's traceback would hold on to the tensors of the failed call.
            if made is None:
                batch_size = (size + 1) // 2
                continue
            rows.append(made)
            done += size
            if progress is not None:
                progress(done, count)
    # Outside inference mode again: an ordinary tensor, which callers may do anything with.
    return torch.cat(rows)


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory was short. CUDA has two exceptions for it, MPS and DirectML only the words."""
    return any(words in str(error).lower() for words in ("out of memory", "allocate memory"))

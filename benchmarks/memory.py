"""What the sampler asks of cards of 8, 24 and 80 GiB: ``python -m benchmarks.memory``.

The pack's own functions and ComfyUI's are asked, with the size of Stable Diffusion 1.5's U-Net and a card's
free memory put in place of this machine's. It is a prediction; no card is needed, and none was measured.
"""

import argparse
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch

GIB = 2**30
# Cards, of which the system and other programs keep the last.
CARDS, KEPT = (8, 24, 80), 1
# Parameters of Stable Diffusion 1.5's U-Net.
PARAMETERS = 859_520_964
SIDES, ATTRIBUTES, SWAPS = (512, 768), (1, 3, 20), 9
HEAD = ("card", "U-Net", "images", "rows a call", *(f"patients a block, K = {k}" for k in ATTRIBUTES))


def estimates(model: Any) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table.

    ``model`` is any MODEL of Stable Diffusion 1's architecture, loaded by the pack, of whatever size.
    """
    import comfy.model_management as management
    from medtraverse_pack.nodes.samplers import patients_per_block, rows_per_call

    for card in CARDS:
        for dtype in (torch.float16, torch.float32):
            weights = PARAMETERS * dtype.itemsize
            free = (card - KEPT) * GIB
            with (
                patch.object(management, "is_device_cpu", lambda device: False),
                patch.object(management, "pytorch_attention_flash_attention", lambda: True),
                patch.object(management, "module_size", lambda module, weights=weights: weights),
                patch.object(management, "current_loaded_models", []),
                patch.object(model.model, "manual_cast_dtype", dtype),
            ):
                for side in SIDES:
                    shape = (4, side // 8, side // 8)
                    with patch.object(management, "get_free_memory", lambda device, free=free: free):
                        rows = rows_per_call(model, shape, 0)
                    left = max(0, free - weights)
                    with patch.object(management, "get_free_memory", lambda device, left=left: left):
                        blocks = [
                            patients_per_block(model, 1 + attributes * SWAPS, shape, rows)
                            for attributes in ATTRIBUTES
                        ]
                    name = str(dtype).removeprefix("torch.")
                    yield (f"{card} GiB", name, f"{side}²", str(rows), *map(str, blocks))


def table(model: Any) -> list[str]:
    """Return the lines of the table in Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *estimates(model)]
    return [f"| {' | '.join(line)} |".replace(" --- ", "---") for line in lines]


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=(__doc__ or "").splitlines()[0]
    ).parse_args()
    from benchmarks.host import start
    from demo.training.architecture import WEIGHTS

    print("\n".join(table(start(WEIGHTS, True).model)))


if __name__ == "__main__":
    main()

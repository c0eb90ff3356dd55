"""What a node shows while it samples: the first patient's neutral path and branches, a line of text."""

import math
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from comfy_execution.utils import get_executing_context
from PIL import Image

from ..medtraverse.traversal import Plan, TraversalSettings

if TYPE_CHECKING:
    from latent_preview import LatentPreviewer

# Pictures of a preview; more attributes than fit are left out.
MOST_CELLS, SIDE = 40, 128


def progress_text(settings: TraversalSettings, step: int) -> str:
    """Return what the batch of a step (from 0) holds: patients, and what has left the neutral path."""
    seeds = settings.seeds
    patients = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}–{seeds[-1]}"
    joined = [str(swap) for swap in settings.swap_steps if step > swap]
    text = f"{patients} · step {step + 1}/{settings.steps} · neutral"
    return f"{text} and λ {', '.join(joined)} of {', '.join(settings.attributes)}" if joined else text


def running_server() -> Any:
    """Return ComfyUI's server if this process is one, else None.

    A server has imported its module long before; to import it elsewhere takes a server's surroundings.
    """
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def say(text: str) -> None:
    """Show a line of text on the node that is running, where a page is open."""
    context = get_executing_context()
    if context is not None:
        from server import PromptServer

        PromptServer.instance.send_progress_text(text, context.node_id)


class Pace:
    """Says whether it is time again: ``seconds`` have passed since it last was, or it never was."""

    def __init__(self, seconds: float):
        self.seconds, self.last = seconds, -math.inf

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def traversal_preview(
    previewer: "LatentPreviewer", denoised: torch.Tensor, plan: Plan, step: int
) -> tuple[str, Image.Image, int]:
    """Return core's preview triple of the first patient.

    Rows of the picture are attributes, columns neutral and λ; a branch appears when it has left the neutral.

    ``denoised`` [rows, C, h, w] are the latents as the model would end now, in the order of ``plan``.
    """
    index = plan.index()[0]
    attributes = max(1, min(len(index), MOST_CELLS // index.shape[1]))
    side = max(8, min(SIDE, 1024 // index.shape[1]))
    mosaic = Image.new("RGB", (index.shape[1] * side, attributes * side), "#202020")
    drawn: dict[int, Image.Image] = {}
    kind = "JPEG"
    for a in range(attributes):
        for n, row in enumerate(index[a].tolist()):
            if (n and step <= plan.swap_steps[n - 1]) or (n == 0 and a):
                continue
            if row not in drawn:
                kind, drawn[row], _ = previewer.decode_latent_to_preview_image(
                    "JPEG", denoised[row : row + 1]
                )
            picture = drawn[row].convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
            mosaic.paste(picture, (n * side, a * side))
    return kind, mosaic, max(mosaic.size)

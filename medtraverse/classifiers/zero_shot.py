"""CLIP as a classifier: an image is compared with a prompt for each label."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .huggingface import LOCAL
from .judge import SIGMOID, SOFTMAX, Judge, Library, Settings

OPEN_CLIP = "open_clip_config.json"
WANTED = (
    "give one line for each label, `label = prompt`, or `label = prompt | prompt for its absence`, such as "
    "pleural effusion = Chest X-ray showing Pleural Effusion | Normal chest X-ray"
)


def parse_prompts(lines: Sequence[str], name: str) -> tuple[list[str], list[str], list[str] | None]:
    """Return labels, their prompts, and the prompts for their absence (None if no line has one).

    Raises
    ------
    ValueError
        If a line is not of the form, or some lines have a prompt for absence and some have none.
    """
    labels, present, absent = [], [], []
    for line in lines:
        label, equals, prompts = line.partition("=")
        prompt, bar, opposite = prompts.partition("|")
        if not equals or not label.strip() or not prompt.strip() or (bar and not opposite.strip()):
            raise ValueError(
                f"classifier: {name} is a CLIP model, and the label {line!r} has no prompt; {WANTED}."
            )
        labels.append(label.strip())
        present.append(prompt.strip())
        absent.append(opposite.strip())
    if not labels:
        raise ValueError(f"classifier: {name} is a CLIP model and no labels are given; {WANTED}.")
    if any(absent) and not all(absent):
        raise ValueError(
            f"classifier: {name}: some labels have a prompt for their absence and some have none; {WANTED}."
        )
    if not any(absent) and len(labels) == 1:
        raise ValueError(
            f"classifier: {name}: one label without a prompt for its absence is always certain; {WANTED}."
        )
    return labels, present, absent if any(absent) else None


class _ZeroShot(nn.Module):
    """Cosines of image and prompt embeddings, scaled as the model learned to."""

    present: Tensor
    absent: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        embed: Callable[[Tensor], Tensor],
        present: Tensor,
        absent: Tensor | None,
        scale: float,
        bias: float,
    ):
        super().__init__()
        self.model, self.embed = model, embed
        self.register_buffer("present", present)
        self.register_buffer("absent", absent)
        self.scale, self.bias = scale, bias
        self.head = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        embedded: Tensor = self.head(nn.functional.normalize(self.embed(inputs).float(), dim=-1))
        logits = embedded @ self.present.T
        if self.absent is None:
            return self.scale * logits + self.bias
        # The sigmoid of the difference is the softmax over the pair.
        return self.scale * (logits - embedded @ self.absent.T)


class _Clip(NamedTuple):
    """A CLIP model, of whichever library: how it embeds, and what it scales the cosines by."""

    model: nn.Module
    embed_images: Callable[[Tensor], Tensor]
    embed_texts: Callable[[list[str]], Tensor]
    function: Callable[[np.ndarray], Tensor]
    scale: float
    bias: float
    kind: str


def read_clip(folder: Path, settings: Settings | None = None) -> Judge:
    """Read a CLIP or SigLIP folder of transformers, or a CLIP folder of open_clip, as a zero-shot classifier.

    Parameters
    ----------
    folder : path
    settings : Settings
        `labels` are lines `label = prompt` or `label = prompt | prompt for its absence`.

    Returns
    -------
    Judge
        With prompts for absence a label's probability is the softmax over its pair; without, over all labels.

    Raises
    ------
    ValueError
        If there are no prompts, or the folder does not load.
    """
    settings = settings or Settings()
    folder = Path(folder)
    labels, present, absent = parse_prompts(settings.labels or (), folder.name)
    read = _open_clip if (folder / OPEN_CLIP).is_file() else _transformers
    try:
        model, embed_images, embed_texts, function, scale, bias, kind = read(folder)
    except (OSError, RuntimeError, KeyError, TypeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"classifier: {folder.name} does not load as a CLIP model ({reason}); copy the whole folder."
        ) from error
    with torch.inference_mode():
        texts = [
            nn.functional.normalize(embed_texts(group).float(), dim=-1) for group in (present, absent or [])
        ]
    network = _ZeroShot(
        model, embed_images, texts[0].clone(), texts[1].clone() if absent else None, scale, bias
    )
    size = function(np.zeros((64, 64, 3), np.uint8)).shape[-2:]
    siglip = bias != 0.0
    default = SIGMOID if absent or siglip else SOFTMAX
    return Judge(
        network,
        network.head,
        labels,
        Library(function, (int(size[0]), int(size[1])), f"{folder.name}'s own preprocessing"),
        settings.activation_or(default, folder.name),
        sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin")),
        kind,
        outputs=len(labels),
        zero_shot=True,
    )


def _transformers(folder: Path) -> _Clip:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, **LOCAL).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    processor = AutoImageProcessor.from_pretrained(folder, **LOCAL)
    siglip = "siglip" in json.loads((folder / "config.json").read_text(encoding="utf-8")).get(
        "model_type", ""
    )

    def embed_texts(texts: list[str]) -> Tensor:
        if not texts:
            return torch.zeros(0, 1)
        padding = "max_length" if siglip else True
        tokens = tokenizer(texts, padding=padding, truncation=True, return_tensors="pt")
        return _pooled(model.get_text_features(**tokens))

    def function(image: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0]))

    bias = getattr(model, "logit_bias", None)
    return _Clip(
        model,
        lambda pixels: _pooled(model.get_image_features(pixel_values=pixels)),
        embed_texts,
        function,
        model.logit_scale.exp().item(),
        0.0 if bias is None else bias.item(),
        f"transformers {type(model).__name__}, zero-shot",
    )


def _pooled(result: Any) -> Tensor:
    """transformers 5 returns the pooled embedding inside an output object, transformers 4 the tensor."""
    pooled: Tensor = result if isinstance(result, Tensor) else result.pooler_output
    return pooled


def _open_clip(folder: Path) -> _Clip:
    text = _own_text_config(folder)
    try:
        import open_clip
    except ImportError as error:
        raise ValueError(
            f"classifier: {folder.name} is a model of open_clip, which is not installed; run: python -m pip "
            "install open-clip-torch"
        ) from error
    from PIL import Image

    place = f"local-dir:{folder}"
    model, transform = open_clip.create_model_from_pretrained(place, **({"text_cfg": text} if text else {}))
    tokenizer = open_clip.get_tokenizer(place)
    model.eval()

    def embed_texts(texts: list[str]) -> Tensor:
        return model.encode_text(tokenizer(texts)) if texts else torch.zeros(0, 1)

    return _Clip(
        model,
        model.encode_image,
        embed_texts,
        lambda image: transform(Image.fromarray(image)),
        model.logit_scale.exp().item(),
        0.0 if getattr(model, "logit_bias", None) is None else model.logit_bias.item(),
        "open_clip, zero-shot",
    )


def _own_text_config(folder: Path) -> dict[str, Any] | None:
    """Return the text encoder's part of open_clip's config, its architecture taken from the folder itself.

    BiomedCLIP and its like name a text encoder of transformers, which open_clip would fetch. Its weights are
    in the folder's own. Only its `config.json` is needed beside, there or in a folder of the encoder's name.

    Returns None where open_clip has the text encoder itself. Raises ValueError for what would be fetched, or
    brings code of its own.
    """
    models = _json(folder / OPEN_CLIP).get("model_cfg", {})
    text, vision = dict(models.get("text_cfg", {})), models.get("vision_cfg", {})
    name = str(text.get("hf_model_name") or "")
    outside = (
        [str(vision.get("timm_model_name", ""))] if ":" in str(vision.get("timm_model_name", "")) else []
    )
    outside += sorted(set(text.get("tokenizer_kwargs") or {}) - {"clean", "strip_sep_token"})
    if text.get("hf_tokenizer_name") and not (folder / "tokenizer_config.json").is_file():
        outside.append(f"the tokenizer of {text['hf_tokenizer_name']}")
    if outside:
        raise ValueError(
            f"classifier: {folder.name} asks for {', '.join(outside)}, which is not in the folder, and "
            "nothing is fetched or run; copy it into the folder, or give a CLIP folder of transformers."
        )
    if not any(path.suffix in (".safetensors", ".bin", ".pth") for path in folder.iterdir()):
        raise ValueError(f"classifier: {folder.name} holds no weights; copy the whole folder.")
    if not name:
        return None
    places = (folder, folder / name.rstrip("/").rsplit("/", 1)[-1])
    configs = {place: _json(place / "config.json") for place in places if (place / "config.json").is_file()}
    own = next((place for place, config in configs.items() if "hidden_size" in config), None)
    if own is None:
        raise ValueError(
            f"classifier: {folder.name} has the text encoder {name}, and the weights do not show its "
            f"attention heads; copy config.json of {name} into the folder."
        )
    if "auto_map" in configs[own]:
        raise ValueError(
            f"classifier: {folder.name} needs Python code of its own, which is never run; give a CLIP folder "
            "of transformers."
        )
    return {**text, "hf_model_name": str(own), "hf_model_pretrained": False}


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"classifier: {path.parent.name}/{path.name} cannot be read ({error}); copy it again."
        ) from error

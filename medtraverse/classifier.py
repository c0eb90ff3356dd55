"""The classifiers that CFRT is measured with: one network, or several side by side.

Which formats are read, and how, is in `medtraverse.classifiers`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .classifiers.chosen_labels import resolve_labels
from .classifiers.formats import read_judge
from .classifiers.judge import Judge, Settings
from .classifiers.self_check import channels_of, check_input
from .digest import sha256_of
from .labels import position
from .steady_batches import in_batches

# What an EfficientNet-B4 holds at once: 144 channels at half the side in float32, before and after
# normalisation.
_BYTES_PER_PIXEL = 320


class Classifier:
    """Multi-label image classifier. Made by `load_classifier`.

    Parameters
    ----------
    judges : sequence of Judge
        Their outputs stand side by side.
    labels : sequence of str
        Name of each column of `predict`.
    columns : sequence of int, optional
        Which of the judges' outputs those are. Default: all.
    doubts : sequence of str
        Said behind the judges' own notes.

    Attributes
    ----------
    labels : tuple of str
    input_size : int
        Side, in pixels, of the largest network input.
    sha256 : str
        Digests of the weight files, joined by commas.
    notes : tuple of str
        What the user should know about how the files were read.
    grey : bool
        Whether no network takes more than one channel.
    module : torch.nn.Module
        Maps images [N, H, W, 3] in 0..1 to probabilities [N, L].
    """

    def __init__(
        self,
        judges: Sequence[Judge],
        labels: Sequence[str],
        columns: Sequence[int] | None = None,
        doubts: Sequence[str] = (),
    ):
        self.judges = tuple(judges)
        self.module = _Panel(judges, columns).eval().requires_grad_(False)
        self.labels = tuple(labels)
        self.input_size = max(max(judge.input_size) for judge in judges)
        self.sha256 = ",".join(sha256_of(file) for judge in judges for file in judge.weights)
        self.notes = (*(note for judge in judges for note in judge.notes), *doubts)
        self.grey = all(channels_of(judge) == 1 for judge in judges)

    def with_others(self, others: Classifier) -> Classifier:
        """Return one classifier that judges what both judge.

        Parameters
        ----------
        others : Classifier
            Of other labels.

        Returns
        -------
        Classifier
            Its labels are those of both, this one's first.

        Raises
        ------
        ValueError
            Both have a label.
        """
        doubled = [label for label in self.labels if position(label, others.labels) is not None]
        if doubled:
            raise ValueError(
                f"others: both classifiers judge {', '.join(doubled)}; rename or leave out one by lines "
                "`label = logit` in labels."
            )
        count = sum(judge.outputs for judge in self.judges)
        columns = [*self.module.columns, *(count + column for column in others.module.columns)]
        return Classifier([*self.judges, *others.judges], [*self.labels, *others.labels], columns)

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
            If `images` has another shape or type, is empty, not finite or outside 0..1, `batch_size` is below
            1, or a probability is not finite.
        """
        probabilities = self._run(self.module, images, batch_size, progress)
        broken = int((~torch.isfinite(probabilities)).any(1).sum())
        if broken:
            raise ValueError(
                f"classifier: it gives no number (NaN) for {broken} of {len(images)} images; its weights are "
                "broken, or its input range is not that of its training."
            )
        return probabilities

    def features(
        self, images: Tensor, batch_size: int = 64, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Compute the pooled features before the head.

        Parameters and errors are those of `predict`.

        Returns
        -------
        Tensor [N, C]
            float32, on the CPU.
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
        self.module.eval()

        def judged(part: slice) -> Tensor:
            batch = images[part].to(device=device, dtype=torch.float32)
            return forward(batch).float()

        return in_batches(judged, len(images), batch_size, device, progress)

    def memory(self, count: int, batch_size: int = 64) -> int:
        """Return the bytes that judging takes beside the weights, a generous estimate.

        Parameters
        ----------
        count : int
            Images to judge.
        batch_size : int
            Images at a time.
        """
        return min(count, batch_size) * self.input_size**2 * _BYTES_PER_PIXEL


def load_classifier(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    labels: Sequence[str] | None = None,
    input_size: int | None = None,
    device: str | torch.device = "cpu",
    activation: str | None = None,
) -> Classifier:
    """Load a classifier, or several that each judge some of the attributes (the paper's CheXpert pair).

    Parameters
    ----------
    path : path or sequence of paths
        Weight files, or folders of transformers, timm or open_clip; see `classifiers.formats.read_judge`.
    labels : sequence of str, optional
        Name of each output, over all files in order. Or lines `label = logit`: then only those outputs are
        kept,
        each by its own name or its number from 0, and renamed. For CLIP, lines `label = prompt`. Default:
        what
        the files say.
    input_size : int, optional
        Side in pixels. Default: what the files say, else the paper's 512 for an EfficientNet.
    device : str or torch.device
        Where the networks are put.
    activation : {"sigmoid", "softmax"}, optional
        Default: what the files say.

    Raises
    ------
    ValueError
        If a file is missing, unreadable or of another architecture, if no labels are known, or if their
        number is
        not the number of outputs.
    """
    paths = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(p) for p in path]
    if not paths:
        raise ValueError("classifier: no file is named; give at least one.")
    if isinstance(labels, str):
        raise ValueError(f"labels: {labels!r} is a text; give a list of names, one for each logit.")
    if input_size is not None and (
        isinstance(input_size, bool) or not isinstance(input_size, int) or input_size < 32
    ):
        raise ValueError(f"input_size: {input_size!r} is no side in pixels; give a whole number, 32 or more.")
    settings = Settings(None if labels is None else tuple(labels), input_size, activation)
    judges = [read_judge(file, settings) for file in paths]
    sizes = {file.name: max(judge.input_size) for file, judge in zip(paths, judges)}
    if input_size is None and len(set(sizes.values())) > 1 and all(file.is_file() for file in paths):
        raise ValueError(f"input_size: the files name different sizes ({sizes}); give one for all.")
    if any(judge.zero_shot for judge in judges):
        if len(judges) > 1:
            raise ValueError(
                "second_classifier: a CLIP model takes the labels as prompts; load it in a node of its own "
                "and join "
                "both by others."
            )
        labels = None
    named, columns = resolve_labels(labels, judges, [file.name for file in paths])
    doubts = [doubt for judge, file in zip(judges, paths) for doubt in check_input(judge, file.name)]
    return Classifier([judge.to(device) for judge in judges], named, columns, doubts)


class _Panel(nn.Module):
    """Judges side by side; their probabilities, and their features, are concatenated."""

    def __init__(self, judges: Sequence[Judge], columns: Sequence[int] | None):
        super().__init__()
        self.judges = nn.ModuleList(judges)
        self._members = tuple(judges)  # the same, which a ModuleList gives back as modules of any kind
        self.columns = list(columns) if columns is not None else list(range(sum(j.outputs for j in judges)))

    def forward(self, images: Tensor) -> Tensor:
        made = torch.cat([judge.probabilities(judge.prepare(images)) for judge in self._members], 1)
        return made[:, self.columns]

    def features(self, images: Tensor) -> Tensor:
        return torch.cat([judge.features(judge.prepare(images)) for judge in self._members], 1)


def _check_images(images: Tensor, batch_size: int) -> None:
    if (
        not isinstance(images, Tensor)
        or images.ndim != 4
        or images.shape[-1] != 3
        or not images.is_floating_point()
    ):
        given = (
            f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        )
        raise ValueError(
            f"images: {given} is no batch of pictures; give a floating-point tensor [N, height, width, 3] "
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

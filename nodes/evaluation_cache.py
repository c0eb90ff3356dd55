"""A bounded memory of U-Net outputs.

A run that adds a swap step or an attribute computes only what is new.

What is kept is the raw conditional and unconditional output of one row at one evaluation. Served again, it
leaves every number as it was, whatever the sampler; latents would lose the history of multistep samplers.
"""

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import psutil
import torch

from ..medtraverse.projection import Memory, Start

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

_LARGE_MEMORY, _SHARE = 32 * 2**30, 1 / 16


class EvaluationCache:
    """Outputs by key, those of earlier runs dropped first; ``limit`` is in bytes.

    A run larger than the limit keeps its first outputs, not its last. The same run again finds them; it
    would find nothing if the least recently used were dropped.
    """

    def __init__(self) -> None:
        self.limit, self.size, self.served, self.run = 0, 0, 0, 0
        self._outputs: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._used: dict[Hashable, int] = {}

    def get(self, key: Hashable) -> torch.Tensor | None:
        """Return the output [C, h, w] kept under a key, or None."""
        output = self._outputs.get(key)
        if output is not None:
            self._outputs.move_to_end(key)
            self._used[key] = self.run
            self.served += 1
        return output

    def put(self, key: Hashable, output: torch.Tensor) -> None:
        """Keep a copy of an output on the CPU."""
        if key in self._outputs or output.nbytes > self.limit:
            return
        while self.size + output.nbytes > self.limit and self._outputs:
            if self._used[next(iter(self._outputs))] == self.run:
                return
            self._drop()
        self._outputs[key] = output.detach().to("cpu", copy=True)
        self._used[key] = self.run
        self.size += output.nbytes

    def shrink(self) -> None:
        """Drop the oldest outputs until the limit holds."""
        while self.size > self.limit and self._outputs:
            self._drop()

    def _drop(self) -> None:
        key, output = self._outputs.popitem(last=False)
        del self._used[key]
        self.size -= output.nbytes


_caches: "weakref.WeakKeyDictionary[ModelPatcher, EvaluationCache]" = weakref.WeakKeyDictionary()


_starts: "weakref.WeakKeyDictionary[Memory, weakref.WeakKeyDictionary[ModelPatcher, EvaluationCache]]" = (
    weakref.WeakKeyDictionary()
)


class SourceCache:
    """Outputs of images' own rows, kept with their start, and of branches in the model's cache, if it is on.

    The source's predictions serve every attribute that is added later, so they are kept in any case.
    """

    def __init__(self, start: Start, model: "ModelPatcher", branches: EvaluationCache | None):
        held = _starts.setdefault(start.memory, weakref.WeakKeyDictionary())
        self.source, self.branches = held.setdefault(model, EvaluationCache()), branches
        self.source.limit = int(psutil.virtual_memory().total * _SHARE)
        self.source.run += 1

    def get(self, key: Any) -> torch.Tensor | None:
        """As EvaluationCache."""
        cache = self._of(key)
        return None if cache is None else cache.get(key)

    def put(self, key: Any, output: torch.Tensor) -> None:
        """As EvaluationCache."""
        cache = self._of(key)
        if cache is not None:
            cache.put(key, output)

    def _of(self, key: Any) -> EvaluationCache | None:
        """Return the cache of a key, which begins with its row's: context, patient, branch or None."""
        return self.source if key[0][2] is None else self.branches


def cache_for(model: "ModelPatcher", megabytes: int) -> EvaluationCache | None:
    """Return the cache of a MODEL for a new run, its limit set; None when it is off.

    ``megabytes`` -1 takes a sixteenth of the machine's memory where that is 32 GiB or more, else none. A
    cache belongs to one patched model and goes with it: another LoRA is another model.
    """
    if megabytes < 0:
        total = psutil.virtual_memory().total
        limit = int(total * _SHARE) if total >= _LARGE_MEMORY else 0
    else:
        limit = megabytes * 2**20
    if not limit:
        _caches.pop(model, None)
        return None
    cache = _caches.setdefault(model, EvaluationCache())
    cache.limit = limit
    cache.run += 1
    cache.shrink()
    return cache


def fingerprint(conditioning: list[tuple[torch.Tensor, dict[str, Any]]]) -> str | None:
    """Return a digest of a conditioning of plain prompts; None for one with ControlNet, hooks, areas …

    The pooled text, and sizes given as numbers, are what Stable Diffusion XL reads beside the prompt.
    """
    digest = hashlib.sha256()
    for tensor, options in conditioning:
        pooled = options.get("pooled_output")
        numbers = {name: value for name, value in options.items() if name != "pooled_output"}
        if not all(isinstance(value, (int, float)) for value in numbers.values()):
            return None
        digest.update(repr(sorted(numbers.items())).encode())
        for part in (tensor, pooled):
            if part is not None:
                digest.update(str(tuple(part.shape)).encode())
                digest.update(part.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()

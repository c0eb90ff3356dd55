"""A device that is none: its tensors lie on the CPU, and what a GPU would refuse or wait for is noticed.

A tensor of it claims the device "meta". Under `Device` an operation that meets a tensor left on the CPU
fails, as it would on a GPU, and copies, waits and new tensors are counted.
"""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

PLACE = torch.device("meta")
aten = torch.ops.aten
# The host must know a number before it goes on.
WAITS = (
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.unique_dim,
    aten._unique2,
    aten.unique_consecutive,
)


class Twin(torch.Tensor):
    """A tensor of the device, around one on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=PLACE,
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        raise AssertionError(f"{func} on the device outside of its mode")


def inner(value):
    return value.inner if isinstance(value, Twin) else value


def outer(value):
    return Twin(value) if isinstance(value, torch.Tensor) and not isinstance(value, Twin) else value


class Device(TorchDispatchMode):
    """While it is on, the device exists. ``counts``: up, down (copies), waits, made (new tensors there)."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            # What is made of other operations comes here whole in inference mode.
            with self:
                return func.decompose(*args, **kwargs)
        given, _ = tree_flatten((args, kwargs))
        ours = [value for value in given if isinstance(value, Twin)]
        others = [value for value in given if isinstance(value, torch.Tensor) and not isinstance(value, Twin)]
        packet, target = func.overloadpacket, kwargs.get("device")
        if target is not None and torch.device(target).type == PLACE.type:
            kwargs["device"] = torch.device("cpu")
            self.counts["made" if ours else "up"] += 1
            return tree_map(outer, func(*tree_map(inner, args), **tree_map(inner, kwargs)))
        if ours and target is not None:  # to the CPU
            self.counts["down"] += 1
            return func(*tree_map(inner, args), **kwargs)
        if packet is aten.copy_ and ours and others:
            self.counts["up" if isinstance(args[0], Twin) else "down"] += 1
            func(*tree_map(inner, args), **kwargs)
            return args[0]
        if not ours:
            return func(*args, **kwargs)
        if any(value.ndim for value in others):
            raise AssertionError(f"{func}: a tensor that was left on the CPU meets one of the device")
        result = func(*tree_map(inner, args), **tree_map(inner, kwargs))
        if packet in WAITS:
            self.counts["waits"] += 1
        returned = func._schema.returns
        if returned and returned[0].alias_info is not None and returned[0].alias_info.is_write:
            return kwargs.get("out", args[0])
        self.counts["made"] += bool(returned and returned[0].alias_info is None)
        return tree_map(outer, result)

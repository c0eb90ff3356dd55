"""Which rows of a traversal go to the U-Net in which calls.

Between two swaps all steps are alike, so tables and indices are made once for all of them, on the device
where they are used. In a step nothing is sorted, counted or sent there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..medtraverse.traversal import NEUTRAL, Plan
from .call_size import next_call


@dataclass(frozen=True, eq=False)
class Call:
    """Rows of one call of the U-Net.

    Attributes
    ----------
    rows : tuple of int
    index, filled : Tensor, long
        The rows on the device; and these with the last one repeated up to the size of the call.
    numbers : tuple of int
        The attributes, NEUTRAL for the neutral prompt, that the rows of the call run under.
    places : Tensor, long, or None
        Of each row's prompt among those that share calls; None where all rows have one prompt.
    """

    rows: tuple[int, ...]
    index: torch.Tensor
    filled: torch.Tensor
    numbers: tuple[int, ...]
    places: torch.Tensor | None


class Group:
    """Rows whose prompts can stand in one call."""

    def __init__(
        self, rows: tuple[int, ...], numbers: tuple[int, ...], places: tuple[int, ...], device: torch.device
    ) -> None:
        self.rows = rows
        self._numbers, self._places, self._device = numbers, places, device
        self._calls: dict[tuple[int, int, int], Call] = {}

    def call(self, first: int, most: int, sizes: tuple[int, ...] = ()) -> Call:
        """Return the call that begins with a row, of at most so many, or filled up to one of the sizes."""
        left = len(self.rows) - first
        count, filled = next_call(left, sizes) if sizes else (min(most, left),) * 2
        key = first, count, filled
        if key not in self._calls:
            part = slice(first, first + count)
            more = filled - count
            numbers = self._numbers[part]
            places = [*self._places[part], *[self._places[first + count - 1]] * more]
            index = torch.tensor([*self.rows[part], *[self.rows[first + count - 1]] * more])
            index = index.to(self._device)
            self._calls[key] = Call(
                self.rows[part],
                index[:count],
                index,
                numbers,
                None if len(set(numbers)) == 1 else torch.tensor(places).to(self._device),
            )
        return self._calls[key]


class Phase:
    """Steps in which the same rows serve the same others.

    Attributes
    ----------
    conditional, unconditional : Tensor, long [rows]
        Whose evaluation serves each row, on the device.
    shared, only_conditional : tuple of int
        Rows that are evaluated under every prompt, and those under their own alone.
    """

    def __init__(
        self,
        plan: Plan,
        step: int,
        steps: int,
        own_unconditional: torch.Tensor,
        banks: Mapping[int, tuple[int, int]],
        device: torch.device,
    ) -> None:
        conditional, unconditional = plan.sources(step, steps)
        unconditional = torch.where(own_unconditional, conditional, unconditional)
        served, own = set(unconditional.tolist()), set(conditional.tolist())
        self.shared, self.only_conditional = tuple(sorted(served)), tuple(sorted(own - served))
        self.conditional, self.unconditional = conditional.to(device), unconditional.to(device)
        self._numbers = torch.where(step <= plan.swap_step(steps), NEUTRAL, plan.attribute()).tolist()
        self._banks, self._device = banks, device
        self._groups: dict[tuple[int, ...], list[Group]] = {}

    def groups(self, rows: tuple[int, ...]) -> list[Group]:
        """Split rows into those that one call serves: plain prompts together, others by conditioning."""
        if rows not in self._groups:
            members: dict[int, list[int]] = {}
            for row in rows:
                members.setdefault(self._banks[self._numbers[row]][0], []).append(row)
            self._groups[rows] = [self._group(tuple(group)) for group in members.values()]
        return self._groups[rows]

    def _group(self, rows: tuple[int, ...]) -> Group:
        numbers = tuple(self._numbers[row] for row in rows)
        return Group(rows, numbers, tuple(self._banks[number][1] for number in numbers), self._device)


class Phases:
    """The phases of a run, each made when it begins; the one under way is kept.

    Parameters
    ----------
    plan : Plan
    steps : int
    own_negative : Tensor, bool [rows]
        Rows whose negative prompt is not the neutral row's.
    banks : mapping of int to (int, int)
        Of each attribute, and NEUTRAL, the group of prompts that share calls, and its place there.
    device : torch.device
    """

    def __init__(
        self,
        plan: Plan,
        steps: int,
        own_negative: torch.Tensor,
        banks: Mapping[int, tuple[int, int]],
        device: torch.device,
    ) -> None:
        self._plan, self._steps, self._own_negative = plan, steps, own_negative
        self._banks, self._device = banks, device
        self._kept: dict[tuple[int, int, bool], Phase] = {}

    def at(self, step: int, evaluation: int) -> Phase:
        """Return the phase of an evaluation of a step.

        The unconditional half is shared for one step longer than the conditional, unless the latents, as in a
        step's later evaluations, or the negatives differ already.
        """
        key = self._over(step), self._over(step - 1), evaluation > 0
        if key not in self._kept:
            if len(self._kept) > 1:  # a step's first and later evaluations alternate
                del self._kept[next(iter(self._kept))]
            own = self._own_negative if not evaluation else torch.ones_like(self._own_negative)
            self._kept[key] = Phase(self._plan, step, self._steps, own, self._banks, self._device)
        return self._kept[key]

    def _over(self, step: int) -> int:
        return sum(step > swap for swap in self._plan.swap_steps)


def banks_of(groups: Mapping[int, object]) -> tuple[dict[int, tuple[int, int]], list[Sequence[int]]]:
    """Return each attribute's group and place in it, and the attributes of each group.

    ``groups`` has, for each attribute, something equal for those that share calls.
    """
    members: dict[object, list[int]] = {}
    for number, group in groups.items():
        members.setdefault(group, []).append(number)
    banks = {
        number: (group, place)
        for group, numbers in enumerate(members.values())
        for place, number in enumerate(numbers)
    }
    return banks, list(members.values())

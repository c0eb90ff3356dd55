"""How many rows go to the U-Net at once: fewer when memory runs out, more again when it lasts."""

import functools

# Full calls that must fit before a larger one is tried; doubled by every larger one that did not fit.
PATIENCE, MOST_PATIENCE = 16, 1024
# What a call costs beside its rows, in rows.
OVERHEAD = 2


class CallSize:
    """Rows of one call, at most ``most``: halved when memory runs out, doubled after calls that fitted.

    Another program may have taken the memory, and may give it back; so a smaller size is kept for long, but
    not for ever.

    Attributes
    ----------
    most, now, least : int
        Rows of a call: as asked for, at this time, and the fewest that there have been.
    """

    def __init__(self, most: int) -> None:
        self.most = self.now = self.least = most
        self._fitted, self._patience = 0, PATIENCE

    def failed(self, rows: int) -> None:
        """Memory did not suffice for a call of so many rows, 2 or more."""
        if self.now < self.most:
            self._patience = min(2 * self._patience, MOST_PATIENCE)
        self.now, self._fitted = max(1, (rows + 1) // 2), 0
        self.least = min(self.least, self.now)

    def fitted(self, rows: int) -> None:
        """Memory sufficed for a call of so many rows."""
        if rows < self.now or self.now == self.most:
            return
        self._fitted += 1
        if self._fitted >= self._patience:
            self.now, self._fitted = min(self.most, 2 * self.now), 0


def fixed_sizes(most: int) -> tuple[int, ...]:
    """Return up to four sizes of a call, the largest first, to which calls of a compiled model are filled up.

    A compiled model is compiled again for every size that it meets.
    """
    factor = 4 if most >= 64 else 2
    return tuple(most // factor**power for power in range(4) if most // factor**power)


@functools.cache
def next_call(left: int, sizes: tuple[int, ...]) -> tuple[int, int]:
    """Return how many of the rows left the next call takes, and the size it is filled up to.

    Of all ways through the rows it is the first call of the one with the fewest rows, each call counted as
    `OVERHEAD` rows more.

    Parameters
    ----------
    left : int
        1 or more.
    sizes : tuple of int
        That a call may have, the largest first.
    """
    if left >= 2 * sizes[0]:
        return sizes[0], sizes[0]
    costs, first = [0], [0]
    for rows in range(1, left + 1):
        cost, _, size = min((size + OVERHEAD + costs[max(0, rows - size)], -size, size) for size in sizes)
        costs.append(cost)
        first.append(size)
    return min(left, first[left]), first[left]

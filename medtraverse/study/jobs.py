"""The blocks of a study that are still to be made, handed out to workers, some of which die."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

# A block that takes so many times as long as the longest so far, and this many seconds more, is given to a
# second worker too: the first may hang.
SLOW, GRACE = 3.0, 60.0
TRIES = 3


class Stopped(Exception):
    """The study has ended, or somebody else has made the block."""


@dataclass(eq=False)
class Job:
    """Seeds to make, in a row.

    ``since`` says when who began with it, ``failures`` what it failed of.
    """

    seeds: tuple[int, ...]
    since: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def name(self) -> str:
        """Its seeds in words."""
        return f"seeds {self.seeds[0]}-{self.seeds[-1]}"


class Jobs:
    """Blocks by worker; safe to use from several threads.

    Parameters
    ----------
    blocks : sequence of tuples of int
        Seeds of each.
    """

    def __init__(self, blocks: Sequence[Sequence[int]]) -> None:
        self.all = [Job(tuple(seeds)) for seeds in blocks]
        self.stopped = False
        self._longest = 0.0
        self._changed = threading.Condition()

    def take(self, worker: str) -> Job | None:
        """Return a block for a worker, as soon as there is one; None when there will be none any more."""
        with self._changed:
            while not self.stopped:
                left = [job for job in self.all if not job.done]
                if not left:
                    return None
                job = next((job for job in left if not job.since), None) or self._slow(left, worker)
                if job is not None:
                    job.since[worker] = time.monotonic()
                    return job
                self._changed.wait(1.0)
            return None

    def _slow(self, left: Sequence[Job], worker: str) -> Job | None:
        now, limit = time.monotonic(), SLOW * self._longest + GRACE
        for job in left:
            if len(job.since) == 1 and worker not in job.since and now - min(job.since.values()) > limit:
                return job
        return None

    def check(self, job: Job) -> None:
        """Raise Stopped where nobody waits for a block any more."""
        if self.stopped or job.done:
            raise Stopped

    def finish(self, job: Job, worker: str) -> None:
        """A block is made."""
        with self._changed:
            began = job.since.pop(worker, None)
            if began is not None:
                self._longest = max(self._longest, time.monotonic() - began)
            job.done = True
            self._changed.notify_all()

    def give_back(self, job: Job, worker: str, reason: str = "") -> None:
        """A worker could not make a block; with a reason it counts as one of the block's failures."""
        with self._changed:
            job.since.pop(worker, None)
            if reason:
                job.failures.append(reason)
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing any more."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()


def cut(seeds: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Cut rising seeds into blocks of seeds in a row, of so many at most."""
    blocks: list[list[int]] = []
    for seed in seeds:
        if blocks and seed == blocks[-1][-1] + 1 and len(blocks[-1]) < size:
            blocks[-1].append(seed)
        else:
            blocks.append([seed])
    return [tuple(block) for block in blocks]

"""Drives a study over workers: hands out blocks, gathers what comes back into the study's folder.

One thread a worker asks for blocks and sends them to its ComfyUI; this thread alone writes. A worker that
fails gives its block back, and the others go on.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .. import __version__
from ..remote.events import GraphRejected, NodeFailed, RunInterrupted
from ..remote.node_inputs import Record
from ..whole_file import write_bytes
from .block import LATENTS_PATTERN, PATTERN, Block, joined, read_block
from .jobs import TRIES, Job, Jobs, Stopped, cut
from .lock import FolderLock, refuse_unwritable
from .pooled import Study, duration, narrow_enough
from .store import NAME, Identity, Store, refuse_others
from .workflow import over_seeds

# How many workers a block may be lost with before it is the block's own fault: it may take all memory.
LOSSES = 6


class Worker(Protocol):
    """Who makes blocks; see `medtraverse.remote.study_worker`."""

    name: str

    def run(self, graph: Record, node: str, check: Callable[[], None]) -> Mapping[str, bytes]:
        """Run a graph and return the files of the study's node by name."""

    def recover(self, check: Callable[[], None]) -> bool:
        """Whether a worker that was lost is there again."""

    def close(self) -> None:
        """End what was started for it."""


class NobodyLeft(ConnectionError):
    """All workers are gone, or none of them can make a block; `refused` where a graph or folder is at "
    "fault."""

    def __init__(self, text: str, refused: bool) -> None:
        super().__init__(text)
        self.refused = refused


@dataclass(frozen=True)
class Plan:
    """What a study is to make.

    ``graph`` is pruned to ``node``, the Traversal Study; ``pictured`` of the first seeds keep their latents.
    """

    graph: Record
    node: str
    seeds: range
    block_size: int
    pictured: int
    interval_width: float = 0.0


def drive(
    plan: Plan, workers: Sequence[Worker], folder: Path, told: Callable[[str], None] = lambda text: None
) -> Study:
    """Make the patients that a study does not have.

    Parameters
    ----------
    plan : Plan
    workers : sequence of Worker
    folder : path
        Of the study; made if need be.
    told : callable
        Takes a line of text whenever there is something to say.

    Returns
    -------
    Study
        All wanted patients, or as many as the interval's width asks for.

    Raises
    ------
    ValueError
        The folder is another study's, another driver's, or cannot be written to.
    NobodyLeft
        No worker is left; what is done is kept.
    NodeFailed
        A block fails wherever it is tried.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse_unwritable(folder, error)
    with FolderLock(folder) as lock:
        return _Driver(plan, workers, Store(folder), lock, told).run()


class _Driver:
    def __init__(
        self,
        plan: Plan,
        workers: Sequence[Worker],
        store: Store,
        lock: FolderLock,
        told: Callable[[str], None],
    ) -> None:
        self.plan, self.workers, self.store, self.lock, self.told = plan, workers, store, lock, told
        self.blocks = [block for block in store.blocks() if not set(block.seeds).isdisjoint(plan.seeds)]
        done = {seed for block in self.blocks for seed in block.seeds}
        missing = [seed for seed in plan.seeds if seed not in done]
        self.had = len(plan.seeds) - len(missing)
        self.jobs = Jobs(cut(missing, plan.block_size))
        self.made: queue.Queue[tuple[str, Job, Mapping[str, bytes]] | BaseException | None] = queue.Queue()
        self.reasons: dict[str, str] = {}
        self.refused = 0

    def run(self) -> Study:
        """Make all blocks."""
        enough = self.enough()
        if enough or not self.jobs.all:
            return enough or self.pooled()
        threads = [
            threading.Thread(target=self.serve, args=(worker,), daemon=True) for worker in self.workers
        ]
        for thread in threads:
            thread.start()
        began, at_work = time.monotonic(), len(threads)
        try:
            while not all(job.done for job in self.jobs.all):
                if not at_work and self.made.empty():
                    raise self.nobody_left()
                try:
                    item = self.made.get(timeout=0.5)  # short, so that Ctrl-C is heard
                except queue.Empty:
                    continue
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    at_work -= 1
                    continue
                worker, job, files = item
                if job.done or not self.take_in(worker, job, files):
                    continue
                self.jobs.finish(job, worker)
                self.told(self.line(time.monotonic() - began))
                enough = self.enough()
                if enough:
                    break
        finally:
            self.jobs.stop()
            for thread in threads:
                thread.join(5)  # time to cancel what runs on a server
        return enough or self.pooled()

    def serve(self, worker: Worker) -> None:
        """Have one worker make blocks until none is left or it is lost. On a thread of its own."""
        try:
            while (job := self.jobs.take(worker.name)) is not None:
                if not self.make(worker, job):
                    break
        except Stopped:
            pass
        except BaseException as error:
            self.made.put(error)
            return
        self.made.put(None)

    def make(self, worker: Worker, job: Job) -> bool:
        """Have a worker make a block; return whether it may have another."""
        pictured = len([seed for seed in job.seeds if seed in self.plan.seeds[: self.plan.pictured]])
        graph = over_seeds(self.plan.graph, self.plan.node, job.seeds, pictured)
        try:
            files = worker.run(graph, self.plan.node, lambda: self.jobs.check(job))
        except Stopped:
            self.jobs.give_back(job, worker.name)
            return True
        except GraphRejected as error:
            return self.drop(worker, job, f"it refused the graph: {error}", refused=True)
        except (NodeFailed, RunInterrupted) as error:
            self.jobs.give_back(job, worker.name, str(error))
            if len(job.failures) >= TRIES:
                raise
            self.told(f"{worker.name}: {job.name} failed ({error}); they are tried again.")
            return True
        except ConnectionError as error:
            self.jobs.give_back(job, worker.name, str(error))
            if len(job.failures) >= LOSSES:
                raise
            self.told(f"{worker.name} does not answer; {job.name} are given to another, or tried again.")
            if worker.recover(lambda: self.jobs.check(Job(job.seeds))):
                self.told(f"{worker.name} is back.")
                return True
            self.reasons[worker.name] = str(error)
            return False
        if worker.name in self.reasons:  # what it sent before was of another study
            self.jobs.give_back(job, worker.name)
            return False
        self.made.put((worker.name, job, files))
        return True

    def drop(self, worker: Worker, job: Job, reason: str, refused: bool = False) -> bool:
        """Do without a worker from here on."""
        self.jobs.give_back(job, worker.name)
        self.reasons[worker.name] = reason
        self.refused += refused
        self.told(f"{worker.name} is left out: {reason}")
        return False

    def take_in(self, worker: str, job: Job, files: Mapping[str, bytes]) -> bool:
        """Write what a worker sent into the folder; False where it is of another study."""
        record = json.loads(files[NAME])
        identity = Identity(record["settings"], record["weights"])
        if self.store.exists:
            try:
                refuse_others(self.store.folder, self.store.identity, identity)
            except ValueError as error:
                self.jobs.give_back(job, worker)
                self.refused += worker not in self.reasons
                self.reasons[worker] = str(error)
                self.told(f"{worker} is left out: {error}")
                return False
        self.lock.check()
        versions = {**record.get("versions", {}), "driver": __version__}
        self.store.open(identity, versions, self.plan.graph)
        wanted = set(job.seeds)
        try:
            for name, content in files.items():
                if Path(name).match(LATENTS_PATTERN):
                    write_bytes(self.store.folder / Path(name).name, content)
        except OSError as error:
            refuse_unwritable(self.store.folder, error)
        blocks = [read_block(files[name], name) for name in files if Path(name).match(PATTERN)]
        block = joined(blocks)
        block = block.take([place for place, seed in enumerate(block.seeds) if seed in wanted])
        if set(block.seeds) != wanted:
            raise ValueError(f"{worker}: it sent other patients than {job.name}; update MedTraverse there.")
        self.store.add(block)
        self.blocks.append(block)
        return True

    def pooled(self) -> Study:
        """What is done of the wanted patients."""
        blocks: list[Block] = self.blocks
        return Study(self.store.identity, joined(blocks)).take(self.plan.seeds)

    def enough(self) -> Study | None:
        """The patients with whom the intervals are as narrow as asked for; None before."""
        if not self.blocks or not self.plan.interval_width:
            return None
        return narrow_enough(self.pooled(), self.plan.seeds, self.plan.interval_width)

    def line(self, seconds: float) -> str:
        """How far the study is, how long the rest will take, and what is known."""
        study, wanted = self.pooled(), len(self.plan.seeds)
        done = len(study.seeds)
        each = seconds / max(1, done - self.had)
        known = "; ".join(
            f"{name} {result.cfrt:.3f} ({result.interval[0]:.3f}–{result.interval[1]:.3f})"
            for name, result in study.evaluation().results.items()
        )
        rest = duration(each * (wanted - done))
        return f"{done} of {wanted} patients, {each:.1f} s each, {rest} left: {known}"

    def nobody_left(self) -> NobodyLeft:
        """Why the study cannot go on."""
        reasons = "\n".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        return NobodyLeft(
            f"no worker is left; what is done is kept, and the same command goes on from there.\n{reasons}",
            self.refused == len(self.workers),
        )

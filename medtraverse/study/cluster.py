"""Workers of a study on a Ray cluster: an actor a GPU, or a share of the cores, each with its own ComfyUI.

Ray places the actors, starts them anew where their process, their raylet or their host has died, and runs
again what they were at. How a cluster is set up is Ray's own matter: see docs/studies.md.
"""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..remote.node_inputs import Record

LOCAL = "local"
# Bytes for what actors send, a block at a time; Ray would take a third of the memory.
_OBJECTS = 2**28
_SECONDS_TO_END = 8.0
# Of the installed library: a host of the cluster may have none.
_LIBRARY = Path(__file__).resolve().parents[1]


class RayWorker:
    """An actor, as the driver sees it."""

    def __init__(self, ray: Any, actor: Any, name: str) -> None:
        self.ray, self.actor, self.name = ray, actor, name

    def object_info(self) -> Record:
        """The description of its ComfyUI's nodes."""
        described: Record = self.ray.get(self.actor.object_info.remote())
        return described

    def run(self, graph: Record, node: str, check: Callable[[], None]) -> Mapping[str, bytes]:
        """Run a graph there. Ray does it again wherever the actor comes back; errors are those of the "
        "actor."""
        made = self.actor.run.remote(graph, node)
        while True:
            ready, _ = self.ray.wait([made], timeout=1.0)
            check()
            if ready:
                break
        try:
            files: dict[str, bytes] = self.ray.get(made)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            raise ConnectionError(f"{self.name}: {error}") from error
        return files

    def recover(self, check: Callable[[], None]) -> bool:
        """Whether Ray has brought the actor back."""
        try:
            ready, _ = self.ray.wait([self.actor.pids.remote()], timeout=60.0)
        except self.ray.exceptions.RayError:
            return False
        check()
        return bool(ready)

    def close(self) -> None:
        """End the actor and its ComfyUI."""
        try:
            # in order, so that the ComfyUI takes its folders away; by force where it is at work
            self.ray.wait([self.actor.close.remote()], timeout=_SECONDS_TO_END)
        finally:
            self.ray.kill(self.actor)


def ray_workers(
    address: str, comfyui: str, python: str | None, arguments: Sequence[str], count: int | None
) -> list[RayWorker]:
    """Connect to a Ray cluster and place the workers.

    Parameters
    ----------
    address : str
        Of the cluster, such as ray://head:10001 or auto; "local" starts one here.
    comfyui, python : str
        ComfyUI's folder, and what runs it, the same on every host.
    arguments : sequence of str
        More arguments for ComfyUI.
    count : int, optional
        Workers; default one a GPU, and without any GPU one for every four cores.

    Raises
    ------
    ValueError
        Ray is not installed, or there is no cluster at the address.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise ValueError(
            '--ray: Ray is not installed; run: python -m pip install "medtraverse[cluster]".'
        ) from None
    from ..remote.headless import PACK
    from ..remote.study_worker import OwnWorker

    # Ray would report its use to its makers
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {"include_dashboard": False, "object_store_memory": _OBJECTS} if address == LOCAL else {}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="warning",
            runtime_env={"py_modules": [str(_LIBRARY)]},
            **own,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"--ray: there is no cluster at {address!r} ({error}); start one by `ray start --head`, or give "
            f"{LOCAL}."
        ) from error
    gpus, cores = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    workers = count or gpus or max(1, cores // 4)
    needs: dict[str, Any] = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": max(1, cores // workers)}
    if not gpus and "--cpu" not in arguments:
        arguments = [*arguments, "--cpu"]
    actor_class = ray.remote(max_restarts=-1, max_task_retries=-1, **needs)(OwnWorker)
    return [
        RayWorker(
            ray,
            actor_class.remote(comfyui, python, arguments, f"actor {number}", str(PACK)),
            f"Ray's actor {number}",
        )
        for number in range(1, workers + 1)
    ]

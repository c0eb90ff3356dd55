"""A study over workers that die, lie or fail: no patient is lost, doubled or another's."""

import dataclasses
import json

import pytest

from medtraverse.remote.events import NodeFailed
from medtraverse.study import Store, read
from medtraverse.study.drive import NobodyLeft, Plan, drive
from medtraverse.study.jobs import Jobs, cut
from medtraverse.study.workflow import over_seeds, pruned, study_node

GRAPH = {
    "1": {"class_type": "MedicalCheckpointLoader", "inputs": {"domain": "CheXpert"}},
    "2": {"class_type": "MedicalStudy", "inputs": {"model": ["1", 0], "pictured": 3}},
    "3": {"class_type": "SaveTraversalFigure", "inputs": {"drawing": ["2", 4]}},
}


@pytest.fixture
def worker(tmp_path, block_of, identity):
    """``worker(name, dies=N, weights=…)``: sends blocks; its N-th call and all further ones fail."""

    class Worker:
        def __init__(self, name, dies=None, error=ConnectionError, weights=None):
            self.name, self.left, self.error = name, dies, error
            own = dataclasses.replace(identity, weights={**identity.weights, **(weights or {})})
            store = Store(tmp_path / f"at {name}")
            store.open(own, {})
            self.record = (store.folder / "study.json").read_bytes()
            self.calls = []

        def run(self, graph, node, check):
            check()
            inputs = graph[node]["inputs"]
            if self.left == 0:
                raise self.error
            self.left = self.left and self.left - 1
            seeds = range(inputs["first_seed"], inputs["first_seed"] + inputs["patients"])
            self.calls.append(seeds)
            block = block_of(seeds)
            return {"study.json": self.record, block.name: block.to_bytes()}

        def recover(self, check):
            return False

        def close(self):
            pass

    return Worker


def plan(seeds, width=0.0):
    return Plan(pruned(GRAPH, "2"), study_node(GRAPH), seeds, 4, 3, width)


def test_workers_that_die_or_are_of_another_study_change_no_figure(made, worker, tmp_path):
    whole = read(made("whole", range(50, 90)))
    told = []
    folder = made("cut", range(60, 63))
    workers = [worker("mortal", dies=2), worker("strange", weights={"vae": "0" * 64}), worker("good")]
    study = drive(plan(range(50, 90)), workers, folder, told.append)
    assert study.frame().equals(whole.frame()) and read(folder).frame().equals(whole.frame())
    assert not any({60, 61, 62} & set(seeds) for each in workers for seeds in each.calls)
    said = "\n".join(told)
    assert "mortal does not answer" in said
    assert "strange is left out" in said and "weights of the vae" in said
    assert not list(folder.glob("lock*"))


def test_what_is_done_is_kept_when_nobody_is_left_and_the_next_run_goes_on(worker, tmp_path):
    folder = tmp_path / "study"
    with pytest.raises(NobodyLeft, match="what is done is kept") as lost:
        drive(plan(range(20)), [worker("a", dies=2), worker("b", dies=1)], folder)
    assert not lost.value.refused and len(read(folder).seeds) == 12
    good = worker("good")
    assert drive(plan(range(20)), [good], folder).seeds == tuple(range(20))
    assert sum(map(len, good.calls)) == 8


def test_a_block_that_fails_everywhere_ends_the_study_with_the_nodes_own_words(worker, tmp_path):
    failed = NodeFailed({"node_id": "2", "node_type": "MedicalStudy", "exception_message": "no memory"})
    with pytest.raises(NodeFailed, match="no memory"):
        drive(plan(range(8)), [worker("a", dies=0, error=failed)], tmp_path / "study")


def test_it_ends_when_the_interval_is_narrow_enough(made, worker, tmp_path):
    study = drive(plan(range(400), width=0.3), [worker("good")], tmp_path / "study")
    low, high = study.intervals()["support devices"]
    assert high - low <= 0.3 and 20 < len(study.seeds) < 60


def test_a_worker_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("medtraverse.study.jobs.GRACE", 0.0)
    jobs = Jobs(cut(range(4), 4))
    (job,) = jobs.all
    assert jobs.take("hangs") is job and jobs.take("idle") is job
    jobs.finish(job, "idle")
    assert jobs.take("idle") is None


def test_a_job_is_the_study_alone_over_its_seeds():
    graph = over_seeds(pruned(GRAPH, "2"), "2", (7, 8), 1)
    assert (
        set(graph) == {"1", "2"} and json.dumps(GRAPH["2"]["inputs"]) == '{"model": ["1", 0], "pictured": 3}'
    )
    assert (graph["2"]["inputs"]["first_seed"], graph["2"]["inputs"]["patients"]) == (7, 2)
    assert cut([1, 2, 3, 7, 8, 10], 2) == [(1, 2), (3,), (7, 8), (10,)]
    with pytest.raises(ValueError, match="no Traversal Study"):
        study_node({"3": GRAPH["3"]})

"""A study on the live server: cancelled, gone on with, and made once more by the command's driver."""

import json
import time

import numpy as np
import pytest

from medtraverse.remote.client import RunInterrupted
from medtraverse.remote.study_worker import ServerWorker
from medtraverse.study import read
from medtraverse.study.drive import Plan, drive
from medtraverse.study.workflow import pruned

FOLDER = "studies/cancelled"


def test_cancel_keeps_what_is_done_and_no_cut_moves_a_digit(client, server, base, graph, tmp_path):
    loaded, sampler = graph.traversal()
    taken = graph[sampler.id]["inputs"]
    judge = graph.add(
        "MedicalClassifierLoader",
        classifier="MedTraverse demo CheXpert",
        second_classifier="none",
        labels="",
        input_size=0,
    )
    study = graph.add(
        "MedicalStudy",
        **{name: taken[name] for name in ("model", "neutral", "negative", "attributes", "width", "height")},
        **{name: taken[name] for name in ("steps", "cfg", "sampler", "scheduler", "swap_steps", "noise")},
        vae=loaded[2],
        image_classifier=judge[0],
        folder=FOLDER,
        first_seed=1500,
        patients=500,
        block_size=1,
        curve="bezier",
        frames=3,
        kept_frames="2",
        pictured=1,
    )
    graph = pruned(graph, study.id)
    prompt, folder = client.submit(graph), base / "output" / FOLDER
    until = time.monotonic() + 120
    while len(list(folder.glob("block-*"))) < 2:
        assert time.monotonic() < until, "no block after two minutes"
        time.sleep(0.1)
    client.cancel(prompt)
    with pytest.raises(RunInterrupted):
        client.wait(prompt, timeout=30)
    done = read(folder)
    assert len(done.seeds) >= 2 and not (folder / "lock.json").exists()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("block-*")}

    wanted = len(done.seeds) + 1
    graph[study.id]["inputs"]["patients"] = wanted
    result = client.run(graph, timeout=120)
    assert f"{wanted} patients, seeds 1500–" in result.outputs[study.id]["text"][0]
    assert result.outputs[study.id]["medtraverse_view"][0]["view"]
    assert json.loads(result.outputs[study.id]["medtraverse"][0])["swaps"]["patients"] == wanted
    assert {path: path.stat().st_mtime_ns for path in times} == times

    plan = Plan(graph, study.id, range(1500, 1502), 2, 1)
    driven = drive(plan, [ServerWorker(server)], tmp_path / "driven")
    whole = read(folder)
    assert driven.identity == whole.identity
    assert np.array_equal(driven.block.swap, whole.block.swap[:2])
    assert np.array_equal(driven.block.curve, whole.block.curve[:2])
    assert list((tmp_path / "driven").glob("latents-1500-1500.npz"))

"""A study's folder: what is in it counts once, is whole, and is one driver's at a time."""

import dataclasses
import json
import multiprocessing
import os
import time

import numpy as np
import pytest

from medtraverse.study import Store, read
from medtraverse.study import lock as locks
from medtraverse.study.lock import FolderLock


def test_a_seed_counts_once_however_the_seeds_are_cut(made):
    whole = read(made("whole", range(100, 130)))
    cut = read(made("cut", range(120, 130), range(100, 107), range(105, 125)))
    assert cut.seeds == whole.seeds == tuple(range(100, 130))
    assert np.array_equal(cut.block.swap, whole.block.swap)
    assert cut.frame().equals(whole.frame())
    parts = made("a", range(100, 117)), made("b", range(111, 130))
    assert read(*parts).frame().equals(whole.frame())


def test_a_frame_has_every_number(made):
    study = read(made("one", range(7, 9)))
    frame = study.frame().set_index(["seed", "attribute", "kind", "point"])
    assert len(frame) == 2 * 2 * (5 + 21)
    row = frame.loc[(8, "pleural effusion", "swap", "5")]
    assert row["p_Support Devices"] == study.block.swap[1, 1, 4, 0]
    assert (
        row["cosine"] == study.block.cosines[1, 1, 3] and row["own_ssim"] == study.block.own["ssim"][1, 1, 4]
    )


@pytest.mark.parametrize(
    ("settings", "weights", "said"),
    [
        ({"steps": 30}, {}, "steps: 50 here, 30 there"),
        ({}, {"vae": "0" * 64}, "weights of the vae: cdcdcdcdcdcd here, 000000000000 there"),
    ],
)
def test_other_settings_or_weights_are_refused_by_name(made, identity, settings, weights, said):
    folder = made("mine", range(3))
    other = dataclasses.replace(
        identity, settings={**identity.settings, **settings}, weights={**identity.weights, **weights}
    )
    before = sorted(path.read_bytes() for path in folder.iterdir())
    with pytest.raises(ValueError, match=said):
        Store(folder).open(other, {})
    assert sorted(path.read_bytes() for path in folder.iterdir()) == before
    Store(folder).open(identity, {"medtraverse": "another version"})


def test_a_later_form_and_a_broken_block_are_said(made, identity):
    folder = made("later", range(3))
    block = next(folder.glob("block-*"))
    block.write_bytes(block.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"{block.name}: is no whole block"):
        read(folder)
    record = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**record, "form": 99}))
    with pytest.raises(ValueError, match="its form is 99, and this version"):
        Store(folder)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_a_sentence_and_leaves_nothing(made, block_of, monkeypatch):
    folder = made("full", range(3))
    before = sorted(folder.iterdir())

    def full(path, content):
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(content)

    monkeypatch.setattr("medtraverse.study.block.write_bytes", full)
    with pytest.raises(ValueError, match=r"cannot be written to \(No space left on device\); make room"):
        Store(folder).add(block_of(range(5, 9)))
    assert sorted(folder.iterdir()) == before and read(folder).seeds == (0, 1, 2)


def hold(folder, held):
    with FolderLock(folder):
        held.set()
        time.sleep(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_two_drivers_are_refused_and_a_killed_one_is_not_waited_for(tmp_path):
    forked = multiprocessing.get_context("fork")
    held = forked.Event()
    holder = forked.Process(target=hold, args=(tmp_path, held))
    holder.start()
    try:
        assert held.wait(30)
        with pytest.raises(ValueError, match=f"process {holder.pid} on .* writes into the study"):
            FolderLock(tmp_path).__enter__()
    finally:
        holder.kill()
        holder.join()
    (tmp_path / ".medtraverse-killed").mkdir()
    (tmp_path / ".medtraverse-killed" / "block-1-2.npz").write_bytes(b"half")
    with FolderLock(tmp_path, patience=0) as lock:
        lock.check()
    assert not list(tmp_path.iterdir())


def test_another_hosts_lock_lives_by_its_count_and_by_no_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    # on no host that can be asked, and with clocks that are days apart
    monkeypatch.setattr(
        locks.socket, "gethostname", iter(f"host-{number}" for number in range(9999)).__next__
    )
    monkeypatch.setattr(locks.time, "time", lambda: 0.0)
    with FolderLock(tmp_path) as owner:
        with pytest.raises(ValueError, match="writes into the study"):
            FolderLock(tmp_path, patience=5).__enter__()
        owner._ended.set()  # it hangs: its count stands still
        owner._beating.join()
        with FolderLock(tmp_path, patience=0.5) as heir:
            heir.check()
            with pytest.raises(ValueError, match="was taken over by process"):
                owner.check()
    assert not list(tmp_path.iterdir())

"""A ComfyUI of one's own: which threads it computes with. Its life is tried in tests/server."""

import argparse

import pytest

from medtraverse.commands import study
from medtraverse.processors import processors


@pytest.fixture
def comfyui(tmp_path):
    (tmp_path / "main.py").touch()
    return tmp_path


def workers(comfyui, count):
    given = argparse.Namespace(
        server=None, comfyui=str(comfyui), ray=None, workers=count, arguments="--cpu", python=None
    )
    return study._workers(given)


def threads(worker):
    return worker.headless.environment().get("OMP_NUM_THREADS")


def test_several_share_the_processor_s_cores_and_one_has_them_all(comfyui, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for count in (2, 3, 10_000):
        share = max(1, processors() // count)
        assert {threads(worker) for worker in workers(comfyui, count)} == {str(share)}
    assert [threads(worker) for worker in workers(comfyui, 1)] == [None]


def test_what_the_user_says_of_threads_stands(comfyui, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert {threads(worker) for count in (1, 2) for worker in workers(comfyui, count)} == {"7"}

"""Studies of drawn numbers: what they say is known beforehand."""

import numpy as np
import pytest

from medtraverse.study import Block, Store
from medtraverse.study.store import Identity

SETTINGS = {
    "steps": 50,
    "domain": "CheXpert",
    "neutral": "normal",
    "attributes": ["support devices", "pleural effusion"],
    "colours": ["#00CC00", "#CC00CC"],
    "labels": [["Support Devices"], ["Pleural Effusion"]],
    "aliases": {},
    "judged": ["Support Devices", "Pleural Effusion"],
    "swap_steps": [45, 15, 10, 5],
    "curve": {"method": "bezier", "frames": 50, "kept": list(range(30, 50))},
    "controls": [0, 1, 2, 3],
    "perceptual": "none",
}
WEIGHTS = {"model": "ab" * 32, "vae": "cd" * 32, "classifier": "ef" * 32}


def _block(seeds):
    """A block whose numbers depend on each seed alone: every fifth patient fails."""
    seeds, columns = tuple(seeds), {}
    for name, points in (("swap", 5), ("curve", 21)):
        values = np.zeros((len(seeds), 2, points, 2), dtype=np.float32)
        for row, seed in enumerate(seeds):
            draw = np.random.default_rng([seed, points])
            values[row] = 0.1 + 0.05 * draw.random((2, points, 2))
            for a in range(2):
                rising = 1 - a if seed % 5 == 0 else a
                values[row, a, 1:, rising] += 0.6
        columns[name] = values
    cosines = np.stack([np.random.default_rng([seed, 1]).uniform(-1, 1, (2, 4)) for seed in seeds])
    cosines[..., 0] = 1
    alike = np.stack([np.random.default_rng([seed, 2]).random((2, 5)) for seed in seeds])
    measures = dict.fromkeys(("ssim", "mse", "correlation"), alike)
    return Block(seeds, columns["swap"], columns["curve"], cosines, measures, measures, {"seconds": 1.0})


@pytest.fixture
def block_of():
    return _block


@pytest.fixture
def identity():
    return Identity(SETTINGS, WEIGHTS)


@pytest.fixture
def made(tmp_path, identity):
    """``made(name, *ranges)`` writes a study of these blocks; returns its folder."""

    def make(name, *ranges):
        store = Store(tmp_path / name)
        store.open(identity, {"medtraverse": "0"})
        for seeds in ranges:
            store.add(_block(seeds))
        return tmp_path / name

    return make

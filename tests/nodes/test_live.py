"""What a node shows while it samples takes little of its time."""

import itertools


def test_previews_come_twice_a_second_at_most(pack, node_classes, monkeypatch):
    ticks = itertools.count(0, 0.1)
    monkeypatch.setattr(pack.nodes.live.time, "monotonic", lambda: next(ticks))
    pace = pack.nodes.live.Pace(0.5)
    assert [pace.due() for _ in range(3)] == [True, False, False]
    assert sum(pace.due() for _ in range(97)) <= 20

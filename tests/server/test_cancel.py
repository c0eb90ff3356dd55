"""Cancel is heard within two seconds by nodes of a few long calls; benchmarks/cancel.py tries all nodes."""

import pytest

from benchmarks.cancel import DRILLS, GOAL, answer_time, prepare


@pytest.mark.parametrize("name", ["FID and KID", "identity", "save"])
def test_a_long_node_answers_a_cancel_at_once(client, base, name):
    prepare(base)
    answered = answer_time(client, name, after=0.5, seed=list(DRILLS).index(name))
    assert answered is not None, "there was too little work"
    assert answered < GOAL

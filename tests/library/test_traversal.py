"""The plan of a traversal: which row is evaluated under which prompt at which step."""

import json
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medtraverse.traversal import NEUTRAL, Plan, TraversalSettings, ddim_timesteps, parse_swap_steps

PAPER = (45, 40, 35, 30, 25, 20, 15, 10, 5)
swaps = st.lists(st.integers(0, 18), min_size=1, max_size=5, unique=True).map(tuple)


@pytest.mark.parametrize(("attributes", "rows"), [(1, 266), (3, 698)])
def test_rows_of_the_paper_are_50_plus_216_per_attribute(attributes, rows):
    assert Plan(1, attributes, PAPER).evaluations(50, guidance=False) == rows
    assert Plan(5, attributes, PAPER).evaluations(50, guidance=False) == 5 * rows


def test_unconditional_rows_are_shared_for_one_step_more():
    assert Plan(1, 1, PAPER).evaluations(50) == 2 * 266 - 9


def test_swap_happens_after_step_lambda_not_before():
    """Off by one: λ + 1 steps, 0…λ, are neutral."""
    plan = Plan(1, 1, (5,))
    neutral_steps = [step for step in range(50) if plan.sources(step, 50)[0][1] == 0]
    assert neutral_steps == [0, 1, 2, 3, 4, 5]


@given(patients=st.integers(1, 4), attributes=st.integers(1, 4), swap_steps=swaps)
def test_index_names_every_row_and_starts_at_the_neutral(patients, attributes, swap_steps):
    plan = Plan(patients, attributes, swap_steps)
    index = plan.index()
    assert index.shape == (patients, attributes, 1 + len(swap_steps))
    assert sorted(index.unique().tolist()) == list(range(plan.rows))
    assert (plan.attribute()[index[:, :, 0]] == NEUTRAL).all()
    assert (plan.patient()[index] == torch.arange(patients)[:, None, None]).all()
    for number in range(attributes):
        assert (plan.attribute()[index[:, number, 1:]] == number).all()
        assert (plan.swap_step(20)[index[:, number, 1:]] == torch.tensor(swap_steps)).all()


@given(patients=st.integers(1, 3), attributes=st.integers(1, 3), swap_steps=swaps, step=st.integers(0, 19))
def test_a_row_is_served_by_its_own_patient_under_its_own_prompt(patients, attributes, swap_steps, step):
    plan = Plan(patients, attributes, swap_steps)
    conditional, unconditional = plan.sources(step, 20)
    assert (plan.patient()[conditional] == plan.patient()).all()
    assert (plan.patient()[unconditional] == plan.patient()).all()
    swapped = step > plan.swap_step(20)
    assert (conditional[swapped] == torch.arange(plan.rows)[swapped]).all()
    assert torch.isin(unconditional.unique(), conditional.unique()).all()


def test_the_evaluations_of_a_great_cohort_are_counted_at_once():
    started = time.perf_counter()
    assert Plan(100_000, 3, PAPER).evaluations(50, guidance=False) == 100_000 * 698
    assert time.perf_counter() - started < 1


def test_blocks_of_settings_have_each_patient_once():
    settings = TraversalSettings(
        seed=1500,
        patients=7,
        steps=50,
        cfg=7.5,
        sampler="ddim",
        scheduler="diffusers_ddim",
        swap_steps=PAPER,
        noise="cpu",
        width=512,
        height=256,
        domain="ISIC",
        neutral="NV",
        neutral_prompt="a nevus",
        prompts=(("hair", "a nevus with hair"), ("ink", "a nevus with ink")),
    )
    blocks = [settings.block(first, 3) for first in (0, 3, 6)]
    assert sum((block.seeds for block in blocks), ()) == settings.seeds == tuple(range(1500, 1507))
    assert [block.plan.rows for block in blocks] == [3 * 19, 3 * 19, 19]
    assert settings.plan is settings.plan and settings.plan.rows == 7 * 19
    report = json.loads(json.dumps(settings.report()))
    assert report["swap_steps"] == list(PAPER) and report["prompts"]["ink"] == "a nevus with ink"
    assert list(report) == [
        *("seed", "patients", "steps", "cfg", "sampler", "scheduler", "swap_steps", "noise"),
        *("width", "height", "domain", "neutral", "neutral_prompt", "prompts"),
    ]


def test_evaluations_are_a_sum_over_the_attributes():
    assert Plan(1, 1, (5, 10)).evaluations(50, False) == 50 + 44 + 39


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (" , ", "empty"),
        ("45,x", "whole numbers"),
        ("49", "out of range"),
        ("50", "out of range"),
        ("-1", "out of range"),
        ("5,10,5", "given twice"),
        ("5.5", "whole numbers"),
        ("x%", "whole numbers"),
        ("100%", r"100% \(step 50\) is out of range"),
        ("nan%", "whole numbers"),
        ("90%,45", "90% and 45 are both step 45 of 50"),
    ],
)
def test_bad_swap_steps_are_named(text, fault):
    with pytest.raises(ValueError, match="swap_steps.*" + fault):
        parse_swap_steps(text, 50)


def test_a_share_of_the_steps_keeps_its_meaning():
    paper = "90%,80%,70%,60%,50%,40%,30%,20%,10%"
    assert parse_swap_steps(paper, 50) == (45, 40, 35, 30, 25, 20, 15, 10, 5)
    assert parse_swap_steps(paper, 20) == (18, 16, 14, 12, 10, 8, 6, 4, 2)
    assert parse_swap_steps("90 %, 12.5%, 3", 50) == (45, 6, 3)


def test_swap_steps_keep_their_order():
    assert parse_swap_steps(" 45, 5 ,10", 50) == (45, 5, 10)


@pytest.mark.parametrize("steps", [1, 7, 30, 50, 60, 999])
def test_timesteps_are_diffusers(steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(steps_offset=1, timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    assert ddim_timesteps(steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("steps", [0, 1000])
def test_impossible_numbers_of_steps_are_named(steps):
    with pytest.raises(ValueError, match="steps"):
        ddim_timesteps(steps)

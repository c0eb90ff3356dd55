"""The maths of a trajectory from an image, on networks that are plain functions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtraverse.projection import (
    INVERSION,
    METHODS,
    ONE_NOISE,
    OWN_NOISE,
    Start,
    branched,
    changed_region,
    evaluations,
    first_step,
    inverted,
    kept_outside,
    latent_mask,
    noised,
    path_noise,
)
from medtraverse.traversal import NEUTRAL, Plan

NINE = tuple(range(45, 0, -5))
SHAPE = (2, 3, 4)

alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, 0)


def levels(steps):
    """σ of DDIM's steps and the last one, [steps + 1], and ᾱ beside it."""
    times = torch.arange(steps).flip(0) * (1000 // steps) + 1
    reached = torch.cat([alphas[times], alphas[:1]])
    return ((1 - reached) / reached).sqrt(), reached


def network(latent, prompt):
    """A stand-in for ε of a VP latent under a prompt (a number): smooth, not linear, deterministic."""
    return torch.sin(1.7 * latent + 0.9 * prompt) + 0.2 * latent * prompt


def swapped(plan, step, steps):
    """The prompt of each row at a step: 0 for the source's, else the attribute's number from 1."""
    return torch.where(step <= plan.swap_step(steps), NEUTRAL, plan.attribute()) + 1


def run(z0, path, sigmas, plan, mask=None, prompts=None):
    """`branched` on the stand-in network."""
    steps = len(sigmas) - 1

    def denoised(step, x, sigma):
        prompt = (swapped(plan, step, steps) if prompts is None else prompts).reshape(-1, 1, 1, 1)
        return x - sigma * network(x / math.sqrt(1 + sigma**2), prompt.to(x))

    return branched(denoised, path.__getitem__, z0, sigmas, plan, mask) / math.sqrt(1 + sigmas[-1] ** 2)


def a_case(seed, patients, attributes, swaps, steps, method=OWN_NOISE):
    generator = torch.Generator().manual_seed(seed)
    z0 = torch.randn(patients, *SHAPE, generator=generator, dtype=torch.float64)
    sigmas, reached = levels(steps)
    plan = Plan(patients, attributes, swaps)
    noise = path_noise(range(patients), steps, SHAPE).double()
    states = noised(z0, noise, sigmas, method)
    return z0, {step: states[:, step] for step in range(steps)}, sigmas, reached, plan


cases = st.tuples(
    st.integers(0, 99),
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.integers(0, 8), min_size=1, max_size=4, unique=True).map(tuple),
    st.just(10),
    st.sampled_from([OWN_NOISE, ONE_NOISE]),
)


@given(cases)
@settings(max_examples=40, deadline=None)
def test_equals_ddim_with_the_source_s_error_added(case):
    """z' = S_k(z, ε_target) + p_(k+1) − S_k(p_k, ε_source), in VP latents, one row at a time."""
    z0, path, sigmas, reached, plan = a_case(*case)
    steps, ours = len(sigmas) - 1, run(z0, path, sigmas, plan)
    p = [path[step] * reached[step].sqrt() for step in range(steps)] + [z0]

    def ddim(z, step, prompt):
        noise = network(z, prompt)
        clean = (z - (1 - reached[step]).sqrt() * noise) / reached[step].sqrt()
        return reached[step + 1].sqrt() * clean + (1 - reached[step + 1]).sqrt() * noise

    rows = zip(plan.patient().tolist(), plan.attribute().tolist(), plan.swap_step(steps).tolist())
    for row, (patient, attribute, swap_step) in enumerate(rows):
        z = p[0][patient]
        for step in range(steps):
            source = ddim(p[step][patient], step, 0)
            z = ddim(z, step, 0 if step <= swap_step else attribute + 1) + p[step + 1][patient] - source
        assert (z - ours[row]).abs().max() < 1e-9


@given(cases)
@settings(max_examples=20, deadline=None)
def test_a_swap_to_the_source_s_prompt_changes_nothing(case):
    z0, path, sigmas, _, plan = a_case(*case)
    ended = run(z0, path, sigmas, plan, prompts=torch.zeros(plan.rows))
    assert (ended - z0[plan.patient()]).abs().max() < 1e-14


@given(cases)
@settings(max_examples=20, deadline=None)
def test_a_branch_does_not_depend_on_the_others(case):
    z0, path, sigmas, _, plan = a_case(*case)
    together = run(z0, path, sigmas, plan)[plan.index()]
    for column, swap_step in enumerate(plan.swap_steps, 1):
        single = Plan(plan.patients, plan.attributes, (swap_step,))
        alone = run(z0, path, sigmas, single)[single.index()]
        assert (alone[:, :, 1] - together[:, :, column]).abs().max() < 1e-12


def test_a_mask_frees_its_inside_alone():
    z0, path, sigmas, _, plan = a_case(3, 2, 1, (4, 1), 10)
    mask = torch.zeros(2, 1, *SHAPE[1:], dtype=torch.float64)
    mask[0, :, 1:, 2:] = 1
    ended = run(z0, path, sigmas, plan, mask)
    moved = (ended - z0[plan.patient()]).abs().amax(1)[plan.index()][:, 0, 1:]
    assert moved[0][:, 1:, 2:].min() > 0 and moved[1].max() == 0
    moved[0][:, 1:, 2:] = 0
    assert moved.max() == 0
    whole = run(z0, path, sigmas, plan, torch.ones_like(mask))
    assert torch.equal(whole, run(z0, path, sigmas, plan))


def test_inversion_is_undone_where_the_noise_does_not_depend_on_the_latent():
    """With ε constant, DDIM from the inverted path ends at the image; and the path is DDIM's own."""
    z0, _, sigmas, reached, _ = a_case(5, 2, 1, (3,), 10)
    constant = torch.full_like(z0, 0.3)
    path = inverted(lambda step, x, sigma: x - sigma * constant, z0, sigmas)
    z = path[0] * reached[0].sqrt()
    for step in range(10):
        assert (z - path[step] * reached[step].sqrt()).abs().max() < 1e-12
        clean = (z - (1 - reached[step]).sqrt() * constant) / reached[step].sqrt()
        z = reached[step + 1].sqrt() * clean + (1 - reached[step + 1]).sqrt() * constant
    assert (z - z0).abs().max() < 1e-12


def test_inversion_begins_where_it_is_asked_to():
    z0, _, sigmas, _, _ = a_case(5, 2, 1, (3,), 10)

    def denoised(step, x, sigma):
        return x - sigma * network(x / math.sqrt(1 + sigma**2), 0)

    whole, part = (inverted(denoised, z0, sigmas, first) for first in (0, 6))
    assert sorted(part) == [6, 7, 8, 9] and all(torch.equal(part[step], whole[step]) for step in part)


def test_noise_is_the_patient_s_own_and_begins_with_the_noise_of_its_seed():
    noise = path_noise([7, 8], 5, SHAPE)
    assert torch.equal(noise[1:], path_noise([8], 5, SHAPE))
    assert torch.equal(noise[0, 0], torch.randn(SHAPE, generator=torch.Generator().manual_seed(7)))
    assert (noise[:, 0] - noise[:, 1]).abs().max() > 0.1


@pytest.mark.parametrize("attributes", [1, 2, 4])
def test_the_paper_s_setting_costs_88_and_423_for_each_attribute(attributes):
    assert evaluations(50, NINE, attributes) == 88 + 423 * attributes
    assert evaluations(50, NINE, attributes, INVERSION) == 44 + 88 + 423 * attributes
    assert evaluations(50, NINE, attributes, guided=False) == 44 + 216 * attributes


@given(st.lists(st.integers(0, 18), min_size=1, max_size=6, unique=True), st.integers(1, 3), st.booleans())
def test_the_cost_is_what_the_plan_evaluates(swaps, attributes, guided):
    plan, steps = Plan(1, attributes, tuple(swaps)), 20
    total = 0
    for step in range(first_step(swaps), steps):
        conditional, unconditional = plan.sources(step, steps)
        total += len(conditional.unique()) + (len(unconditional.unique()) if guided else 0)
    assert evaluations(steps, swaps, attributes, guided=guided) == total


def test_a_thin_stroke_of_the_mask_counts():
    mask = torch.zeros(1, 64, 64)
    mask[0, 10, :] = 1
    found = latent_mask(mask, (8, 8))
    assert found.shape == (1, 1, 8, 8) and found[0, 0, 1].eq(1).all() and found.sum() == 8


def test_the_changed_region_is_where_the_latent_changed_and_beside():
    difference = torch.zeros(1, 4, 12, 12)
    assert not changed_region(difference).any()
    difference[:, :, 6:9, 6:9] = 2
    region = changed_region(difference)[0, 0]
    assert region[7, 7] == 1 and region[4:11, 4:11].sum() == region.sum() > 9
    kept = kept_outside(difference + 1, torch.ones_like(difference))
    assert torch.equal(kept, difference + 1)


def test_a_block_of_a_start_has_its_own_masks():
    latents = torch.randn(3, *SHAPE)
    start = Start(latents, (5, 6, 7), OWN_NOISE, torch.rand(3, 1, *SHAPE[1:]))
    block = start.block(1, 5)
    assert block.seeds == (6, 7) and torch.equal(block.masks(), start.mask[1:])
    shared = Start(latents, (5, 6, 7), OWN_NOISE, torch.rand(1, 1, *SHAPE[1:])).block(2, 1)
    assert shared.masks().shape == (1, 1, *SHAPE[1:])
    assert Start(latents, (5, 6, 7)).block(0, 2).masks() is None
    assert set(METHODS) == {OWN_NOISE, ONE_NOISE, INVERSION}

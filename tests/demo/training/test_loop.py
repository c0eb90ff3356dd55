"""The training loop: what a recipe asks for, and a continued run is the run that was never stopped."""

import itertools
import math

import pytest
import torch

from demo.training.loop import Averaged, Clock, Gradients, Recipe, Run

RECIPES = {
    "averaged": Recipe(1e-2, warm=3, averaging=0.9, half=False),
    "plain": Recipe(1e-2, warm=3, floor=0.01, betas=(0.9, 0.999), half=False, slices=1),
}


def batch(step):
    draw = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 3, generator=draw)
    return inputs, inputs @ torch.tensor([[1.0], [-2.0], [0.5]])


def start(path, recipe, steps=12, **more):
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)
    run = Run(
        "line", {"network": network}, path, recipe, None, steps, "cpu", more.pop("resume", False), **more
    )
    return network, run, lambda x, y: (network(x) - y).square().mean()


def train(run, loss, until=12):
    while not run.done and run.clock.step < until:
        run.step(loss, *batch(run.clock.step))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_continued_run_is_the_whole_run(tmp_path, recipe):
    whole, run, loss = start(tmp_path / "whole.pt", recipe)
    before = loss(*batch(99)).item()
    train(run, loss)
    run.finish()
    assert loss(*batch(99)).item() < before
    _, first, loss = start(tmp_path / "parts.pt", recipe)
    train(first, loss, until=5)
    first.save()
    network, second, loss = start(tmp_path / "parts.pt", recipe, resume=True)
    assert second.clock.step == 5
    train(second, loss)
    second.finish()
    assert torch.equal(network.weight, whole.weight) and torch.equal(network.bias, whole.bias)
    assert second.clock.log("cpu")["loss"] == pytest.approx(run.clock.log("cpu")["loss"])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["parts.pt", "whole.pt"]


def test_without_resume_the_checkpoint_is_left_aside(tmp_path):
    _, run, loss = start(tmp_path / "run.pt", RECIPES["plain"])
    train(run, loss)
    run.finish()
    assert start(tmp_path / "run.pt", RECIPES["plain"])[1].clock.step == 0


def test_another_training_is_not_continued(tmp_path):
    start(tmp_path / "run.pt", RECIPES["plain"], identity={"seed": 1})[1].save()
    start(tmp_path / "run.pt", RECIPES["plain"], identity={"seed": 1}, resume=True)
    with pytest.raises(ValueError, match="checkpoint: .*run.pt belongs to a training with {'seed': 1}"):
        start(tmp_path / "run.pt", RECIPES["plain"], identity={"seed": 2}, resume=True)


def test_the_rate_warms_up_and_falls_to_its_floor():
    recipe, clock = Recipe(1.0, warm=10, floor=0.1), Clock("rate", None, 100)
    rates = []
    for clock.step in range(101):
        rates.append(clock.rate(recipe))
    assert rates[0] == pytest.approx(0.1, abs=1e-3) and max(rates) == rates[9] < 1
    assert rates[50] == pytest.approx(0.1 + 0.9 / 2) and rates[100] == pytest.approx(0.1)
    assert clock.fraction == 1 and all(a > b for a, b in itertools.pairwise(rates[9:]))


def test_minutes_of_earlier_runs_count():
    clock = Clock("minutes", 10.0, None, spent=5.0)
    assert clock.fraction == pytest.approx(0.5, abs=0.01)
    assert Clock("minutes", 10.0, None, spent=11.0).fraction == 1


def test_gradients_of_slices_are_those_of_the_batch():
    network = torch.nn.Linear(3, 1)
    parameters = list(network.parameters())

    def loss(x, y):
        return (network(x) - y).square().mean()

    whole = Gradients(parameters, "cpu", slices=1, half=False)
    mean = whole(loss, *batch(0))
    expected = [p.grad.clone() for p in parameters]
    sliced = Gradients(parameters, "cpu", slices=2, half=False)(loss, *batch(0))
    torch.testing.assert_close([p.grad for p in parameters], expected)
    torch.testing.assert_close(sliced, mean)


def test_the_average_follows_slowly_and_swaps_back():
    parameter = torch.nn.Parameter(torch.zeros(1))
    average = Averaged([parameter], 0.5)
    with torch.no_grad():
        parameter.fill_(1.0)
    average.update()  # the first weight is 1 - 1/11
    assert average.shadow[0].item() == pytest.approx(10 / 11)
    average.update()
    average.swap()
    assert parameter.item() == pytest.approx(1 - (1 / 11) * (2 / 12)) and average.shadow[0].item() == 1
    average.swap()
    assert parameter.item() == 1 and math.isfinite(average.shadow[0].item())

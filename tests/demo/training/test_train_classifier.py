"""Training of the demo's classifiers, and the classifiers that it ships."""

import json

import numpy as np
import pytest
import torch

from demo.training.architecture import WEIGHTS
from demo.training.loop import Run
from demo.training.train_classifier import (
    DOMAINS,
    EVALUATION_SEEDS,
    MEAN,
    STD,
    build,
    calibration_error,
    draw,
    main,
    save_weights,
)
from medtraverse.checkpoint import read_weights
from medtraverse.classifier import load_classifier
from medtraverse.notice import NOTICE


def test_the_library_loads_what_training_saves(tmp_path):
    network = build(4, 0.25).eval()
    path = tmp_path / "classifier.safetensors"
    save_weights(network, "isic", path)
    classifier = load_classifier(path)
    assert (classifier.labels, classifier.input_size) == (("hair", "gel bubble", "ruler", "ink"), 128)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    network = network.half().float()
    images, _ = draw("isic", EVALUATION_SEEDS + np.arange(4))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    normalised = (images.float() / 255 - mean) / std
    with torch.inference_mode():
        torch.testing.assert_close(
            classifier.judges[0](normalised), network(normalised), atol=1e-5, rtol=1e-4
        )


def test_calibration_error_of_known_predictions():
    truth = np.array([1.0, 0, 0, 0] * 25)
    assert calibration_error(np.full(100, 0.25), truth) == pytest.approx(0)
    assert calibration_error(np.full(100, 0.75), truth) == pytest.approx(0.5)
    assert calibration_error(truth, truth) == 0
    # Half the images at 0.9 and none positive there, half at 0.1 and half of those positive.
    halves = np.r_[np.zeros(50), np.tile([0, 1], 25)]
    assert calibration_error(np.repeat([0.9, 0.1], 50), halves) == pytest.approx(0.65)


def test_calibration_error_of_sampled_truths():
    rng = np.random.default_rng(0)
    probability = rng.random(20000)
    assert calibration_error(probability, rng.random(20000) < probability) < 0.02


@pytest.mark.parametrize("domain", ["chexpert", "isic"])
def test_shipped_classifiers_judge_unseen_phantoms(domain):
    classifier = load_classifier(WEIGHTS.parent / f"classifier-{domain}.safetensors")
    assert (classifier.labels, classifier.input_size) == (DOMAINS[domain][1], 128)
    images, truth = draw(domain, EVALUATION_SEEDS + 50_000 + np.arange(48))
    agreement = (classifier.predict(images.permute(0, 2, 3, 1).float() / 255) > 0.5) == truth.bool()
    assert truth.bool().any(0).all() and not truth.bool().all(0).any()
    assert agreement.float().mean(0).min() > 0.95


def _train(folder, *arguments):
    out = folder / "classifier.safetensors"
    small = [
        "--width",
        "0.25",
        "--pool",
        "24",
        "--reconstructions",
        "8",
        "--count",
        "24",
        "--cache",
        str(folder),
    ]
    stages = ["--steps", "2", "--vae-steps", "3", "--vae", str(WEIGHTS / "vae")]
    main(["train", "--domain", "isic", "--out", str(out), *small, *stages, *arguments])
    return out


def test_a_continued_training_is_the_whole_one(tmp_path, monkeypatch, capsys):
    """Broken off in the second stage, which goes on with the first one's optimiser."""
    whole = _train(tmp_path / "whole")
    log = json.loads(whole.with_suffix(".json").read_text())
    assert log["notice"] == NOTICE and log["reconstructions"] == 8
    assert {name: stage["steps"] for name, stage in log["stages"].items()} == {
        "phantoms": 2,
        "reconstructions": 3,
    }
    assert set(log["evaluation"]["reconstructions"]) == set(DOMAINS["isic"][1])
    step = Run.step

    def stops(run, *arguments, **options):
        if run.clock.name == "reconstructions" and run.clock.step == 1:
            run.save()
            raise KeyboardInterrupt
        return step(run, *arguments, **options)

    monkeypatch.setattr(Run, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts")
    monkeypatch.undo()
    parts = _train(tmp_path / "parts", "--resume")
    torch.testing.assert_close(read_weights(parts), read_weights(whole), atol=0, rtol=0)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="checkpoint: .*belongs to a training with .*'seed': 0"):
        _train(tmp_path / "parts", "--resume", "--seed", "1")
    # Begun anew, nothing of the older training's second stage is taken up later.
    monkeypatch.setattr(Run, "step", lambda run, *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts")
    assert not list(tmp_path.glob("parts/classifier-isic/*.pt"))

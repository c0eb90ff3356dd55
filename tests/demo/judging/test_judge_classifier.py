"""The classifiers that the demo ships, and how they are judged."""

import json

import numpy as np
import pytest

from demo.judging.judge_classifier import DOMAINS, EVALUATION_SEEDS, draw, main
from demo.training.architecture import WEIGHTS
from medtraverse.classifier import load_classifier


@pytest.mark.parametrize("domain", ["chexpert", "isic"])
def test_shipped_classifiers_judge_unseen_phantoms(domain):
    classifier = load_classifier(WEIGHTS.parent / f"classifier-{domain}.safetensors")
    assert (classifier.labels, classifier.input_size) == (DOMAINS[domain][1], 128)
    images, truth = draw(domain, EVALUATION_SEEDS + 50_000 + np.arange(48))
    agreement = (classifier.predict(images.permute(0, 2, 3, 1).float() / 255) > 0.5) == truth.bool()
    assert truth.bool().any(0).all() and not truth.bool().all(0).any()
    assert agreement.float().mean(0).min() > 0.95


def test_the_command_scores_phantoms_and_their_reconstructions(capsys):
    weights = str(WEIGHTS.parent / "classifier-isic.safetensors")
    options = ["--count", "12", "--vae", str(WEIGHTS / "vae")]
    assert main(["--domain", "isic", "--weights", weights, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["phantoms"]) == set(report["reconstructions"]) == set(DOMAINS["isic"][1])
    assert report["phantoms"]["hair"]["auc"] == 1.0 and report["phantoms"]["ruler"]["ece"] < 0.1
    assert main(["--domain", "chexpert", "--weights", weights]) == 2
    assert "chexpert needs support devices, pleural effusion" in capsys.readouterr().err

import numpy as np
import pytest
import torch
from torch import nn

from medtraverse.classifiers.judge import SIGMOID, Judge, Library, Squash
from medtraverse.classifiers.self_check import check_input, classifier_doubts, has_colour

SIZE = (128, 128)


def verdicts(rows):
    return np.array(rows, dtype=float)


def test_a_classifier_that_tells_images_apart_raises_no_doubt():
    probabilities = verdicts([[0.1, 0.2], [0.9, 0.3]])
    assert classifier_doubts(["a", "b"], probabilities, np.array([True, False]), SIZE, SIZE) == []


def test_a_constant_output_is_named():
    probabilities = verdicts([[0.1, 0.2], [0.9, 0.2], [0.4, 0.2]])
    (doubt,) = classifier_doubts(["a", "b"], probabilities, np.array([True, False, False]), SIZE, SIZE)
    assert doubt.startswith("classifier: it says the same of every image for b;")


def test_one_image_is_never_called_constant():
    assert classifier_doubts(["a"], verdicts([[0.2]]), np.array([True]), SIZE, SIZE) == []


def test_findings_in_most_neutral_images_are_counted():
    probabilities = verdicts([[0.9, 0.2], [0.8, 0.1], [0.3, 0.9]])
    (doubt,) = classifier_doubts(["a", "b"], probabilities, np.array([True, True, True]), SIZE, SIZE)
    assert "a in 67%" in doubt
    assert "b in" not in doubt


def test_an_image_much_smaller_than_the_input_is_said():
    (doubt,) = classifier_doubts(["a"], verdicts([[0.2]]), np.array([False]), (128, 96), (512, 512))
    assert "512 × 512" in doubt
    assert "96 × 128" in doubt


def test_a_label_for_what_is_normal_is_no_doubt():
    probabilities = verdicts([[0.9, 0.1], [0.2, 0.8]])
    assert classifier_doubts(["No Finding", "b"], probabilities, np.array([True, False]), SIZE, SIZE) == []


def test_a_label_that_is_nowhere_is_no_doubt():
    probabilities = verdicts([[0.1, 1e-6], [0.9, 2e-6]])
    assert classifier_doubts(["a", "b"], probabilities, np.array([True, False]), SIZE, SIZE) == []


def judge(preprocess, channels=3):
    head = nn.Linear(2, 1)
    network = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return Judge(network, head, ["a"], preprocess, SIGMOID, [], "test")


def library(scale=1 / 255, shift=0.0, channels=3):
    def function(image):
        scaled = torch.from_numpy(image).permute(2, 0, 1).float() * scale + shift
        return scaled[:channels]

    return Library(function, (32, 32), "its own")


@pytest.mark.parametrize(
    ("preprocess", "words"),
    [
        (library(), None),
        (library(2 / 255, -1.0), None),
        (library(1 / 255 / 0.229, -0.485 / 0.229), None),
        (library(1.0), "reaches from 0 to 255, as if the images were not rescaled"),
        (
            library(1 / 255 / 255),
            "black and white differ by 0.0039 only, as if the images were rescaled twice",
        ),
        (Squash(32, (0.5,) * 3, (0.5,) * 3, 1024.0), None),
    ],
)
def test_the_range_of_the_input_is_checked_at_loading(preprocess, words):
    doubts = check_input(judge(preprocess), "mine")
    assert [words in doubt for doubt in doubts] == ([True] if words else [])


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="mine takes 1 channels and its preprocessing gives 3"):
        check_input(judge(library(), channels=1), "mine")
    assert check_input(judge(library(channels=1), channels=1), "mine") == []


def test_colour_that_is_not_seen_is_said():
    grey = torch.rand(2, 8, 8, 1).expand(-1, -1, -1, 3)
    assert not has_colour(grey) and has_colour(torch.rand(2, 8, 8, 3))
    (doubt,) = classifier_doubts(["a"], verdicts([[0.2]]), np.array([True]), SIZE, SIZE, loses_colour=True)
    assert "one channel and the images have colour" in doubt

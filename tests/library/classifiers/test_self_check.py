import numpy as np

from medtraverse.classifiers.self_check import classifier_doubts

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

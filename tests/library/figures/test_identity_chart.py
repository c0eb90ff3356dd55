import numpy as np
import pytest
from matplotlib.colors import to_rgba

from medtraverse.figures.identity_chart import identity_figure
from medtraverse.figures.render import to_image
from medtraverse.notice import NOTICE
from medtraverse.published import published, published_curve

NAMES, COLOURS = ("support devices", "pleural effusion"), ("#00CC00", "#CC00CC")
STEPS = published()["swap steps"]


def draw(patients=4, **change):
    rng = np.random.default_rng(0)
    values = rng.random((patients, 2, 9)).cumsum(axis=2)
    given = {
        "values": values,
        "others": values + 3,
        "steps": STEPS,
        "attributes": NAMES,
        "colours": COLOURS,
        "measure": "a distance",
        **change,
    }
    return given, identity_figure(**given)


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}


def test_lines_are_means_over_patients_in_the_attributes_colour_beside_other_patients():
    given, figure = draw()
    drawn = lines(figure)
    assert set(drawn) == {*NAMES, "other patients"}
    for number, (name, colour) in enumerate(zip(NAMES, COLOURS)):
        assert np.allclose(drawn[name].get_ydata(), given["values"][:, number].mean(axis=0))
        assert to_rgba(drawn[name].get_color()) == to_rgba(colour)
    assert np.allclose(drawn["other patients"].get_ydata(), given["others"].reshape(8, 9).mean(axis=0))
    assert drawn["other patients"].is_dashed() and not drawn[NAMES[0]].is_dashed()
    assert figure.axes[0].get_xlim()[0] > figure.axes[0].get_xlim()[1], "swap steps fall"
    texts = [text.get_text() for text in figure.texts]
    assert NOTICE in texts and any("4 patients" in text for text in texts)
    assert "a distance" in figure.axes[0].get_ylabel() and "λ" in figure.axes[0].get_xlabel()
    assert to_image(figure, 40).std() > 0


def test_bands_are_one_standard_deviation():
    given, figure = draw()
    bands = figure.axes[0].collections
    assert len(bands) == 3
    spread, mean = given["values"].std(axis=0)[1], given["values"].mean(axis=0)[1]
    heights = bands[-1].get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx((mean - spread).min()) and heights.max() == pytest.approx(
        (mean + spread).max()
    )


def test_published_values_are_dashed_on_the_attribute_that_has_them():
    known = published_curve("lpips to neutral", "CheXpert", "normal")
    drawn = lines(draw(published=known)[1])
    assert set(drawn) == {*NAMES, "other patients", "support devices, from the paper"}
    assert list(drawn["support devices, from the paper"].get_ydata()) == list(
        known["support devices"].values()
    )
    assert drawn["support devices, from the paper"].is_dashed()


def test_frames_of_a_curve_rise():
    _, figure = draw(curve=True, steps=range(9))
    axes = figure.axes[0]
    assert axes.get_xlim()[0] < axes.get_xlim()[1] and axes.get_xlabel() == "frame"


def test_one_patient_has_neither_bands_nor_others():
    _, figure = draw(1, others=np.full((1, 2, 9), np.nan))
    assert set(lines(figure)) == set(NAMES) and not figure.axes[0].collections


def test_a_trajectory_of_the_neutral_alone_still_draws():
    to_image(draw(values=np.zeros((2, 2, 0)), others=np.zeros((2, 2, 0)), steps=[])[1], 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": STEPS[:-1]}, "values: they have shape .* 8 points"),
        ({"others": np.zeros((4, 2, 8))}, "others: they have shape"),
        ({"colours": COLOURS[:1]}, "colours: 1 are given"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        draw(**change)

import pytest

from medtraverse.labels import plain, position, repeated

NAMES = ("Support Devices", "ink", "Ink", "gel_bubble")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("Support Devices", 0),
        ("support devices", 0),
        (" SUPPORT_devices ", 0),
        ("ink", 1),
        ("Ink", 2),
        ("INK", None),  # either of two
        ("gel bubble", 3),
        ("hair", None),
        ("", None),
    ],
)
def test_position(name, index):
    assert position(name, NAMES) == index


def test_plain_leaves_nothing_but_letters_and_single_spaces():
    assert plain("\tGel--Bubble__1 ") == "gel bubble 1"


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("lung_opacity", 1),  # by its first alias that is there
        ("Support Devices", 0),  # its own name is nearer than any alias
        ("ink", 2),
        ("mass", None),
    ],
)
def test_position_by_aliases(name, index):
    names = ("support devices", "Opacity", "Hair", "hairs")
    aliases = {
        "Lung Opacity": ("opacities", "opacity", "hair"),
        "support devices": ("opacity",),
        "ink": ("hair",),
    }
    assert position(name, names, aliases) == index


def test_an_alias_that_is_two_labels_is_none():
    assert position("a", ("b", "B "), {"a": ("B", "b")}) is None


def test_repeated_goes_by_the_same_rule():
    assert repeated(("Gel bubble", "ink", "gel_bubble")) == "Gel bubble"
    assert repeated(("ink", "hair")) is None

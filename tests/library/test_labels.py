import pytest

from medtraverse.labels import plain, position

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

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from medtraverse.cfrt import cfrt
from medtraverse.classifiers.torchxrayvision_state import PATHOLOGIES
from medtraverse.figures.cfrt_table import cfrt_figure
from medtraverse.figures.cosine_chart import cosine_figure
from medtraverse.figures.grid import strip, trajectory_grid
from medtraverse.figures.latent_map_chart import latent_map_figure
from medtraverse.figures.render import save, to_image
from medtraverse.flip_rate import flip_rate
from medtraverse.notice import NOTICE
from medtraverse.published import published, published_cfrt, published_curve

NAMES, COLOURS = ("support devices", "pleural effusion"), ("#00CC00", "#CC00CC")
POINTS = ("neutral", "45", "25", "5")
SEEDS = (1500, 1501, 1502)


def tints(points=4, side=16):
    """Every image is one tint of its own, unlike any frame or lettering: [3, 2, points, side, side, 3]."""
    images = torch.full((3, 2, points, side, side, 3), 0.5)
    images[..., 0] = torch.linspace(0.2, 0.9, 3 * 2 * points).reshape(3, 2, points, 1, 1)
    images[..., 1] = 0.3
    return images


def pixels_of(image, tint):
    """Rows and columns at which the rendered image shows this tint."""
    return np.argwhere(np.abs(image - np.asarray(tint)).max(axis=2) < 0.004)


def plane():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(3, 2, 4, 2))
    places[:, 1, 0] = places[:, 0, 0]
    return places


def scores(targets=2, attributes=2):
    rng = np.random.default_rng(1)
    far, neutral = rng.random((8, 3, attributes)), rng.random((8, attributes)) * 0.3
    return [cfrt(far, neutral, target) for target in range(targets)]


def flips(patients=1200):
    """One attribute in which many flip late, and one whose every patient is above the threshold before."""
    path = np.random.default_rng(2).random((patients, 9, 2)) * [0.55, 1]
    neutral = np.tile([0.2, 0.9], (patients, 1))
    return {
        name: flip_rate(path, neutral, number, published()["swap steps"]) for number, name in enumerate(NAMES)
    }


def figure_of(kind):
    return {
        "grid": lambda: trajectory_grid(tints(), NAMES, COLOURS, POINTS, SEEDS, "Grid", "a note"),
        "strip": lambda: strip(tints(9), NAMES, COLOURS, tuple(map(str, range(9))), SEEDS, 3),
        "cosine": lambda: cosine_figure(
            np.random.default_rng(0).random((2, 3, 9)),
            published()["swap steps"],
            NAMES,
            COLOURS,
            published_curve("direction cosine", "CheXpert", "normal"),
        ),
        "latent map": lambda: latent_map_figure(plane(), NAMES, COLOURS, POINTS, SEEDS, tints()),
        "bare latent map": lambda: latent_map_figure(plane(), NAMES, COLOURS, POINTS, SEEDS),
        "cfrt": lambda: cfrt_figure(
            dict(zip(NAMES, scores())), NAMES, COLOURS, published_cfrt("swap", "CheXpert", "normal")
        ),
        "cfrt and flip rate": lambda: cfrt_figure(
            dict(zip(NAMES, scores())),
            NAMES,
            COLOURS,
            published_cfrt("swap", "CheXpert", "normal"),
            "CFRT, Classifier Flip Rate along a Trajectory: λ = 5, 10, 15",
            flips=flips(),
        ),
    }[kind]()


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


KINDS = ("grid", "strip", "cosine", "latent map", "bare latent map", "cfrt", "cfrt and flip rate")


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_carries_the_notice_inside_its_edges(kind):
    figure = figure_of(kind)
    image = to_image(figure, 60)
    assert image.dtype == np.float32 and image.flags.c_contiguous
    assert image.shape == (*(int(round(60 * inches, 6)) for inches in figure.get_size_inches()[::-1]), 3)
    assert 0 <= image.min() < 0.5 and image.max() == 1
    assert texts(figure).count(NOTICE) == 1
    # nothing is cut off: the rim of the sheet stays white
    rim = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()])
    assert (rim == 1).all()
    assert np.array_equal(image, to_image(figure_of(kind), 60))


@pytest.mark.parametrize("kind", KINDS)
def test_no_lettering_is_smaller_than_twelve_points_or_leaves_the_sheet(kind):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    figure = figure_of(kind)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in shown) >= 12
    box, size = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    assert (box.min >= 0).all() and (box.max <= size).all()


def test_a_legend_of_many_trajectories_stays_on_the_sheet():
    names = [f"attribute {number} of a long name" for number in range(12)]
    figure = cosine_figure(
        np.random.default_rng(0).random((12, 2, 3)),
        [45, 25, 5],
        names,
        ["#00CC00"] * 12,
        {names[0]: {45: 1.0}},
    )
    to_image(figure)
    box = figure.axes[0].get_legend().get_window_extent()
    assert box.y0 >= 0 and box.x1 <= figure.bbox.x1


def test_changes_that_round_to_nothing_have_no_minus():
    still = cfrt(np.full((3, 1, 2), [0.5, 0.2999]), np.full((3, 2), 0.3), 0)
    fallen = cfrt(np.full((3, 1, 2), [0.5, 0.1]), np.full((3, 2), 0.3), 0)
    drawn = texts(cfrt_figure({"still": still, "fallen": fallen}, NAMES, COLOURS))
    assert {"+0.20", "+0.00", "−0.20"} <= set(drawn) and "-0.00" not in drawn and "−0.00" not in drawn


def test_grid_frames_every_image_in_its_colour():
    figure = trajectory_grid(tints(), NAMES, COLOURS, POINTS, SEEDS)
    image = to_image(figure)
    colours_inside = tints()[..., 0, 0, :].numpy()
    for p in range(3):
        for a in range(2):
            for n in range(4):
                inside = pixels_of(image, colours_inside[p, a, n])
                (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0)
                assert bottom - top == pytest.approx(127, abs=2) and right - left == pytest.approx(127, abs=2)
                frame = to_rgb(COLOURS[a] if n else "#000000")
                for row, column in (
                    (top - 2, left + 40),
                    (bottom + 2, left + 40),
                    (top + 40, left - 2),
                    (top + 40, right + 2),
                ):
                    assert np.allclose(image[row, column], frame, atol=0.02), (p, a, n)
    assert {"neutral", "λ = 45", "λ = 25", "λ = 5"} <= set(texts(figure))
    assert [text for text in texts(figure) if text.startswith("seed")] == [
        f"seed {seed}" for seed in SEEDS for _ in NAMES
    ]


def test_grid_columns_run_from_left_to_right_and_patients_downwards():
    image = to_image(trajectory_grid(tints(), NAMES, COLOURS, POINTS, SEEDS))
    middles = np.array([pixels_of(image, tint).mean(axis=0) for tint in tints()[..., 0, 0, :].reshape(-1, 3)])
    down, across = middles.reshape(6, 4, 2).transpose(2, 0, 1)
    assert (np.diff(across, axis=1) > 100).all() and (np.diff(down, axis=0) > 100).all()


def test_grid_takes_grey_and_oblong_images():
    image = to_image(
        trajectory_grid(torch.full((1, 1, 2, 20, 40, 1), 0.4), ["a"], ["#FF0000"], ["neutral", "5"], [1])
    )
    # right of the row's name, whose lettering has every grey
    rows, _columns = pixels_of(image[:, 165:], [0.4] * 3).T
    assert np.ptp(rows) + 1 >= 62 and len(rows) == pytest.approx(2 * 64 * 128, rel=0.05)


def test_strip_chooses_frames_evenly():
    figure = strip(tints(50), NAMES, COLOURS, tuple(map(str, range(50))), SEEDS, 8)
    assert [text for text in texts(figure) if text.startswith("frame")] == [
        f"frame {n}" for n in (7, 14, 21, 28, 35, 42, 49)
    ]


def test_cosine_lines_are_the_means_and_the_published_values_are_dashed():
    known = published_curve("direction cosine", "CheXpert", "normal")
    steps = published()["swap steps"]
    cosines = np.random.default_rng(0).random((2, 5, 9))
    cosines[0, 2, 4] = np.nan
    figure = cosine_figure(cosines, steps, NAMES, COLOURS, known)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for a, name in enumerate(NAMES):
        assert np.allclose(lines[name].get_ydata(), np.nanmean(cosines[a], axis=0))
        assert lines[name].get_xdata().tolist() == steps and lines[name].get_linestyle() == "-"
        dashed = lines[f"{name}, from the paper"]
        assert (
            dict(zip(dashed.get_xdata(), dashed.get_ydata())) == known[name]
            and dashed.get_linestyle() == "--"
        )
        assert dashed.get_color() == lines[name].get_color() == COLOURS[a]
    assert "mean over 5 patients, band ± 1 SD" in texts(figure)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        *NAMES,
        "from the paper\n(real data)",
    ]
    left, right = figure.axes[0].get_xlim()
    assert left > 45 > 5 > right


def test_cosine_figure_without_any_direction_still_draws():
    to_image(cosine_figure(np.full((1, 1, 2), np.nan), [45, 5], ["a"], ["#000000"]))


def test_latent_map_joins_points_in_order_and_keeps_proportions():
    places = plane()
    figure = latent_map_figure(places, NAMES, COLOURS, POINTS, SEEDS)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 4]
    drawn = np.array([line.get_xydata() for line in lines]).reshape(3, 2, 4, 2)
    scale = (drawn[0, 0, 1] - drawn[0, 0, 0]) / (places[0, 0, 1] - places[0, 0, 0])
    assert scale[0] == pytest.approx(scale[1])
    assert np.allclose(drawn - drawn[0, 0, 0], (places - places[0, 0, 0]) * scale)
    assert [line.get_color() for line in lines] == list(COLOURS) * 3


@pytest.mark.parametrize(
    ("shown", "pictures"), [(None, 3 + 2 * 6), ([0], 3), ([0, 1, 2, 3], 3 + 3 * 6), ([3], 6)]
)
def test_latent_map_thumbnails_do_not_overlap(shown, pictures):
    figure = latent_map_figure(plane(), NAMES, COLOURS, POINTS, SEEDS, tints(), shown)
    boxes = np.array([picture.get_extent() for picture in figure.axes[0].images])
    assert len(boxes) == pictures
    width, height = figure.axes[0].get_xlim()[1], figure.axes[0].get_ylim()[1]
    assert (boxes >= 0).all() and (boxes[:, 1] <= width).all() and (boxes[:, 3] <= height).all()
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2]


def test_cfrt_bars_intervals_and_deltas():
    results = dict(zip(NAMES, scores()))
    figure = cfrt_figure(results, NAMES, COLOURS, {"support devices": 0.888, "ink": 0.4})
    assert {"0.888", "from the\npaper", "here"} <= set(texts(figure)) and "0.400" not in texts(figure)
    assert not {"from the\npaper", "here"} & set(texts(cfrt_figure(results, NAMES, COLOURS)))
    bars, table = figure.axes
    assert [bar.get_width() for bar in bars.patches] == [result.cfrt for result in results.values()]
    assert tuple(bars.lines[0].get_xdata()) == results["support devices"].interval
    diamonds = [line for line in bars.lines if line.get_marker() == "D"]
    assert [(list(d.get_xdata()), list(d.get_ydata())) for d in diamonds] == [([0.888], [0])]
    assert np.allclose(
        table.images[0].get_array(), [result.deltas.mean(axis=0) for result in results.values()]
    )


def test_flip_rates_stand_beside_cfrt_and_no_lettering_overlaps():
    figure = figure_of("cfrt and flip rate")
    first, second = flips().values()
    assert second.able == 0 and 0.1 < first.rate < 1
    low, high = first.interval
    assert {
        f"{first.rate:.3f}",
        f"{first.flipped} of 1200  ({low:.2f}–{high:.2f})",
        f"λ {first.median}",
        "none could flip",
        "1200",
    } <= set(texts(figure))
    no_lettering_overlaps(figure, 25)


def test_the_labels_of_torchxrayvision_have_room():
    labels = (*PATHOLOGIES[:3], "Pleural_Thickening", "Cardiomegaly", "Enlarged Cardiomediastinum")
    rng = np.random.default_rng(0)
    results = {
        name: cfrt(rng.random((5, 3, 6)), rng.random((5, 6)), target)
        for target, name in enumerate(("atelectasis", "enlarged cardiomediastinum"))
    }
    no_lettering_overlaps(cfrt_figure(results, labels, ["#CC00CC", "#00CC00"]), 20)
    grid = trajectory_grid(
        np.zeros((1, 1, 2, 8, 8, 3)), ["enlarged cardiomediastinum"], ["#CC00CC"], ["neutral", "5"], [1]
    )
    to_image(grid)
    names = [text for text in grid.axes[0].texts if text.get_position()[0] < 0]
    assert [text.get_text() for text in names[:3]] == ["enlarged", "cardiomed-", "iastinum"]
    left = grid.axes[0].transData.transform((0, 0))[0]
    assert all(text.get_window_extent().x1 <= left for text in names)


def no_lettering_overlaps(figure, least):
    to_image(figure)
    shown = []
    for axes in figure.axes:
        shown += axes.texts
        if axes.axison:
            shown += [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.title]
    written = [(text.get_text(), text.get_window_extent()) for text in shown if text.get_text()]
    assert len(written) > least
    for i, (one, a) in enumerate(written):
        for other, b in written[:i]:
            apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
            assert apart, (one, other)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_saved_files_carry_the_notice(tmp_path, suffix):
    path = save(figure_of("bare latent map"), tmp_path / "new" / f"map.{suffix}", {"seeds": "1500, 1501"})
    assert [file.name for file in path.parent.iterdir()] == [f"map.{suffix}"]
    if suffix == "png":
        image = Image.open(path)
        assert image.info["Description"] == NOTICE and image.info["seeds"] == "1500, 1501"
        assert image.size == (1100, 900)
        first = path.read_bytes()
        assert save(figure_of("bare latent map"), path, {"seeds": "1500, 1501"}).read_bytes() == first
    else:
        assert NOTICE.encode() in path.read_bytes() and b"seeds: 1500, 1501" in path.read_bytes()


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = save(figure_of("bare latent map"), tmp_path / "map.png")
    before = path.read_bytes()
    broken = figure_of("bare latent map")
    broken.text(0.5, 0.5, r"$\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        save(broken, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=".png, .svg, .pdf"):
        save(figure_of("bare latent map"), tmp_path / "map.bmp")


def test_figures_leave_pyplot_and_global_settings_alone():
    # reading rcParams["backend"] would itself import pyplot
    script = """if True:
        import sys, matplotlib, numpy as np
        from medtraverse.figures.cosine_chart import cosine_figure
        from medtraverse.figures.latent_map_chart import latent_map_figure
        from medtraverse.figures.render import to_image

        def settings():
            return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}

        before = settings()
        to_image(cosine_figure(np.ones((1, 3, 2)), [45, 5], ["a"], ["#00CC00"]), 40)
        images = np.ones((1, 1, 2, 8, 8, 3))
        places = np.arange(4.0).reshape(1, 1, 2, 2)
        to_image(latent_map_figure(places, ["a"], ["#00CC00"], ["neutral", "5"], [1], images), 40)
        assert "matplotlib.pyplot" not in sys.modules and settings() == before
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_published_numbers():
    assert published_cfrt("curve", "ISIC", "NV") == {
        "hair": 0.930,
        "gel bubble": 0.993,
        "ruler": 0.975,
        "ink": 0.682,
    }
    assert (
        published_cfrt("swap", "ISIC", "MEL")["ink"] == 0.412
        and published_cfrt("swap", "mine", "normal") == {}
    )
    ink = published_curve("direction cosine", "ISIC", "MEL")["ink"]
    assert (ink[45], ink[40], ink[5]) == (1, 0.866, 0.116)
    assert published_curve("lpips to neutral", "CheXpert", "normal")["support devices"][5] == 0.159
    assert published_curve("direction cosine", "ISIC", "NV") == {}
    with pytest.raises(ValueError, match="choose direction cosine or lpips"):
        published_curve("fid", "ISIC", "NV")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: trajectory_grid(tints()[0], NAMES, COLOURS, POINTS, SEEDS),
            "give .patients, attributes",
        ),
        (lambda: trajectory_grid(tints(), NAMES, COLOURS, POINTS[1:], SEEDS), "points: 3 are given"),
        (lambda: trajectory_grid(tints(), NAMES, COLOURS, POINTS, SEEDS[1:]), "seeds: 2 are given"),
        (lambda: trajectory_grid(tints(), NAMES, COLOURS[1:], POINTS, SEEDS), "colours: 1 are given for 2"),
        (
            lambda: trajectory_grid(tints(), NAMES, ("green", "grün"), POINTS, SEEDS),
            "'grün' is no colour",
        ),
        (lambda: strip(tints(), NAMES, COLOURS, tuple("0123"), SEEDS, 5), "count: 5 is .*; choose 2 to 4"),
        (lambda: cosine_figure(np.ones((2, 3, 8)), range(45, 0, -5), NAMES, COLOURS), "9 swap steps"),
        (lambda: latent_map_figure(plane()[:2], NAMES, COLOURS, POINTS, SEEDS), "coordinates: they have"),
        (lambda: latent_map_figure(plane() * np.nan, NAMES, COLOURS, POINTS, SEEDS), "NaN"),
        (lambda: latent_map_figure(plane(), NAMES, COLOURS, POINTS, SEEDS, tints(5)), "images: they have"),
        (lambda: latent_map_figure(plane(), NAMES, COLOURS, POINTS, SEEDS, tints(), [4]), "numbered 0 to 3"),
        (lambda: cfrt_figure({}, NAMES, COLOURS), "results: there are none"),
        (
            lambda: cfrt_figure({"a": scores()[0]}, ["one"], ["#000000"]),
            "attributes: 1 names are given",
        ),
        (lambda: to_image(figure_of("cosine"), 0), "dpi: 0 is"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

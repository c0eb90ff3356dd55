"""The CFRT Evaluator's panel alone in a page.

Its module is served as it is, with the evaluator's own figures and no ComfyUI.
"""

import json
import mimetypes
from pathlib import Path

import numpy as np
import pytest

from medtraverse.cfrt import cfrt
from medtraverse.flip_rate import flip_rate
from medtraverse.notice import NOTICE

WEB = Path(__file__).resolve().parents[2] / "web"
POINTS = ["15", "10", "5"]
LABELS = ["hair", "gel bubble", "ruler", "ink"]
COLOURS = ["#7A4B2A", "#3E8ED0", "#E0B400", "#2B2B55"]
PAGE = """<!doctype html><meta charset="utf-8"><style id="css"></style>
<body><div id="room" style="width: 700px; height: 600px"></div><script type="module">
import { CFRTView, css } from "/parts/cfrt.js"
document.querySelector("#css").textContent = css
window.saved = []
window.heard = []
for (const type of ["keydown", "keyup", "pointerdown", "click", "wheel"])
  window.addEventListener(type, event => heard.push(event.key ?? type))
window.host = { state: {}, t: text => text, save() { saved.push(JSON.stringify(host.state)) } }
window.panel = new CFRTView(host)
document.querySelector("#room").append(panel.element)
</script>"""


def view_of(patients, seed=0, reach=0.4, published=True):
    """A "cfrt" view as the evaluator would write it, from random probabilities in which the target rises."""
    random = np.random.default_rng(seed)
    results = []
    for target, attribute in enumerate(LABELS):
        neutral = random.uniform(0, 0.3, (patients, len(LABELS)))
        far = neutral[:, None] + random.uniform(0, 0.25, (patients, 3, len(LABELS)))
        far[:, :, target] += reach * random.uniform(0, 1, (patients, 1))
        scored = cfrt(far, neutral, target)
        flips = flip_rate(far, neutral, target, POINTS)
        low, high = scored.interval
        results.append(
            {
                "attribute": attribute,
                "target": target,
                "cfrt": scored.cfrt,
                "low": low,
                "high": high,
                "successes": scored.successes,
                "patients": patients,
                "published": [0.907, 0.985, 0.721, 0.412][target] if published else None,
                "success": scored.success.tolist(),
                "leaked": scored.leaked.tolist(),
                "deltas": scored.deltas.tolist(),
                "flip_rate": flips.report(),
            }
        )
    attributes = [{"name": name, "colour": colour, "labels": [name]} for name, colour in zip(LABELS, COLOURS)]
    return {
        "format": 1,
        "view": "cfrt",
        "kind": "swap",
        "notice": NOTICE,
        "seeds": list(range(40, 40 + patients)),
        "attributes": attributes,
        "labels": LABELS,
        "points": ["neutral", *POINTS],
        "far": POINTS,
        "results": results,
    }


def serve(route):
    path = WEB / route.request.url.split("/", 3)[3]
    if path == WEB:
        return route.fulfill(content_type="text/html", body=PAGE)
    return route.fulfill(content_type=mimetypes.guess_type(path.name)[0], body=path.read_bytes())


@pytest.fixture
def panel(browser):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.route("https://panel.example/**", serve)
    page.goto("https://panel.example/")
    page.wait_for_function("window.panel")
    yield page
    context.close()
    assert not errors


def shown(page, view, state=None):
    page.evaluate("([view, state]) => { host.state = state; panel.show(view) }", [view, state or {}])
    return page


def worst_first(result, failed_only=True):
    """The patients by margin, computed here from the deltas."""
    deltas = np.array(result["deltas"])
    margins = deltas[:, result["target"]] - np.delete(deltas, result["target"], axis=1).max(axis=1)
    order = sorted(range(len(margins)), key=lambda i: (result["success"][i], margins[i]))
    return [(i, margins[i]) for i in order if not (failed_only and result["success"][i])]


def seeds_listed(page):
    return [int(text) for text in page.locator("tbody .mt-cfrt-seed > span").all_text_contents()]


@pytest.mark.parametrize("patients", [1, 8, 1000])
def test_bars_whiskers_and_published_ticks_stand_at_their_values(panel, patients):
    view = view_of(patients)
    shown(panel, view)
    bars = panel.get_by_role("button", expanded=False)
    assert bars.count() == len(LABELS)
    for number, result in enumerate(view["results"]):
        left, fill, low, high, tick = bars.nth(number).evaluate("""bar => {
          const [track, fill, whisker, tick] = ['track', 'fill', 'whisker', 'published'].map(name =>
            bar.querySelector('.mt-cfrt-' + name).getBoundingClientRect())
          const inner = track.width - 1
          return [fill.left - track.left, fill.width, whisker.left - track.left, whisker.right - track.left,
            (tick.left + tick.right) / 2 - track.left].map(x => x / inner)
        }""")
        assert [left, fill, low, high, tick] == pytest.approx(
            [0, result["cfrt"], result["low"], result["high"], result["published"]], abs=0.01
        )
        label = bars.nth(number).get_attribute("aria-label")
        for part in (
            result["attribute"],
            f"{result['cfrt']:.3f}",
            f"{result['low']:.3f} to {result['high']:.3f}",
            f"{result['successes']} of {patients} patients",
            f"published {result['published']:.3f}",
        ):
            assert part in label
    assert NOTICE in panel.locator(".mt-cfrt").inner_text()


@pytest.mark.parametrize("kind", ["swap", "curve"])
def test_the_flip_rate_stands_below_with_its_interval_and_first_point(panel, kind):
    view = {**view_of(30), "kind": kind}
    shown(panel, view, {"open": "gel bubble"})
    lines = panel.locator(".mt-cfrt-flip")
    point = "λ = {}" if kind == "swap" else "frame {}"
    assert lines.count() == len(LABELS)
    for number, result in enumerate(view["results"]):
        flips = result["flip_rate"]
        assert 0 < flips["flipped"] < flips["could_flip"]
        left, fill, low, high = lines.nth(number).evaluate("""line => {
          const [track, fill, whisker] = ['track', 'fill', 'whisker'].map(name =>
            line.querySelector('.mt-cfrt-' + name).getBoundingClientRect())
          return [fill.left - track.left, fill.width, whisker.left - track.left, whisker.right - track.left]
            .map(x => x / (track.width - 1)) }""")
        assert [left, fill, low, high] == pytest.approx([0, flips["rate"], *flips["interval"]], abs=0.01)
        text = " ".join(lines.nth(number).inner_text().split())
        first = point.format(flips["median_first_point"])
        for part in (
            f"flip rate {flips['rate']:.3f} {flips['flipped']} of {flips['could_flip']}",
            "{:.3f}–{:.3f} · first".format(*flips["interval"]) + f" {first}",
        ):
            assert part in text
        label = panel.locator(".mt-cfrt-bar").nth(number).get_attribute("aria-label")
        assert f"flip rate {flips['rate']:.3f}" in label and label.endswith(f"first {first}")
    flips = view["results"][1]["flip_rate"]
    counts = [(name, flips["patients_by_first_point"][name]) for name in POINTS]
    firsts = ", ".join(f"{point.format(name)} ({count})" for name, count in counts if count)
    panel.get_by_text(
        f"the target passes 0.5 in {flips['flipped']} of {flips['could_flip']} patients. First at {firsts}."
    ).wait_for()


def test_where_nobody_could_flip_there_is_a_dash_and_no_bar(panel):
    view = view_of(4)
    shown(panel, view)
    above = flip_rate(np.full((4, 3, 4), 0.9), np.full((4, 4), 0.8), 0, POINTS).report()
    view["results"][0]["flip_rate"] = above
    del view["results"][1]["flip_rate"]
    shown(panel, view, {"open": "hair"})
    lines = panel.locator(".mt-cfrt-flip")
    assert lines.count() == len(LABELS) - 1  # a file of an older pack has none
    assert " ".join(lines.first.inner_text().split()) == "flip rate – 0 of 0 none could flip"
    assert lines.first.locator(".mt-cfrt-fill").count() == 0
    panel.get_by_text("4 passed already on the neutral image and are not counted.").wait_for()


def test_without_published_values_there_is_no_tick_and_no_legend_for_it(panel):
    shown(panel, view_of(8, published=False))
    assert panel.locator(".mt-cfrt-published").count() == 0
    assert "published" not in panel.locator(".mt-cfrt").inner_text() + panel.locator(
        ".mt-cfrt-bar"
    ).first.get_attribute("aria-label")


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_key_opens_the_failed_patients_worst_first_and_closes_them(panel, key):
    view = view_of(40)
    shown(panel, view)
    result = view["results"][1]
    for _ in range(2):
        panel.keyboard.press("Tab")
    panel.keyboard.press(key)
    expected = worst_first(result)
    assert 0 < len(expected) < 40
    assert seeds_listed(panel) == [view["seeds"][i] for i, _ in expected]
    for row, (patient, margin) in zip(panel.locator("tbody tr").all(), expected):
        cells = row.locator("td").all_inner_texts()
        assert cells[1].endswith(LABELS[result["leaked"][patient]])
        order = [1, 0, 2, 3]
        numbers = [margin, *(result["deltas"][patient][label] for label in order)]
        assert [float(cell.replace("−", "-")) for cell in cells[2:]] == pytest.approx(numbers, abs=0.00051)
        assert row.locator(".mt-leak").inner_text() == cells[3 + order.index(result["leaked"][patient])]
    assert json.loads(panel.evaluate("saved.at(-1)")) == {"open": "gel bubble"}
    assert panel.get_by_role("button", expanded=True).count() == 1
    panel.keyboard.press(key)
    assert (
        panel.get_by_role("button", expanded=True).count() == 0
        and json.loads(panel.evaluate("saved.at(-1)"))["open"] is None
    )
    # The first Tab comes from outside.
    assert set(panel.evaluate("heard")) <= {"Shift", "Tab"}


def test_signed_bars_lie_on_their_side_of_the_zero(panel):
    view = view_of(3)
    view["results"][0]["deltas"] = [[-0.5, 0.25, 0.0, 0.5]] * 3
    view["results"][0].update(success=[False] * 3, leaked=[3] * 3, successes=0)
    shown(panel, view, {"open": "hair"})
    places = panel.locator("tbody tr").first.evaluate("""row =>
      [...row.querySelectorAll('.mt-cfrt-signed')].map(track => {
      const [outer, inner] = [track, track.firstChild].map(one => one.getBoundingClientRect())
      return [(inner.left - outer.left) / outer.width, (inner.right - outer.left) / outer.width]
    })""")
    assert np.array(places) == pytest.approx(
        np.array([[0, 0.5], [0.5, 0.75], [0.5, 0.5], [0.5, 1]]), abs=0.01
    )


def test_all_patients_lists_successes_behind_the_failures_and_is_kept(panel):
    view = view_of(30)
    shown(panel, view, {"open": "ruler"})
    panel.get_by_label("all patients").check()
    assert seeds_listed(panel) == [
        view["seeds"][i] for i, _ in worst_first(view["results"][2], failed_only=False)
    ]
    assert json.loads(panel.evaluate("saved.at(-1)")) == {"open": "ruler", "all": True}
    state = panel.evaluate("host.state")
    shown(panel, view_of(30, seed=1), state)
    assert len(seeds_listed(panel)) == 30 and panel.get_by_label("all patients").is_checked()


def test_a_thousand_patients_come_a_hundred_at_a_time(panel):
    view = view_of(1000)
    shown(panel, view, {"open": "ink", "all": True})
    assert len(seeds_listed(panel)) == 100
    while (more := panel.get_by_role("button", name="Show more")).count():
        more.click()
    assert seeds_listed(panel) == [
        view["seeds"][i] for i, _ in worst_first(view["results"][3], failed_only=False)
    ]


def test_a_line_says_that_no_patient_failed(panel):
    view = view_of(8, reach=0)
    for result in view["results"]:
        result.update(success=[True] * 8, successes=8, leaked=[-1] * 8)
    shown(panel, view, {"open": "hair"})
    panel.get_by_text("No patient failed.").wait_for()
    assert panel.locator("table").count() == 0


def test_copy_puts_a_seed_or_all_of_them_on_the_clipboard(panel):
    view = view_of(20)
    view["seeds"] = [str(2**64 - 1 - i) for i in range(20)]
    shown(panel, view, {"open": "hair"})
    listed = [view["seeds"][i] for i, _ in worst_first(view["results"][0])]
    panel.get_by_role("button", name=f"Copy seed {listed[1]}").click()
    panel.get_by_text("Copied", exact=True).wait_for()
    assert panel.evaluate("navigator.clipboard.readText()") == listed[1]
    panel.get_by_role("button", name="Copy seeds").click()
    panel.wait_for_function(
        "text => navigator.clipboard.readText().then(copied => copied === text)", arg=", ".join(listed)
    )


@pytest.mark.parametrize(("width", "cards"), [(300, True), (700, False)])
def test_nothing_is_cut_off_on_a_narrow_node(panel, width, cards):
    shown(panel, view_of(20), {"open": "hair"})
    panel.evaluate("width => { document.querySelector('#room').style.width = width + 'px' }", width)
    panel.wait_for_function("cards => panel.element.classList.contains('mt-cards') === cards", arg=cards)
    assert panel.evaluate("panel.element.scrollWidth <= panel.element.clientWidth")
    assert panel.get_by_role("row").count() > 1


def test_a_file_without_results_is_a_line_of_text(panel):
    shown(panel, {**view_of(2), "results": []})
    assert panel.locator(".mt-cfrt").inner_text() == "No result to show."
    panel.evaluate("panel.dispose()")
    assert panel.locator(".mt-cfrt").count() == 0

"""The widgets on the canvas in Chromium: ``python -m benchmarks.page [--runs N]``.

Frames a second of the latent map at 37,000 points while it pans and zooms, time from "the node has ended" to
the viewer's first picture, and the page's memory after 5 to N runs, beside that of the same page without the
pack's scripts. Needs Playwright and Chromium; software rendering, so a machine with a GPU does better.
"""

import argparse
import os
import re
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launcher.comfyui import start_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

POINTS = (3_700, 37_000)
MAP = """async ([count, frames]) => {
  const { LatentMapView } = await import('/extensions/MedTraverse/parts/map.js')
  const points = 10, attributes = 2, patients = count / (1 + attributes * (points - 1)) | 0
  const x = [], y = [], index = []
  for (let p = 0; p < patients; p++) {
    const base = x.length, angle = p * 2.4, r = Math.sqrt(p)
    x.push(r * Math.cos(angle)); y.push(r * Math.sin(angle))
    const place = (a, n) => {
      x.push(x[base] + n * Math.cos(a + p)); y.push(y[base] + n * Math.sin(a + p))
      return x.length - 1
    }
    index.push(Array.from({ length: attributes },
      (_, a) => [base, ...Array.from({ length: points - 1 }, (_, n) => place(a, n))]))
  }
  const view = new LatentMapView({ state: {}, save() {}, t: text => text })
  const box = document.createElement('div')
  box.style = 'position: fixed; inset: 50px auto auto 50px; width: 700px; height: 700px; z-index: 9999'
  box.append(view.element); document.body.append(box)
  view.show({
    view: 'map', key: 'benchmark', kind: 'swap', neutral: 'normal', notice: '', sheets: null, perplexity: 2,
    seed: 0, seeds: index.map((_, p) => p), index, x, y,
    points: ['neutral', 45, 40, 35, 30, 25, 20, 15, 10, 5].map(String),
    attributes: [
      { name: 'a', colour: '#00CC00', labels: ['a'] }, { name: 'b', colour: '#CC00CC', labels: ['b'] }
    ]
  })
  await new Promise(done => setTimeout(done, 500))
  const canvas = view.element.querySelector('canvas'), rect = canvas.getBoundingClientRect(), times = []
  const middle = { clientX: rect.x + 350, clientY: rect.y + 350 }
  const event = (type, more) => canvas.dispatchEvent(new (type === 'wheel' ? WheelEvent : PointerEvent)(type,
    { bubbles: true, cancelable: true, pointerId: 1, button: 0, buttons: 1, ...middle, ...more }))
  let last = performance.now()
  for (let i = 0; i < frames; i++) {
    event('wheel', { deltaY: i % 20 < 10 ? -40 : 40, clientX: rect.x + 200 + 10 * (i % 30) })
    await new Promise(requestAnimationFrame)
    const now = performance.now(); times.push(now - last); last = now
  }
  view.dispose(); box.remove()
  return { points: x.length, times }
}"""
FEWER = """for (const node of app.graph._nodes) for (const widget of node.widgets ?? []) {
  if (node.type === 'PromptSwapKSampler' && widget.name === 'steps') widget.value = 10
  if (widget.name === 'swap_steps') widget.value = '7,4,1' }"""
SEED = """seed => {
  const sampler = app.graph._nodes.find(node => node.type === 'PromptSwapKSampler')
  sampler.widgets.find(widget => widget.name === 'seed').value = seed }"""
# From the message that the grid has ended until a fifth of its viewer is painted, which labels alone do not
# do; what a run before has left is wiped. Without the pack's scripts, until the run has ended.
WATCH = """() => new Promise(done => {
  const find = () => document.querySelector('.mt-view[data-mt-node=TrajectoryGrid] .mt-viewer canvas')
  const ended = ({ detail }) => {
    if (!detail.output?.medtraverse_view || !app.graph.getNodeById(detail.node)?.type.includes('Grid')) return
    app.api.removeEventListener('executed', ended)
    const begun = performance.now(), before = find()
    if (before) before.width = 0
    const look = () => {
      const canvas = find(), pen = canvas?.width && canvas.getContext('2d')
      const data = pen ? pen.getImageData(0, 0, canvas.width, canvas.height).data : []
      let painted = 0
      for (let i = 3; i < data.length; i += 4) painted += data[i] > 0
      painted && painted > data.length / 20 ? done(performance.now() - begun) : requestAnimationFrame(look)
    }
    look()
  }
  const whole = () => { app.api.removeEventListener('execution_success', whole); done(0) }
  if (window.bare) app.api.addEventListener('execution_success', whole)
  else app.api.addEventListener('executed', ended)
})"""
RUNS, LOOKED_AT = 45, (5, 15, 25, 35, 45)  # and after the last run


def heap(page: "Page") -> float:
    """Return the page's JavaScript heap in MB after a collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    size: float = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    session.detach()
    return size


def run_once(page: "Page", seed: int) -> float:
    """Queue the graph with a seed; return the milliseconds to the first picture, as `WATCH` has it."""
    page.evaluate(SEED, seed)
    page.evaluate(f"() => {{ window.first = ({WATCH})() }}")
    page.get_by_role("button", name=re.compile("^Run")).first.click()
    first: float = page.evaluate("() => window.first")
    page.wait_for_timeout(400)
    return first


def opened(browser: "Browser", url: str, bare: bool = False) -> "Page":
    """Return a page with the first workflow, made short; ``bare``: without the pack's scripts."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    if bare:
        page.route("**/extensions/MedTraverse/**", lambda route: route.abort())
    page.request.post(
        f"{url}/settings", data={"Comfy.TutorialCompleted": True, "Comfy.Workflow.Persist": False}
    )
    page.goto(f"{url}/?template=00-start-here&source=MedTraverse")
    page.wait_for_function("window.app?.graph?._nodes.length > 0", timeout=60_000)
    page.wait_for_timeout(2000)
    page.evaluate("bare => { window.bare = bare }", bare)
    return page


def runs(page: "Page", first_seed: int, count: int) -> tuple[list[float], dict[int, float]]:
    """Return waits for the first picture in milliseconds, and the heap in MB by number of runs."""
    page.evaluate(FEWER)
    waits: list[float] = []
    heaps: dict[int, float] = {}
    for number in range(1, count + 1):
        waits.append(run_once(page, first_seed + number))
        if number in LOOKED_AT or number == count:
            heaps[number] = heap(page)
    page.close()
    return waits, heaps


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a line of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of the workflow on each page")
    arguments = parser.parse_args(argv)
    from playwright.sync_api import sync_playwright

    named = os.environ.get("MEDTRAVERSE_BROWSER", "")
    program = named if os.path.isfile(named) else shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as base,
        start_server(base=base) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = opened(browser, url)
        for count in POINTS:
            measured = page.evaluate(MAP, [count, 90])
            times = sorted(measured["times"][10:])
            print(
                f"map of {measured['points']} points: {1000 / statistics.mean(times):.0f} frames/s; "
                f"slowest of twenty {times[int(len(times) * 0.95)]:.0f} ms",
                flush=True,
            )
        waits, heaps = runs(page, 7000, arguments.runs)
        print(
            f"first picture {statistics.median(waits):.0f} ms after its node had ended "
            f"(greatest of {len(waits)}: {max(waits):.0f} ms)",
            flush=True,
        )
        _, bare = runs(opened(browser, url, bare=True), 8000, arguments.runs)
        for name, sizes in (("heap", heaps), ("without the pack's scripts", bare)):
            print(
                f"{name}: "
                + ", ".join(f"{size:.1f} MB after {number}" for number, size in sizes.items())
                + " runs",
                flush=True,
            )
        browser.close()


if __name__ == "__main__":
    main()

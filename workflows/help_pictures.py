"""Pictures of the help pages: each node on the canvas after a run of a bundled workflow.

``python -m workflows.help_pictures`` runs ComfyUI with the shipped model, three patients and 18 steps, and
Chromium (Playwright's, or the one named in MEDTRAVERSE_BROWSER or on the path).
"""

import argparse
import io
import os
import re
import shutil
import tempfile

from PIL import Image

from launcher.comfyui import PACK, start_server
from medtraverse.pixels import write_jpeg

FOLDER = PACK / "web" / "docs" / "images"
# Which workflow shows which nodes.
SHOWN = {
    "00-start-here": (
        "MedicalCheckpointLoader",
        "MedicalAttributePrompts",
        "PromptSwapKSampler",
        "AttributeConditioning",
    ),
    "03-fig3-swap-grid-isic": ("TrajectoryGrid",),
    "04-fig4-latent-tsne": ("LatentTSNE", "SaveTraversalFigure"),
    "05-fig5-direction-cosine": ("LatentDirectionCosine",),
    "06-fig6-bezier": ("BezierLatentInterpolate", "TrajectoryFilm"),
    "07-cfrt-chexpert": (
        "MedicalClassifierLoader",
        "TrajectorySelect",
        "CFRTEvaluator",
        "DistributionDistance",
    ),
    "10-distance-to-neutral": ("IdentityPreservation",),
    "12-real-image": ("LoadMedicalImage", "ProjectToLatent", "SaveMedicalImage"),
    "13-minimal-counterfactuals": ("MinimalCounterfactual",),
    "16-study-chexpert": ("MedicalStudy",),
}
WIDTH = 560
ENDED = """() => { for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
  app.api.addEventListener(kind, ({ detail }) => { window.ended = detail }) }"""
# Short runs: the pictures show the nodes.
SHORT = """for (const node of app.graph._nodes) for (const widget of node.widgets ?? []) {
  if (node.type === 'PromptSwapKSampler') {
    if (widget.name === 'patients') widget.value = Math.min(widget.value, 3)
    if (widget.name === 'steps') widget.value = 18
  }
  if (widget.name === 'swap_steps') widget.value = '15,10,5'
  if (node.type === 'MedicalStudy') {
    const few = { patients: 8, block_size: 1, steps: 10, swap_steps: '3,2,1', frames: 6, kept_frames: '4-5' }
    if (widget.name in few) widget.value = few[widget.name]
  }
}"""
# Nodes of no bundled workflow, wired to what is there.
ADDED = """stem => {
  const find = type => app.graph._nodes.filter(node => node.type === type)
  const add = type => {
    const node = LiteGraph.createNode(type)
    node.pos = [0, 3000]
    app.graph.add(node)
    return node
  }
  const [prompts] = find('MedicalAttributePrompts')
  const wire = (from, output, to, input) =>
    from.connect(from.findOutputSlot(output), to, to.findInputSlot(input))
  if (stem === '00-start-here') {
    const node = add('AttributeConditioning')
    wire(prompts, 'neutral', node, 'conditioning'); wire(prompts, 'attributes', node, 'others')
  }
  if (stem === '07-cfrt-chexpert') {
    const node = add('DistributionDistance')
    const [classifier] = find('MedicalClassifierLoader'), [swaps, frames] = find('VAEDecode')
    wire(frames, 'IMAGE', node, 'images')
    wire(swaps, 'IMAGE', node, 'reference_images')
    wire(classifier, 'classifier', node, 'image_classifier')
    for (const widget of node.widgets) if (widget.name === 'extractor') widget.value = 'classifier'
    for (const widget of node.widgets) if (widget.name === 'kid_subset_size') widget.value = 10
  }
}"""
CENTRE = """id => {
  const node = app.graph._nodes.find(node => node.type === id)
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [-node.pos[0] + 400, -node.pos[1] + 150]
  app.canvas.deselectAll?.()
  app.canvas.setDirty(true, true)
  return [...node.size]
}"""


def picture(page, node):
    """Return the node as the canvas shows it."""
    width, height = page.evaluate(CENTRE, node)
    page.wait_for_timeout(1500)
    left, top = page.evaluate("(({left, top}) => [left, top])(app.canvas.canvas.getBoundingClientRect())")
    clip = {"x": left + 390, "y": top + 105, "width": width + 20, "height": height + 55}
    image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    image.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
    return image


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m workflows.help_pictures", description=__doc__.splitlines()[0]
    )
    parser.add_argument("workflows", nargs="*", help=f"of these workflows only (default: {', '.join(SHOWN)})")
    args = parser.parse_args(argv)
    unknown = set(args.workflows) - set(SHOWN)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: the choices are {', '.join(SHOWN)}")
    from playwright.sync_api import sync_playwright

    named = os.environ.get("MEDTRAVERSE_BROWSER", "")
    program = named if os.path.isfile(named) else shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as base,
        start_server(base=base) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for name in args.workflows or SHOWN:
            page = browser.new_page(viewport={"width": 1700, "height": 2000})
            page.request.post(
                f"{url}/settings", data={"Comfy.TutorialCompleted": True, "Comfy.Workflow.Persist": False}
            )
            page.goto(f"{url}/?template={name}&source=MedTraverse")
            page.wait_for_function("window.app?.graph?._nodes.length > 0", timeout=60_000)
            page.wait_for_timeout(1500)
            page.evaluate(SHORT)
            page.evaluate(ADDED, name)
            page.evaluate(ENDED)
            page.get_by_role("button", name=re.compile("^Run")).first.click()
            page.wait_for_function("window.ended", timeout=600_000)
            failed = page.evaluate("window.ended.exception_message")
            if failed:
                raise SystemExit(f"{name}: {failed}")
            page.wait_for_timeout(3000)
            for node in SHOWN[name]:
                write_jpeg(picture(page, node), FOLDER / f"{node}.jpg", quality=78)
                print(FOLDER / f"{node}.jpg")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()

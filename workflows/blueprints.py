"""Subgraph blueprints: the method in boxes, which ComfyUI's node library offers for graphs of one's own."""

from workflows.canvas import Canvas

DEMO_CLASSIFIER = "MedTraverse demo CheXpert"


def traverse_and_decode(canvas: Canvas) -> None:
    """From a loaded model to the images of a trajectory."""
    model = canvas.enter("model", "PromptSwapKSampler")
    clip, domain = (canvas.enter(name, "MedicalAttributePrompts") for name in ("clip", "domain"))
    vae = canvas.enter("vae", "VAEDecode")
    canvas.group("Traverse")
    prompts = canvas.add("MedicalAttributePrompts", "Prompts", clip=clip, domain=domain)
    sampler = canvas.add(
        "PromptSwapKSampler",
        "Patients",
        model=model,
        neutral=prompts["neutral"],
        negative=prompts["negative"],
        attributes=prompts["attributes"],
    )
    canvas.group("Decode", "figure")
    images = canvas.add("VAEDecode", "Images", samples=sampler["latent"], vae=vae)
    canvas.leave(images["IMAGE"], "images")
    canvas.leave(sampler["trajectory"], "trajectory")
    canvas.leave(sampler["latent"], "latent")
    canvas.ask(prompts, "neutral", "Neutral prompt")
    canvas.ask(prompts, "attributes", "Attributes")
    for name, label in (
        ("seed", "First patient (seed)"),
        ("patients", "Number of patients"),
        ("steps", "Steps"),
        ("swap_steps", "Swap steps λ"),
    ):
        canvas.ask(sampler, name, label)


def judge_a_trajectory(canvas: Canvas) -> None:
    """From a trajectory and its images to CFRT, as a figure, saved, and as a table."""
    trajectory, images = (canvas.enter(name, "CFRTEvaluator") for name in ("trajectory", "images"))
    canvas.group("Judge", "measure")
    loader = canvas.add("MedicalClassifierLoader", "Classifier", classifier=DEMO_CLASSIFIER)
    judged = canvas.add(
        "CFRTEvaluator",
        "CFRT",
        trajectory=trajectory,
        images=images,
        image_classifier=loader["classifier"],
    )
    canvas.group("Save", "figure")
    saved = canvas.add(
        "SaveTraversalFigure", "Save CFRT", drawing=judged["drawing"], filename_prefix="medtraverse/cfrt"
    )
    for name in ("figure", "table", "patients_csv", "report"):
        canvas.leave(judged[name], name)
    canvas.ask(loader, "classifier", "Classifier")
    canvas.ask(loader, "second_classifier", "Second classifier")
    canvas.ask(judged, "far_points", "Far points")
    canvas.ask(saved, "filename_prefix", "File name")


# Name, as the node library shows it: what draws it, what it says of itself, and words that find it.
BLUEPRINTS = {
    "Traverse and decode (MedTraverse)": (
        traverse_and_decode,
        "Denoises patients under the neutral prompt and under one attribute after another, and decodes their "
        "images. Takes what Load Medical Checkpoint gives. Synthetic images, not for clinical use.",
        ("chest X-ray", "counterfactual", "prompt swap", "latent traversal"),
    ),
    "Judge a trajectory (MedTraverse)": (
        judge_a_trajectory,
        "CFRT: the share of patients in whom the target attribute rose more than every other. Takes a "
        "trajectory and its images, and saves the figure. Synthetic images, not for clinical use.",
        ("CFRT", "classifier flip rate", "disentanglement"),
    ),
}

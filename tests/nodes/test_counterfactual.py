"""MinimalCounterfactual on films: the shipped classifier, and judges of which the answer is known."""

import csv
import io
import json

import numpy as np
import pytest
import torch

SHORT = {"steps": 10, "swap_steps": "8,5,1"}


@pytest.fixture(scope="module")
def films():
    """Two phantoms without a finding, small: [2, 64, 64, 3]."""
    from demo.judging.phantom_references import NEUTRAL
    from demo.phantoms import chest

    drawn = [chest.render(chest.sample_factors(8_100_000 + n, **NEUTRAL["chest"]), 64).image for n in (0, 1)]
    return torch.stack([torch.as_tensor(image) for image in drawn]).float()


@pytest.fixture(scope="module")
def search(run, demo, prompts, films):
    """``search(**inputs)`` projects the films and runs MinimalCounterfactual."""
    given = {"model": demo[0], "vae": demo[2]}
    start = run("ProjectToLatent", images=films, neutral=prompts[0], **given)[0]
    classifier = run("MedicalClassifierLoader")[0]

    def call(**inputs):
        return run(
            "MinimalCounterfactual",
            **{
                **given,
                "neutral": prompts[0],
                "negative": prompts[1],
                "attributes": prompts[2],
                "start": start,
                "image_classifier": classifier,
                **SHORT,
                **inputs,
            },
        )

    return call


class Moved:
    """A judge whose only label is how far an image is from the first that it saw of that brightness."""

    name = "moved"

    def __init__(self, films, share):
        self.films, self.share = films, share
        self.classifier = type("Labels", (), {"labels": ("support devices",), "sha256": "0" * 64})()

    def predict(self, images):
        distance = (images[:, None] - self.films[None]).abs().mean(dim=(2, 3, 4)).min(dim=1).values
        return (distance / self.share).clamp(0, 1)[:, None]


def test_finds_the_largest_swap_step_that_passes_and_no_larger_does(
    search, run, demo, prompts, films, traverse
):
    """Against every λ, sampled in one traversal."""
    devices = run("MedicalAttributePrompts", clip=demo[1], domain=demo[3], attributes="support devices")[2]
    start = run("ProjectToLatent", model=demo[0], vae=demo[2], images=films, neutral=prompts[0])[0]
    every = traverse(start=start, attributes=devices, steps=10, swap_steps="8,7,6,5,4,3,2,1")
    images = demo[2].decode(every.latents)[every.index[:, 0]]
    distance = (images[:, 1:] - images[:, :1]).abs().mean(dim=(2, 3, 4))
    judge = Moved(images[:, 0], 2 * float(distance[:, 3].mean()))
    outputs = search(attributes=devices, image_classifier=judge, start=start)
    report = json.loads(outputs[5])
    for patient, pair in enumerate(report["pairs"]):
        passing = judge.predict(images[patient, 1:])[:, 0] > 0.5
        grid = [step for step in (8, 5, 1) if passing[8 - step]]
        assert pair["found"] == bool(grid)
        if grid:
            above = min(step for step in (8, 5, 1, 9) if step > grid[0])
            assert pair["swap_step"] == max(step for step in range(grid[0], above) if passing[8 - step])
            found = images[patient, 1 + 8 - pair["swap_step"]]
            assert (outputs[1][patient] - found).abs().max() < 1e-3
        assert pair["null control"] < 1e-5


def test_outputs_are_pairs_by_image_and_attribute(search, films):
    originals, counterfactuals, differences, figure, table, report, drawing = search().args
    pairs = len(films) * 2
    assert originals.shape == counterfactuals.shape == differences.shape == (pairs, 64, 64, 3)
    rows, report = list(csv.DictReader(io.StringIO(table))), json.loads(report)
    assert len(rows) == len(report["pairs"]) == pairs
    assert [row["seed"] for row in rows] == ["1500", "1500", "1501", "1501"]
    assert torch.equal(originals[0], originals[1]) and not torch.equal(originals[1], originals[2])
    for row, before, after in zip(rows, originals, counterfactuals):
        changed = float((after - before).abs().max()) > 0
        assert changed and float(row["null control"]) < 1e-5
    assert figure.shape[0] == 1 and drawing.table_csv == table
    # white where nothing differs; orange where it is darker, purple where brighter
    brighter = (counterfactuals - originals).mean(dim=-1)
    assert differences[brighter.abs() < 1e-3].min() > 0.9
    assert differences[brighter > 0.3][:, 2].mean() > differences[brighter > 0.3][:, 1].mean()


def test_a_finding_is_removed_by_a_swap_to_the_normal_prompt(run, demo, prompts):
    """The other direction: the film's prompt is the attribute's, the attribute is the neutral one."""
    from demo.judging.phantom_references import draw_with

    film = torch.from_numpy(draw_with("chest", "pleural effusion", 8_100_003)).float()[None] / 255
    effusion = prompts[2].attributes[1]
    assert effusion.labels == ("pleural effusion",)
    given = {"model": demo[0], "vae": demo[2], "neutral": effusion.conditioning}
    classifier = run("MedicalClassifierLoader")[0]
    assert classifier.predict(film)[0, classifier.classifier.labels.index("pleural effusion")] > 0.9
    outputs = run(
        "MinimalCounterfactual",
        **given,
        negative=prompts[1],
        attributes=prompts[0],
        start=run("ProjectToLatent", **given, images=film)[0],
        image_classifier=classifier,
        goal="disappears",
        label="pleural effusion",
        steps=20,
        swap_steps="6,2",
        null_control=False,
    )
    pair = json.loads(outputs[5])["pairs"][0]
    assert (
        pair["found"] and pair["before"]["pleural effusion"] > 0.9 > 0.5 > pair["after"]["pleural effusion"]
    )
    assert pair["null control"] is None and np.isfinite(pair["SSIM outside"])


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({"goal": "grows"}, "goal: there is no 'grows'"),
        ({"label": "fracture"}, "label: the classifier judges .*, not 'fracture'"),
        ({"swap_steps": "9"}, "swap_steps: 9 is out of range"),
        ({"truth": torch.zeros(1, 64, 64, 3)}, "truth: there are 1 images for 4 pairs"),
    ],
)
def test_bad_inputs_are_named(search, inputs, fault):
    with pytest.raises(ValueError, match=fault):
        search(**inputs)

"""ProjectToLatent, and PromptSwapKSampler from an image, against the method in plain diffusers."""

import json
import math

import pytest
import torch

from tests.nodes.plain_projection import plain, predictor

SCALE = 0.18215
SHORT = {"steps": 10, "swap_steps": "7,4,1"}


@pytest.fixture(scope="module")
def films():
    """Two phantoms without a finding, small: [2, 64, 64, 3]."""
    from demo.judging.phantom_references import NEUTRAL
    from demo.phantoms import chest

    drawn = [chest.render(chest.sample_factors(8_100_000 + n, **NEUTRAL["chest"]), 64).image for n in (0, 1)]
    return torch.stack([torch.as_tensor(image) for image in drawn]).float()


@pytest.fixture(scope="module")
def project(run, demo, prompts, films):
    """``project(**inputs)`` runs ProjectToLatent on the films and returns its outputs."""

    def call(**inputs):
        given = {"model": demo[0], "vae": demo[2], "images": films, "neutral": prompts[0], **inputs}
        return run("ProjectToLatent", **given).args

    return call


@pytest.mark.parametrize("method", ["own noise at each step", "one noise", "DDIM inversion"])
def test_equals_plain_diffusers(traverse, project, films, pipeline, demo, method):
    domain = demo[3]
    start, _, _ = project(method=method, seed=1500, images=films[:1])
    trajectory = traverse(start=start, swap_steps="12,3", steps=20)
    attribute = domain.attributes[0]
    with torch.inference_mode():
        z0 = SCALE * pipeline.vae.encode(2 * films[:1].movedim(-1, 1) - 1).latent_dist.mode()
        words = domain.neutral()[1], attribute.prompt
        expected = plain(predictor(pipeline), pipeline.scheduler, z0, *words, (12, 3), 1500, method)
    ours = trajectory.latents[trajectory.index[0, 0]] * SCALE
    differences = [
        (ours[point] - expected[swap]).abs().max().item() for point, swap in enumerate((None, 12, 3))
    ]
    assert max(differences) < 1e-4, differences


@pytest.fixture
def attributes(run, demo):
    """``attributes(count)`` encodes the first attributes of the domain."""

    def call(count):
        names = ",".join(item.name for item in demo[3].attributes[:count])
        return run("MedicalAttributePrompts", clip=demo[1], domain=demo[3], attributes=names)[2]

    return call


def test_the_nine_swaps_cost_what_the_mathematics_allows(traverse, project, demo, attributes, films):
    """88 + 423·K rows a patient."""
    seen = []

    def count(apply_model, arguments):
        seen.append(len(arguments["input"]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    start = project(images=films[:1, ::2, ::2])[0]
    watched = demo[0].clone()
    watched.set_model_unet_function_wrapper(count)
    trajectory = traverse(model=watched, start=start, attributes=attributes(1))
    assert sum(seen) == 88 + 423 == trajectory.settings["unet"]["rows"]


def test_an_attribute_more_costs_itself_alone(traverse, project, demo, attributes):
    """The source's predictions are kept in any case; with the model's cache on, branches are too."""
    start, short = project()[0], {"steps": 20, "swap_steps": "17,12"}
    source, branches = 2 * 2 * 7, 2 * (2 * (2 + 7) - 2)
    first, second = (
        traverse(start=start, attributes=attributes(count), cache_mb=0, **short).settings["unet"]
        for count in (1, 2)
    )
    assert (first["rows"], first["reused"]) == (source + branches, 0)
    assert (second["rows"], second["reused"]) == (2 * branches, source)
    model = demo[0].clone()
    for count, rows in ((1, source + branches), (2, branches)):
        made = traverse(model=model, start=start, attributes=attributes(count), cache_mb=64, **short)
        assert made.settings["unet"]["rows"] == rows


def test_the_source_is_evaluated_in_large_batches(traverse, project):
    """Steps of both patients beside each other, 16 a call; after the swap each step is one call."""
    cost = traverse(start=project()[0], rows_per_call=16, swap_steps="41").settings["unet"]
    assert cost["calls"] == 1 + 8


def test_a_swap_to_the_own_prompt_changes_nothing(traverse, project, prompts):
    """The null control, with and without the unconditional half."""
    start = project()[0]
    for cfg in (7.5, 3.0, 1.0):
        same = traverse(start=start, attributes=prompts[0], cfg=cfg, **SHORT)
        neutral = same.latents[same.index[:, :, :1]]
        assert SCALE * (same.latents[same.index] - neutral).abs().max() < 1e-5
        assert (neutral[:, 0, 0] - start.latents).abs().max() < 1e-5


def test_a_patient_depends_on_its_image_and_seed_alone(traverse, project, films):
    together = traverse(start=project(seed=7)[0], **SHORT)
    wanted = together.latents[together.index]
    alone = traverse(start=project(images=films[1:], seed=8)[0], rows_per_call=1, **SHORT)
    assert SCALE * (alone.latents[alone.index] - wanted[1:]).abs().max() < 1e-4
    fewer = traverse(start=project(seed=7)[0], **{**SHORT, "swap_steps": "4"})
    assert SCALE * (fewer.latents[fewer.index][:, :, 1] - wanted[:, :, 2]).abs().max() < 1e-4
    other = traverse(start=project(seed=70)[0], **SHORT)
    assert (other.latents[other.index][:, :, 3] - wanted[:, :, 3]).abs().max() > 0.1
    assert together.seeds == (7, 8)


@pytest.mark.parametrize("method", ["own noise at each step", "DDIM inversion"])
def test_what_is_kept_leaves_every_number_as_it_was(traverse, project, attributes, method):
    start = project(method=method)[0]
    traverse(start=start, attributes=attributes(1), **SHORT)
    later = traverse(start=start, attributes=attributes(2), **SHORT)
    anew = traverse(start=project(method=method)[0], attributes=attributes(2), **SHORT)
    assert later.settings["unet"]["rows"] < anew.settings["unet"]["rows"]
    assert (later.latents - anew.latents).abs().max() < 1e-4


def test_the_mask_is_free_inside_and_the_image_outside(traverse, project):
    mask = torch.zeros(1, 64, 64)
    mask[:, 32:, :16] = 1
    masked = traverse(start=project(mask=mask)[0], **SHORT)
    moved = (masked.latents[masked.index] - masked.latents[masked.index[:, :, :1]]).abs().amax((0, 1, 2, 3))
    assert moved[4:, :2].min() > 0.01
    moved[4:, :2] = 0
    assert moved.max() < 1e-5
    start, _, report = project(mask=torch.zeros(1, 8, 8))
    assert start.mask is None and json.loads(report)["empty_mask"]


def test_the_automatic_region_keeps_the_rest(traverse, project):
    free = traverse(start=project()[0], **SHORT)
    kept = traverse(start=project(automatic_region=True)[0], **SHORT)
    neutral = free.latents[free.index[:, :, :1]]
    change, rest = (each.latents[each.index] - neutral for each in (free, kept))
    same = (rest.abs().amax(3) < 1e-5) | ((rest - change).abs().amax(3) < 1e-5)
    assert same.all() and 0 < (rest.abs().amax(3) < 1e-5)[:, :, 1:].float().mean() < 1


def test_euler_and_its_schedulers(traverse, project):
    start = project()[0]
    ddim, euler = (traverse(start=start, sampler=name, **SHORT).latents for name in ("ddim", "euler"))
    assert torch.equal(ddim, euler)
    karras = traverse(start=start, scheduler="karras", **SHORT)
    assert (karras.latents[karras.index[:, 0, 0]] - start.latents).abs().max() < 1e-5


def test_a_v_prediction_model_starts_from_images_too(traverse, project, demo):
    """The shipped one's outputs taken for velocities: nonsense as pictures, but the neutral is exact."""
    import comfy.model_sampling

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    model = demo[0].clone()
    model.add_object_patch("model_sampling", Sampling(model.model.model_config))
    start = project(model=model)[0]
    trajectory = traverse(model=model, start=start, **SHORT)
    assert (trajectory.latents[trajectory.index[:, 0, 0]] - start.latents).abs().max() < 1e-5
    assert trajectory.latents.isfinite().all()


def test_says_how_well_the_model_knows_an_image(project, run, films, demo):
    classifier = run("MedicalClassifierLoader")[0]
    _, images, report = project(images=films, image_classifier=classifier)
    report = json.loads(report)
    assert report["model"] and report["classifier"] == classifier.classifier.sha256
    assert images.shape == films.shape and [item["seed"] for item in report["images"]] == [1500, 1501]
    for image, film, item in zip(images, films, report["images"]):
        assert item["round_trip"] == pytest.approx(-10 * math.log10((image - film).square().mean()), abs=1e-3)
        assert {"latent_norm", "model_error", "doubt"} <= set(item)


def test_an_image_far_from_what_the_model_knows_is_called_so(project, run):
    """A phantom at the model's size, and noise, which no VAE gives back."""
    from demo.judging.phantom_references import draw_with

    phantom = torch.from_numpy(draw_with("chest", "", 8_100_005)).float() / 255
    noise = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(1))
    classifier = run("MedicalClassifierLoader")[0]
    outputs = project(images=torch.stack([phantom, noise]), image_classifier=classifier)
    said = [item["far"] for item in json.loads(outputs[2])["images"]]
    assert said[0] == "" and said[1].startswith("image 2 is far from what this model knows: the VAE gives it")


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({"images": torch.zeros(1, 60, 64, 3)}, "images: 64×60 cannot be used"),
        ({"images": torch.full((1, 64, 64, 3), math.nan)}, "images: some values are no numbers"),
        ({"method": "guess"}, "method: there is no 'guess'"),
        ({"mask": torch.ones(3, 64, 64)}, "mask: there are 3 for 2 images"),
    ],
)
def test_bad_images_are_named(project, inputs, fault):
    with pytest.raises(ValueError, match=fault):
        project(**inputs)


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({"sampler": "heun"}, "sampler: 'heun' cannot start from an image"),
        ({"width": 128}, "width, height: 128×0 is not the size of start's images, 64×64"),
    ],
)
def test_bad_settings_for_a_start_are_named(traverse, project, inputs, fault):
    with pytest.raises(ValueError, match=fault):
        traverse(start=project()[0], **{**SHORT, **inputs})


def test_another_source_prompt_than_the_sampler_s_is_refused(traverse, project, prompts):
    start = project(neutral=prompts[2].attributes[0].conditioning)[0]
    with pytest.raises(ValueError, match="neutral: it is another prompt than"):
        traverse(start=start, **SHORT)

"""PromptSwapKSampler against the reference method, against itself unshared, and its errors."""

import math

import pytest
import torch

STEPS = {"steps": 10, "swap_steps": "7,4,1", "width": 64, "height": 64}
SCALE = 0.18215
LAMBDAS = (45, 40, 35, 30, 25, 20, 15, 10, 5)


@pytest.fixture
def unshared(pack, monkeypatch):
    """From here on every row is evaluated by itself, under its own prompt, at every step."""
    traversal = __import__(pack.__name__ + ".medtraverse.traversal", fromlist=["Plan"])

    def turn_on():
        monkeypatch.setattr(
            traversal.Plan, "sources", lambda plan, step, steps: (torch.arange(plan.rows),) * 2
        )

    return turn_on


def reference(pipe, neutral, attribute, swap_step, noise):
    """The paper's loop: a callback that swaps the prompt's embedding after step λ."""
    negative, embedding = (pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("", attribute))

    def swap(pipe, step, timestep, tensors):
        if step == swap_step:
            tensors["prompt_embeds"] = torch.cat([negative, embedding])
        return tensors

    return pipe(
        prompt=neutral,
        latents=noise.clone(),
        num_inference_steps=50,
        guidance_scale=7.5,
        output_type="latent",
        callback_on_step_end=swap,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    ).images[0]


def test_equals_the_reference_for_every_swap_step(traverse, pipeline, demo):
    """Off by one, DDIM's ends, parentheses and latent scale would each show here."""
    domain = demo[3]
    attribute = domain.attributes[0]
    trajectory = traverse(seed=1500, patients=1)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1500))
    ours = trajectory.latents[trajectory.index[0, 0]] * SCALE
    neutral = domain.neutral()[1]
    difference = {
        "neutral": (ours[0] - reference(pipeline, neutral, attribute.prompt, None, noise)).abs().max().item()
    }
    for point, swap_step in enumerate(LAMBDAS, 1):
        expected = reference(pipeline, neutral, attribute.prompt, swap_step, noise)
        difference[swap_step] = (ours[point] - expected).abs().max().item()
    assert max(difference.values()) < 1e-4, difference


def test_a_swap_one_step_early_would_be_seen(traverse, pipeline, demo):
    domain = demo[3]
    trajectory = traverse(seed=1500, patients=1, swap_steps="15")
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1500))
    early = reference(pipeline, domain.neutral()[1], domain.attributes[0].prompt, 14, noise)
    assert (trajectory.latents[1] * SCALE - early).abs().max() > 1e-3


@pytest.mark.parametrize(("attributes", "rows"), [(1, 266), (3, 698)])
def test_counts_the_rows_that_the_mathematics_allows(run, demo, traverse, attributes, rows):
    names = [item.name for item in demo[3].attributes[:attributes]]
    neutral, negative, chosen, _ = run(
        "MedicalAttributePrompts", clip=demo[1], domain=demo[3], attributes=",".join(names)
    ).args
    seen = []

    def count(apply_model, arguments):
        seen.append(len(arguments["input"]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = demo[0].clone()
    model.set_model_unet_function_wrapper(count)
    trajectory = traverse(
        model=model, neutral=neutral, negative=negative, attributes=chosen, width=32, height=32
    )
    assert sum(seen) == 2 * rows - 9 * attributes == trajectory.settings["unet"]["rows"]


@pytest.mark.parametrize("steps", [30, 60])
def test_any_number_of_steps_gives_that_number_of_steps(traverse, demo, steps):
    sigmas = []

    def watch(apply_model, arguments):
        sigmas.append(float(arguments["timestep"][0]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = demo[0].clone()
    model.set_model_unet_function_wrapper(watch)
    traverse(model=model, steps=steps, swap_steps="5", width=32, height=32)
    assert len(set(sigmas)) == steps


def test_a_patient_does_not_depend_on_what_runs_beside_it(traverse, run, demo, prompts):
    everything = traverse(seed=7, patients=3, **STEPS)
    wanted = everything.latents[everything.index]
    for first, patients, rows in ((8, 1, 0), (7, 2, 1), (7, 3, 5)):
        alone = traverse(seed=first, patients=patients, rows_per_call=rows, **STEPS)
        change = (alone.latents[alone.index] - wanted[first - 7 : first - 7 + patients]).abs().max()
        assert SCALE * change < 5e-5
    fewer = traverse(seed=7, patients=1, **{**STEPS, "swap_steps": "4"})
    assert SCALE * (fewer.latents[fewer.index][0, :, 1] - wanted[0, :, 2]).abs().max() < 5e-5


def test_the_neutral_equals_a_stock_ksampler_run(traverse, demo, prompts):
    """A scheduler of ComfyUI's own: the neutral row is what core's sampler makes of the same noise."""
    import comfy.sample

    neutral, negative, _, _ = prompts
    empty = torch.zeros(1, 4, 8, 8)
    ours = traverse(seed=11, sampler="dpmpp_2m", scheduler="karras", **STEPS)
    noise = comfy.sample.prepare_noise(empty, 11)
    stock = comfy.sample.sample(demo[0], noise, 10, 7.5, "dpmpp_2m", "karras", neutral, negative, empty)
    assert SCALE * (ours.latents[0] - stock[0]).abs().max() < 5e-5


def pytest_generate_tests(metafunc):
    if "sampler" in metafunc.fixturenames:
        import comfy.samplers

        metafunc.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)


REFUSED = {"dpm_fast", "dpm_adaptive", "heunpp2", "uni_pc", "uni_pc_bh2", "sa_solver_pece"}


def test_every_sampler_equals_its_unshared_run_or_is_refused(traverse, unshared, prompts, sampler):
    """At the model's own size and low guidance.

    Else these amplify the rounding of other batch sizes: at 7.5, dpm_2 to 3e-4.

    The difference is in diffusers' scale.
    """
    first = prompts[2].attributes[0].conditioning
    inputs = {
        "steps": 10,
        "swap_steps": "7,2",
        "attributes": first,
        "width": 128,
        "height": 128,
        "cfg": 2.0,
        "sampler": sampler,
        "scheduler": "karras",
    }
    if sampler in REFUSED:
        with pytest.raises(ValueError, match=f"sampler: '{sampler}' cannot be used for a traversal.*ddim"):
            traverse(**inputs)
        return
    shared = traverse(**inputs)
    unshared()
    alone = traverse(**inputs)
    assert alone.settings["unet"]["rows"] > 1.4 * shared.settings["unet"]["rows"]
    assert SCALE * (shared.latents - alone.latents).abs().max() < 5e-5


def test_branches_of_a_patient_share_an_ancestral_samplers_noise(traverse):
    trajectory = traverse(
        sampler="euler_ancestral",
        scheduler="karras",
        steps=10,
        swap_steps="8",
        width=64,
        height=64,
        patients=2,
    )
    neutral, swapped = trajectory.latents[trajectory.index[:, 0]].unbind(1)
    assert (neutral - swapped).abs().mean() < 0.2 * (neutral[0] - neutral[1]).abs().mean()


def test_a_further_swap_step_costs_only_itself(traverse, demo):
    model = demo[0].clone()
    plain = traverse(model=model, **{**STEPS, "swap_steps": "7,4,3,1"})
    first = traverse(model=model, cache_mb=64, **STEPS)
    second = traverse(model=model, cache_mb=64, **{**STEPS, "swap_steps": "7,4,3,1"})
    assert first.settings["unet"]["reused"] == 0
    attributes = len(first.attributes)
    assert second.settings["unet"]["rows"] == attributes * (2 * (10 - 3 - 1) - 1)
    assert (second.latents - plain.latents).abs().max() < 1e-4
    assert traverse(model=model, cache_mb=0, **STEPS).settings["unet"]["reused"] == 0


def test_the_cache_is_bounded_and_does_not_serve_another_model(traverse, demo, pack):
    model = demo[0].clone()
    traverse(model=model, cache_mb=1, patients=2, **STEPS)
    cache = pack.nodes.evaluation_cache.cache_for(model, 1)
    assert 0 < cache.size <= 2**20
    other = model.clone()
    assert traverse(model=other, cache_mb=1, **STEPS).settings["unet"]["reused"] == 0


def _full(kind):
    """The error of a device whose memory is full, as torch raises it."""
    if kind is torch.AcceleratorError:
        error = kind("CUDA error: out of memory")
        error.error_code = 2
        return error
    return kind("CUDA out of memory. Tried to allocate 1.61 GiB")


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_out_of_memory_halves_the_batch_and_loses_nothing(traverse, demo, kind):
    import comfy.model_management

    if kind is torch.AcceleratorError and not hasattr(comfy.model_management, "is_oom"):
        pytest.skip("this ComfyUI does not take an AcceleratorError for a lack of memory")
    expected = traverse(patients=2, **STEPS)
    sizes = []

    def limited(apply_model, arguments):
        rows = len(arguments["input"])
        if rows > 6:
            raise _full(kind)
        sizes.append(rows)
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = demo[0].clone()
    model.set_model_unet_function_wrapper(limited)
    survived = traverse(model=model, patients=2, rows_per_call=16, **STEPS)
    assert max(sizes) <= 6
    assert (survived.latents - expected.latents).abs().max() < 1e-4


@pytest.mark.parametrize(("gigabytes", "rows"), [(1, 1), (8, 32), (24, 64), (80, 64)])
def test_rows_of_a_call_are_a_power_of_two_by_free_memory(demo, pack, monkeypatch, gigabytes, rows):
    """A model that takes 128 MiB a row, on a device that is no CPU; what a lost model held is not counted."""
    import comfy.model_management as management

    class Lost:
        device, model = demo[0].load_device, None

        def model_loaded_memory(self):
            raise AttributeError("'NoneType' object has no attribute 'loaded_size'")

    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "get_free_memory", lambda device: gigabytes * 2**30)
    monkeypatch.setattr(management, "module_size", lambda module: 0)
    monkeypatch.setattr(management, "current_loaded_models", [Lost()])
    monkeypatch.setattr(
        demo[0].model, "memory_required", lambda shape: 128 * 2**20 * (6 if gigabytes == 1 else 1)
    )
    assert pack.nodes.samplers.rows_per_call(demo[0], (4, 64, 64), 0) == rows
    assert pack.nodes.samplers.rows_per_call(demo[0], (4, 64, 64), 100) == 100


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (_full(torch.OutOfMemoryError), 3),  # 4 rows, 2, 1
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), 1),
        (RuntimeError("mat1 and mat2 must have the same dtype"), 1),
    ],
)
def test_out_of_memory_with_one_row_is_an_error_and_so_is_any_other(traverse, demo, error, calls):
    sizes = []

    def full(apply_model, arguments):
        sizes.append(len(arguments["input"]) // 2)  # guidance doubles the rows
        raise error

    model = demo[0].clone()
    model.set_model_unet_function_wrapper(full)
    with pytest.raises(type(error)):
        traverse(model=model, patients=4, rows_per_call=4, **STEPS)
    assert len(sizes) == calls


def test_cancel_ends_within_one_call(traverse, demo):
    import comfy.model_management

    calls = []

    def interrupt(apply_model, arguments):
        calls.append(1)
        if len(calls) == 3:
            comfy.model_management.interrupt_current_processing()
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = demo[0].clone()
    model.set_model_unet_function_wrapper(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        traverse(model=model, rows_per_call=2, **STEPS)
    assert len(calls) <= 4
    assert traverse(**STEPS).latents.isfinite().all()


def test_a_lora_changes_every_row_and_leaves_the_model_as_it_was(traverse, demo, run):
    import comfy.sd

    before = traverse(**STEPS).latents
    width = (
        demo[0]
        .model.diffusion_model.state_dict()["input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"]
        .shape[0]
    )
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
    lora = {
        f"{name}.lora_up.weight": torch.randn(width, 4, generator=generator),
        f"{name}.lora_down.weight": torch.randn(4, width, generator=generator),
    }
    patched, _ = comfy.sd.load_lora_for_models(demo[0], None, lora, 1.0, 0)
    changed = traverse(model=patched, **STEPS).latents
    assert ((changed - before).abs().amax((1, 2, 3)) > 1e-3).all()
    assert (traverse(**STEPS).latents - before).abs().max() < 1e-5


def test_plain_conditioning_is_one_attribute(traverse, prompts):
    _, _, attributes, _ = prompts
    named = traverse(**STEPS)
    plain = traverse(attributes=attributes.attributes[0].conditioning, **STEPS)
    assert plain.attributes == ("attribute",)
    assert (plain.latents[plain.index[:, 0]] - named.latents[named.index[:, 0]]).abs().max() < 1e-4


def test_noise_on_the_gpu_without_one_is_an_error(traverse):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ValueError, match="noise: 'gpu' needs a CUDA device"):
        traverse(noise="gpu", **STEPS)


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({"swap_steps": ""}, "swap_steps: the list is empty"),
        ({"swap_steps": "10"}, "swap_steps: 10 is out of range"),
        ({"swap_steps": "4,4"}, "swap_steps: 4 is given twice"),
        ({"swap_steps": "a"}, "swap_steps: 'a' is not"),
        ({"width": 100}, "width, height: 100×64"),
        ({"cfg": math.nan}, "cfg: nan is no weight"),
        ({"cfg": math.inf}, "cfg: inf is no weight"),
        ({"scheduler": "bogus"}, "scheduler: there is no 'bogus'"),
        ({"sampler": "bogus"}, "sampler: 'bogus' cannot"),
        ({"noise": "tpu"}, "noise: there is no 'tpu'"),
        (
            {"scheduler": "ddim_uniform", "steps": 30, "swap_steps": "5"},
            "steps: scheduler 'ddim_uniform' makes 31 steps of 30",
        ),
    ],
)
def test_bad_inputs_are_named(traverse, inputs, fault):
    with pytest.raises(ValueError, match=fault):
        traverse(**{**STEPS, **inputs})


def test_no_attribute_is_an_error(traverse, pack):
    empty = pack.medtraverse.prompts.AttributeSet(())
    with pytest.raises(ValueError, match="attributes: none is given"):
        traverse(attributes=empty, **STEPS)

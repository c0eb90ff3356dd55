"""Fine-tuning of a tiny random model: exact continuation, any number of processes, and what is refused."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medtraverse.training import fine_tune as whole
from medtraverse.training.draws import Batches, Pieces, share_of
from medtraverse.training.fine_tune import fine_tune
from medtraverse.training.output import UNET_FILE

# All that a state holds: averages, a falling rate, noise that is common, dropped captions.
RICH = {"ema": 0.9, "schedule": "cosine", "warmup": 2, "caption_dropout": 0.3, "noise_offset": 0.1}
RICH |= {"min_snr": 5, "high_noise": 10}


def quiet(_):
    pass


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(out):
    return load_file(out / "last" / "unet" / UNET_FILE)


def assert_same(out, other, tolerance=0.0):
    torch.testing.assert_close(losses(out), losses(other), atol=max(tolerance, 1e-9), rtol=0)
    one, two = weights(out), weights(other)
    assert set(one) == set(two)
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def uninterrupted(base, images, cache, tmp_path_factory):
    from medtraverse.training.settings import settings_of

    out = tmp_path_factory.mktemp("whole") / "run"
    given = {"data": images, "base": base, "out": out, "cache": cache, "steps": 8, "batch": 2}
    given |= {"accumulation": 2, "rate": 1e-3, "device": "cpu", "seed": 3, "save_every": 2}
    given |= {"validate_every": 4, "validation_images": 3, "save_precision": "fp32", **RICH}
    assert fine_tune(settings_of(given), say=quiet) == out / "best"
    return out


def test_a_run_learns_and_says_what_it_is(uninterrupted, base, images):
    from safetensors import safe_open

    curve = losses(uninterrupted)
    assert len(curve) == 8 and all(np.isfinite(curve))
    log = [json.loads(line) for line in (uninterrupted / "log.jsonl").read_text().splitlines()]
    first, second = (line["validation"] for line in log if "validation" in line)
    assert (first["step"], second["step"]) == (4, 8) and second["loss"] < first["loss"]
    assert next(iter(second["loss_by_timestep"])) == "50" and len(second["loss_by_timestep"]) == 10
    before = load_file(base / "unet" / UNET_FILE)
    after = weights(uninterrupted)
    assert set(after) == set(before) and any((after[key] != before[key]).any() for key in before)
    with safe_open(uninterrupted / "best" / "unet" / UNET_FILE, "pt") as file:
        metadata = file.metadata()
    assert "Not for clinical use" in metadata["notice"] and json.loads(metadata["updates"]) == 8
    data = json.loads(metadata["data"])
    assert data["images"] == 18 and data["held_out"] == 3 and len(data["sha256"]) == 64 and data["rule"]
    assert str(images) not in "".join(metadata.values())
    card = (uninterrupted / "README.md").read_text()
    assert data["sha256"] in card and "Not for clinical use" in card


def test_killed_runs_are_the_run_that_was_not(uninterrupted, settings, monkeypatch, tmp_path):
    """Broken off at three places in a process, between states and right behind one."""
    given = settings(**RICH, validate_every=4)
    update, stops = whole.Updates.__call__, iter([1, 4, 7])
    stop = next(stops)

    def breaks(self, step, batches):
        if step == stop + 1:
            raise KeyboardInterrupt
        return update(self, step, batches)

    monkeypatch.setattr(whole.Updates, "__call__", breaks)
    for following in [*stops, None]:
        with pytest.raises(KeyboardInterrupt):
            fine_tune(given, resume=True, say=quiet)
        stop = following
    stop = 99
    fine_tune(given, resume=True, say=quiet)
    assert_same(uninterrupted, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["step-000000008"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that has imported torch already is forked")
def test_a_process_killed_while_it_writes_goes_on(uninterrupted, settings, tmp_path):
    """SIGKILL to a process of its own, as soon as a state is being written, or there."""
    from medtraverse.__main__ import main

    out = tmp_path / "run"
    given = {**RICH, "validate_every": 4}
    file = tmp_path / "run.yaml"
    report = settings(**given).report()
    file.write_text(json.dumps({key: value for key, value in report.items() if key != "epochs"}))
    command = ["train", "unet", "--config", str(file)]
    process = multiprocessing.get_context("fork").Process(target=main, args=(command,))
    process.start()
    deadline = time.monotonic() + 200
    while not (out / "state").is_dir() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with open(out / "log.jsonl", "a") as log:
        log.write('{"step": 3, "lo')  # a line that was being written
    fine_tune(settings(**given), resume=True, say=quiet)
    assert_same(uninterrupted, out)


def test_two_processes_are_one(uninterrupted, settings, tmp_path):
    from accelerate import debug_launcher
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    try:
        debug_launcher(partial(fine_tune, settings(**RICH, validate_every=4), False, quiet), (), 2)
    finally:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
    assert_same(uninterrupted, tmp_path / "run", 2e-5)


def test_what_is_drawn_depends_on_the_place_alone(uninterrupted):
    """Any cut of an update into pieces and processes gives the same samples, and an epoch every image."""
    from medtraverse.training.draws import Draw
    from medtraverse.training.shards import Shards

    class Rows(Shards):
        def __init__(self):
            super().__init__("", 12, (2, 1, 1))

        def __getitem__(self, row):
            return np.array([row, -30], np.float16).reshape(2, 1, 1)

    batches = Batches(Rows(), np.arange(12), np.arange(12), 99, Draw(5, 1000, 1.0, 0.5, 0.1), 6)
    one = [batches[piece] for piece in Pieces(0, 2, share_of(0, 1, 6), 6)]
    cut = [batches[piece] for update in range(2) for rank in range(3)
           for piece in Pieces(update, update + 1, share_of(rank, 3, 6), 1)]  # fmt: skip
    for key in one[0]:
        assert torch.equal(torch.cat([part[key] for part in one]), torch.cat([part[key] for part in cut]))
    shown = torch.cat([part["latents"] for part in one]).flatten().round().int().tolist()
    assert sorted(shown) == list(range(12)) and shown != sorted(shown)
    dropped = torch.cat([part["words"] for part in one]) == 99
    assert 0 < dropped.sum() < 12
    assert not torch.equal(one[0]["noise"], one[1]["noise"])
    with pytest.raises(ValueError, match="batch: an update of 6 images cannot be shared evenly by 4"):
        share_of(0, 4, 6)


def test_processes_share_what_is_to_be_cached(tmp_path, monkeypatch):
    """Each makes its part; a host that does not see the others' part makes that too; nothing twice."""
    from medtraverse.training.shards import Shards, fill

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")

    class Second:
        process_index, num_processes, local_process_index = 1, 2, 0

        def __init__(self, others):
            self.others = others

        def wait_for_everyone(self):
            for number in self.others:
                write(number)

    for others, mine in (((0, 2, 4), [[1, 3], []]), ((), [[1, 3], [0, 2, 4]])):
        shards, made = Shards(tmp_path / str(len(others)), 9, (3,), np.float32, 2), []

        def write(number, shards=shards):
            shards.write(number, np.array(shards.span(number))[:, None] + np.zeros(3))

        def make(numbers, made=made, write=write):
            made.append(numbers)
            for number in numbers:
                write(number)

        fill(shards, make, Second(others))
        assert made == mine and shards.take(range(9))[:, 1].tolist() == list(range(9))
    shards.path(3).write_bytes(b"torn")
    assert shards.missing() == [3]


def test_v_prediction_and_the_text_encoder_are_trained(settings, random_model, tmp_path, images):
    """Of a base that predicts v, with its text encoder; ComfyUI's loader finds both beside each other."""
    from medtraverse.checkpoint import read_checkpoint

    other = random_model(tmp_path / "second", 2, scheduler={"prediction_type": "v_prediction"})
    given = settings(base=other, cache=tmp_path / "c", train_text_encoder=True, steps=2, text_rate=1e-2)
    chosen = fine_tune(given, say=quiet)
    assert not list((tmp_path / "c").glob("texts-*"))
    parts = read_checkpoint(other, chosen / "unet")
    key = "text_model.encoder.layers.0.mlp.fc1.weight"
    before = read_checkpoint(other).text_encoder
    assert parts.text_encoder.keys() == before.keys()
    assert 1e-4 < (parts.text_encoder[key] - before[key]).abs().max() < 0.1


def test_the_target_is_that_of_the_schedule():
    """A network that knows the noise makes no error, in ε and in v; weights are min-SNR's."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    from medtraverse.training.objective import Objective

    batch = {
        "latents": torch.randn(4, 4, 2, 2),
        "noise": torch.randn(4, 4, 2, 2),
        "timesteps": torch.tensor([1, 300, 700, 999]),
    }
    for prediction in ("epsilon", "v_prediction"):
        scheduler = DDPMScheduler(prediction_type=prediction, beta_schedule="scaled_linear")
        objective = Objective(scheduler, torch.device("cpu"), min_snr=5.0)
        a = scheduler.alphas_cumprod[batch["timesteps"]].reshape(-1, 1, 1, 1)
        right = batch["noise"] if prediction == "epsilon" else (
            a.sqrt() * batch["noise"] - (1 - a).sqrt() * batch["latents"]
        )  # fmt: skip
        assert objective(lambda *_, right=right: right, batch, None).abs().max() < 1e-10
        error = objective(lambda *_, right=right: right + 1, batch, None)
        snr = compute_snr(scheduler, batch["timesteps"])
        expected = snr.clamp(max=5) / (snr + (prediction != "epsilon"))
        torch.testing.assert_close(error, expected, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_state(settings, tmp_path, monkeypatch):
    update = whole.Updates.__call__

    def breaks(self, step, batches):
        if step == 6:
            with torch.no_grad():
                self.parameters[0].fill_(float("inf"))
        return update(self, step, batches)

    monkeypatch.setattr(whole.Updates, "__call__", breaks)
    sentence = (
        r"loss: the loss is not a number at update 6: .*diverged; give a rate below 0\.001; the state after "
        r"update 4 is kept, and --resume goes on behind it\."
    )
    with pytest.raises(ValueError, match=sentence):
        fine_tune(settings(), say=quiet)
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["step-000000004"]
    assert not (tmp_path / "run" / "last").exists()


def test_latents_are_those_of_the_vae_and_are_made_once(settings, base, images, cache, uninterrupted):
    """The file's numbers, its key, and that a second run loads no VAE."""
    from diffusers import AutoencoderKL
    from PIL import Image

    from medtraverse.training.base_model import read_base
    from medtraverse.training.latent_cache import image_digest, latent_shards

    names = [f"{number}.png" for number in range(21)]
    facts = read_base(base)
    digest = image_digest(images, names)
    shards = latent_shards(cache, digest, 21, 64, "squash", facts)
    assert shards.missing() == [] and shards.dtype == np.float16
    pixels = torch.from_numpy(np.array(Image.open(images / "4.png"))).permute(2, 0, 1)[None] / 127.5 - 1
    vae = AutoencoderKL.from_pretrained(base / "vae")
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    expected = torch.cat([posterior.mean, posterior.logvar], 1)[0]
    torch.testing.assert_close(torch.tensor(shards[4]).float(), expected, atol=2e-3, rtol=2e-3)
    others = [
        latent_shards(cache, digest, 21, 128, "squash", facts),
        latent_shards(cache, digest, 21, 64, "pad", facts),
        latent_shards(cache, image_digest(images, names[::-1]), 21, 64, "squash", facts),
    ]
    assert len({shards.folder, *(other.folder for other in others)}) == 4


def test_images_that_cannot_be_read_are_named_or_left_out(settings, images, tmp_path):
    data = shutil.copytree(images, tmp_path / "copy")
    (data / "5.png").write_bytes((data / "5.png").read_bytes()[:200])
    given = {"data": data, "cache": tmp_path / "c", "steps": 1}
    with pytest.raises(
        ValueError, match=r"data: 1 of 21 images cannot be read, the first: .*5\.png.*--skip-b"
    ):
        fine_tune(settings(**given), say=quiet)
    fine_tune(settings(**given, skip_broken=True), say=quiet)
    assert "17 images" in (tmp_path / "run" / "README.md").read_text()


def test_what_does_not_fit_is_refused_before_the_first_update(
    settings, base, images, tmp_path, monkeypatch, uninterrupted
):
    lonely = tmp_path / "lonely"
    shutil.copytree(base, lonely)
    config = json.loads((lonely / "unet" / "config.json").read_text())
    (lonely / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 48}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.safetensors").touch()
    refused = [
        ({"base": tmp_path / "empty"}, "base: .*model_index.json is not there"),
        ({"base": tmp_path / "file.safetensors"}, "base: file.safetensors is a single file"),
        (
            {"base": lonely},
            "base: the U-Net of lonely attends to text of width 48 and its text encoder gives 32",
        ),
        ({"data": tmp_path / "empty"}, "data: .*empty"),
        ({"size": 72}, "size: 72 pixels do not fit the U-Net of tiny; give a multiple of 32"),
        ({"precision": "fp16"}, "precision: fp16 needs a GPU"),
        ({"optimizer": "adamw-8bit"}, "optimizer: adamw-8bit needs bitsandbytes"),
        ({"install": tmp_path / "empty"}, "install: .*has no folder models"),
        ({"out": uninterrupted}, "out: .*holds a training that has done 8 updates; give --resume"),
    ]
    if shutil.which("nvidia-smi"):
        refused = [case for case in refused if "precision" not in case[0]]
    for changes, message in refused:
        with pytest.raises(ValueError, match=message):
            fine_tune(settings(**changes), say=quiet)
    with pytest.raises(ValueError, match=r"resume: .*with rate 0\.001, not 0\.002"):
        fine_tune(settings(out=uninterrupted, **{**RICH, "rate": 2e-3}), resume=True, say=quiet)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ValueError, match=r"cache: .*needs 0\.0 GB and the disk has 0\.0 GB free"):
        fine_tune(settings(cache=tmp_path / "full"), say=quiet)
    assert not (tmp_path / "run" / "state").exists()

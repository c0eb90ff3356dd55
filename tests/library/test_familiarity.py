"""How well a model knows an image: the measures, and what is said of them."""

import json
import math

import numpy as np
import pytest
import torch

from medtraverse import familiarity
from medtraverse.familiarity import MEASURES, QUANTILES, is_far, psnr, read_known, sentences, write_known


def test_psnr_is_skimage_s():
    metrics = pytest.importorskip("skimage.metrics")
    images, references = torch.rand(2, 2, 16, 16, 3)
    expected = [
        metrics.peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1)
        for a, b in zip(images, references)
    ]
    assert psnr(images, references).tolist() == pytest.approx(expected, rel=1e-5)


def test_psnr_of_a_part_and_of_equals():
    images, references = torch.rand(2, 1, 8, 8, 3)
    where = torch.zeros(1, 8, 8, dtype=torch.bool)
    assert psnr(images, references, where).isnan().all()
    where[:, :4] = True
    assert psnr(images, references, where)[0] == pytest.approx(psnr(images[:, :4], references[:, :4])[0])
    assert psnr(images, images)[0] == math.inf


def test_a_model_that_knows_the_noise_has_no_error():
    latents, sigmas = torch.randn(3, 4, 8, 8), torch.tensor([5.0, 2.0, 1.0, 0.5])
    states = familiarity.probes(latents, [1, 2, 3], sigmas)
    assert familiarity.model_error(latents[:, None].expand(states.shape), latents, sigmas).eq(0).all()
    # one that takes the noisy latent for the clean one mistakes all of the noise, whose variance is 1
    assert familiarity.model_error(states, latents, sigmas).tolist() == pytest.approx([1] * 3, abs=0.2)
    alone = familiarity.probes(latents[1:2], [2], sigmas)
    assert torch.equal(alone, states[1:2])


def test_doubt_is_that_of_the_least_sure_label():
    probabilities = torch.tensor([[0.0, 1.0], [0.5, 1.0], [0.1, 0.9]])
    assert familiarity.doubt(probabilities).tolist() == pytest.approx([0, 1, 0.2])
    assert familiarity.latent_norm(torch.full((2, 4, 3, 3), -2.0)).tolist() == [2, 2]


def test_known_images_are_written_and_read(tmp_path):
    values = {name: np.linspace(0, 1, 101) for name in MEASURES}
    write_known(tmp_path / "x.known.json", values, ["abc"], images="ramps")
    known, judges = read_known(tmp_path / "x.known.json")
    assert judges == ("abc",) and known["doubt"] == pytest.approx(QUANTILES)
    for text in ("", "[]", "{}", '{"quantiles": 3, "classifiers": []}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match="it holds no quantiles of known images"):
            read_known(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text(json.dumps({"quantiles": {"doubt": [1, 2]}, "classifiers": []}))
    with pytest.raises(ValueError, match="its quantiles are not the five"):
        read_known(tmp_path / "bad.json")


def test_an_image_is_far_beyond_the_margin_on_the_side_that_counts():
    known = [30.0, 31, 32, 33, 34]
    assert is_far("round_trip", 25, known) and not is_far("round_trip", 29.7, known)
    assert not is_far("round_trip", 40, known)
    assert is_far("latent_norm", 40, known) and is_far("latent_norm", 20, known)


def test_what_is_said_names_the_image_the_value_and_what_is_known():
    known = {"round_trip": [30.0, 31, 32, 33, 34], "model_error": [0.1, 0.1, 0.1, 0.1, 0.2]}
    said = sentences({"round_trip": [32.0, 25.71], "model_error": [0.1, 0.9]}, known)
    assert said == [
        "",
        "image 2 is far from what this model knows: the VAE gives it back with 25.7 dB (images that it "
        "knows: 30 … 34 dB), the model mistakes the noise in it by 0.9 (images that it knows: 0.1 … 0.2).",
    ]
    assert sentences({"round_trip": [1.0]}, None) == [""]


def test_reports_of_a_models_own_images_become_known_images(tmp_path, capsys):
    from medtraverse.__main__ import main

    def report(name, count, model="mine.safetensors", classifier="abc"):
        rows = [{"seed": n, "round_trip": 30 + n, "latent_norm": 1.0, "doubt": n / 99} for n in range(count)]
        record = {"images": rows, "model": model, "classifier": classifier}
        (tmp_path / name).write_text(json.dumps(record))
        return str(tmp_path / name)

    out = str(tmp_path / "mine.known.json")
    first, second = report("1.json", 15), report("2.json", 10)
    assert main(["known", first, second, "--out", out]) == 0
    known, judges = read_known(out)
    assert judges == ("abc",) and known["round_trip"][-1] == pytest.approx(44, abs=0.2)
    assert "model_error" not in known
    for reports, target, words in (
        ([first], "x.known.json", "they hold 15 images"),
        ([first, report("3.json", 10, "other")], "x.known.json", "they are of 2 models"),
        ([first, __file__], "x.known.json", "it is no report of Project to Latent"),
        ([first, second], "mine.known.json", "is there already"),
        ([first, second], "mine.json", "would not be found"),
    ):
        assert main(["known", *reports, "--out", str(tmp_path / target)]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "x.known.json").exists()
    assert main(["known", first, report("4.json", 9, classifier=None), "--out", out + ".known.json"]) == 0
    known, judges = read_known(out + ".known.json")
    assert "doubt" not in known and judges == ()

"""MedicalStudy on the shipped model: what it keeps is what the single nodes say, however it was cut."""

import json
from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def classifier(run):
    return run("MedicalClassifierLoader", classifier="MedTraverse demo CheXpert")[0]


FEW = {"steps": 4, "swap_steps": "2,1", "frames": 5, "kept_frames": "3-4", "patients": 2}


@pytest.fixture(scope="module")
def study(run, demo, prompts, classifier):
    """``study(**inputs)`` runs the node with few steps."""
    neutral, negative, attributes, _ = prompts
    parts = {"model": demo[0], "vae": demo[2], "image_classifier": classifier}
    words = {"neutral": neutral, "negative": negative, "attributes": attributes}
    return lambda **inputs: run("MedicalStudy", **parts, **words, **FEW | inputs).args


def place(name):
    return Path(folder_paths.get_output_directory()) / name


def kept(pack, name):
    return pack.medtraverse.study.read(place(name)).block


def test_its_figures_are_the_single_nodes_and_no_cut_moves_a_digit(
    pack, run, demo, traverse, classifier, study, monkeypatch
):
    whole = study(folder="studies/whole", block_size=2)
    block = kept(pack, "studies/whole")

    trajectory = traverse(**{name: FEW[name] for name in ("steps", "swap_steps", "patients")})
    images = demo[2].decode(trajectory.latents)
    by_evaluator = trajectory.gather(classifier.predict(images)).numpy()
    assert np.abs(block.swap - by_evaluator).max() < 1e-4
    cosines = run("LatentDirectionCosine", trajectory=trajectory)[1]
    first = [float(cell) for cell in cosines.splitlines()[1].split(",")[2:4]]
    assert block.cosines[0, 0] == pytest.approx(first, abs=1e-4)
    curve = run("BezierLatentInterpolate", source=trajectory, frames=5)[1]
    last = curve.latents[curve.index[0, 1, 4]][None]
    assert block.curve[0, 1, -1] == pytest.approx(
        classifier.predict(demo[2].decode(last))[0].numpy(), abs=1e-4
    )
    own = run("IdentityPreservation", trajectory=trajectory, images=images, perceptual="none")[1]
    own = json.loads(own)["own neutral"]["support devices"]["ssim"]
    assert block.own["ssim"][:, 0].mean(0) == pytest.approx(own, abs=1e-4)

    # cut otherwise, ended within a block, and gone on with: the same bits
    work = pack.nodes.run_study
    make, left = work.make_patient, [1]

    def until(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return make(*arguments)

    monkeypatch.setattr(work, "make_patient", until)
    with pytest.raises(KeyboardInterrupt):
        study(folder="studies/cut", block_size=50, first_seed=1501)
    left[0] = 1
    again = study(folder="studies/cut", block_size=1)
    assert left == [0] and again[1].split("\n", 1)[1] == whole[1].split("\n", 1)[1]
    assert again[2] == whole[2]
    other = kept(pack, "studies/cut")
    assert other.seeds == block.seeds == (1500, 1501)
    for name in ("swap", "curve", "cosines"):
        assert np.array_equal(getattr(other, name), getattr(block, name)), name
    for name, values in block.other.items():
        assert np.array_equal(other.other[name], values) and np.array_equal(other.own[name], block.own[name])

    # outputs: the pictured patients as a trajectory with their images, and drawings that save
    assert whole[8].seeds == (1500, 1501) and len(whole[9]) == len(whole[8].latents)
    assert (whole[8].latents - trajectory.latents).abs().max() < 0.02
    assert isinstance(whole[0], torch.Tensor) and "cfrt" in whole[5].table_csv.splitlines()[0]


def test_another_study_is_refused_by_name_and_nothing_leaves_the_output_folder(study):
    with pytest.raises(ValueError, match="cfg: 7.5 here, 3.0 there"):
        study(folder="studies/whole", cfg=3.0)
    for folder in ("../elsewhere", "/tmp/elsewhere", "."):
        with pytest.raises(ValueError, match="no folder below ComfyUI's output folder"):
            study(folder=folder)


def test_it_ends_when_the_interval_is_narrow_enough(study):
    table = study(folder="studies/whole", interval_width=0.85)[1]
    patients = int(table.split(" ", 1)[0])
    assert patients < 2 and "as narrow as asked for" in table

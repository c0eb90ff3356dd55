"""The oracle reads phantoms it was not set on: findings, geometry, identity.

Plainly drawn, blurred and noisy.
"""

import numpy as np
import pytest

from demo.judging import oracle
from demo.judging.oracle import (
    DOMAINS,
    anatomy,
    degraded,
    evaluate,
    moved,
    read,
    read_chest,
    read_dermoscopy,
    spread,
)
from demo.phantoms import chest, dermoscopy

FIRST, COUNT = 5_900_000, 60
MODULES = {"chest": chest, "dermoscopy": dermoscopy}
FINDINGS = {"chest": ("pleural_effusion", "support_devices"), "dermoscopy": dermoscopy.ARTEFACTS}


def drawn(domain, seed, **overrides):
    module = MODULES[domain]
    return module.render(module.sample_factors(seed, **overrides), 128).image


@pytest.fixture(scope="module", params=sorted(MODULES))
def patients(request):
    factors = [MODULES[request.param].sample_factors(FIRST + index) for index in range(COUNT)]
    return request.param, factors, [MODULES[request.param].render(f, 128).image for f in factors]


@pytest.fixture(scope="module")
def between():
    return {
        domain: spread([anatomy(drawn(domain, FIRST + 500 + i), domain) for i in range(30)])
        for domain in MODULES
    }


@pytest.mark.parametrize(("blur", "noise"), [(0, 0), (1, 0.02)])
def test_findings_are_read(patients, blur, noise):
    domain, factors, images = patients
    table = evaluate(
        [degraded(image, blur, noise, seed) for seed, image in enumerate(images)], factors, domain
    )["attributes"]
    for name in FINDINGS[domain]:
        assert (
            table[name]["auc"] > 0.97
            and table[name]["recall"] >= 0.9
            and table[name]["false_positives"] <= 0.1
        ), (name, table[name])
        assert table[name]["read"] == COUNT


def test_geometry_follows_the_factors(patients):
    domain, factors, images = patients
    found = evaluate(images, factors, domain)["readouts"]
    least = {
        "chest": {
            "midline": 0.95,
            "thorax_width": 0.95,
            "tissue": 0.9,
            "air": 0.9,
            "heart_width": 0.7,
            "diaphragm_right": 0.6,
        },
        "dermoscopy": {
            "skin_tone": 0.9,
            "skin_cast": 0.8,
            "light_x": 0.9,
            "light_y": 0.9,
            "lesion_x": 0.8,
            "lesion_y": 0.8,
            "lesion_radius": 0.7,
        },
    }
    for name, floor in least[domain].items():
        assert found[name] > floor, (name, found[name])


@pytest.mark.parametrize(("domain", "finding"), [(d, name) for d in sorted(MODULES) for name in FINDINGS[d]])
def test_a_finding_turns_its_score_and_keeps_the_patient(between, domain, finding):
    off = dict.fromkeys(FINDINGS[domain], False)
    distances = []
    for seed in range(FIRST + 100, FIRST + 106):
        without, with_it = (drawn(domain, seed, **(off | {finding: flag})) for flag in (False, True))
        assert read(without, domain)[finding] < 0.5 < read(with_it, domain)[finding]
        distances.append(moved(anatomy(with_it, domain), anatomy(without, domain), between[domain]))
    assert np.median(distances) < 0.35


@pytest.mark.parametrize("domain", sorted(MODULES))
def test_another_patient_is_far(between, domain):
    vectors = np.array([anatomy(drawn(domain, FIRST + 200 + i), domain) for i in range(16)])
    assert moved(vectors, vectors, between[domain]) == pytest.approx(0)
    assert 0.6 < np.median(moved(vectors, np.roll(vectors, 1, 0), between[domain])) < 1.4
    assert vectors.shape[1] == len(DOMAINS[domain][1].ANATOMY)


def test_fluid_hides_the_lung_on_its_side():
    seed = FIRST + 300
    found = read_chest(
        drawn(
            "chest",
            seed,
            pleural_effusion=True,
            effusion_left=0.7,
            effusion_right=0.0,
            support_devices=False,
            cardiomegaly=False,
        )
    )
    assert (
        np.isnan(found["lung_area_left"])
        and np.isfinite(found["lung_area_right"])
        and found["effusion_left"] > found["effusion_right"]
    )


def test_melanoma_has_the_more_colours_and_the_rougher_outline():
    def plain(seed, diagnosis):
        return read_dermoscopy(
            drawn("dermoscopy", seed, diagnosis=diagnosis, **dict.fromkeys(dermoscopy.ARTEFACTS, False))
        )

    pairs = [(plain(seed, "MEL"), plain(seed, "NV")) for seed in range(FIRST, FIRST + 8)]
    for name in ("melanoma", "lesion_irregularity", "lesion_asymmetry"):
        assert sum(mel[name] > nevus[name] for mel, nevus in pairs) >= 7, name


def test_blank_images_are_read_without_a_finding():
    for value in (0.0, 0.5):
        image = np.full((128, 128, 3), value, np.float32)
        assert read_chest(image)["support_devices"] < 0.5 and read_dermoscopy(image)["hair"] < 0.5


def test_other_sizes_are_read_alike():
    factors = chest.sample_factors(FIRST, support_devices=True, pleural_effusion=False)
    small, large = (read_chest(chest.render(factors, size).image) for size in (128, 256))
    assert small["support_devices"] > 0.5 and large["support_devices"] > 0.5
    assert large["thorax_width"] == pytest.approx(small["thorax_width"], abs=0.04)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"image: it has shape \[64, 32, 3\]"):
        read_chest(np.zeros((64, 32, 3)))
    with pytest.raises(ValueError, match="image: it runs from -1 to 1"):
        read_dermoscopy(np.linspace(-1, 1, 128 * 128 * 3).reshape(128, 128, 3))
    with pytest.raises(ValueError, match="domain: 'mri' "):
        read(np.zeros((128, 128, 3)), "mri")
    with pytest.raises(ValueError, match="20 patients or more"):
        spread(np.zeros((5, 4)))
    with pytest.raises(ValueError, match="entry 0 does not vary"):
        spread(np.zeros((30, 4)))


def test_command(capsys):
    assert oracle.main(["--domain", "dermoscopy", "--count", "20", "--seed", str(FIRST)]) == 0
    printed = capsys.readouterr().out
    assert "gel_bubble" in printed and "skin_tone" in printed and "Synthetic images" in printed

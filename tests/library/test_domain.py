"""Domains: the paper's prompts letter by letter, and a user's own."""

import json

import pytest

from medtraverse.domain import guess_domain, load_domains, parse_attributes, read_domain
from medtraverse.prompts import literal


def test_chexpert_prompts_are_the_papers():
    domain = load_domains()["CheXpert"]
    assert domain.neutral()[1] == "Normal chest X-ray with no significant findings"
    assert {item.name: domain.prompt(item) for item in domain.attributes} == {
        "support devices": "Chest X-ray showing Support Devices",
        "pleural effusion": "Chest X-ray showing Pleural Effusion",
        "pleural effusion + support devices": "Chest X-ray showing Pleural Effusion, Support Devices",
    }
    assert [item.name for item in domain.select()] == ["support devices", "pleural effusion"]
    assert {item.name: item.colour for item in domain.select()} == {
        "support devices": "#00CC00",
        "pleural effusion": "#CC00CC",
    }


@pytest.mark.parametrize(
    ("neutral", "prompt"),
    [
        ("MEL", "a dermoscopic image with melanoma (MEL)"),
        ("NV", "a dermoscopic image with melanocytic nevus (NV)"),
    ],
)
def test_isic_prompts_are_the_papers(neutral, prompt):
    domain = load_domains()["ISIC"]
    assert domain.neutral(neutral) == (neutral, prompt)
    assert {item.name: domain.prompt(item, neutral) for item in domain.attributes} == {
        "hair": prompt + " with hairs visible on skin",
        "gel bubble": prompt + " showing gel bubbles",
        "ruler": prompt + " with a ruler visible",
        "ink": prompt + " showing ink",
    }


def test_select_keeps_the_order_asked_for_and_names_the_good_ones():
    domain = load_domains()["ISIC"]
    assert [item.name for item in domain.select("ink, Hair")] == ["ink", "hair"]
    with pytest.raises(ValueError, match="no attribute 'edema'; it has hair, gel bubble, ruler, ink"):
        domain.select("edema")
    with pytest.raises(ValueError, match="twice"):
        domain.select("ink, INK")
    with pytest.raises(ValueError, match="neutral.*'BCC'; it has MEL, NV"):
        domain.neutral("BCC")


def test_a_user_adds_a_domain(tmp_path):
    own = {
        "name": "Fundus",
        "size": 256,
        "neutrals": {"healthy": "a fundus photograph"},
        "attributes": [{"name": "drusen", "prompt": "{neutral} with drusen"}],
    }
    (tmp_path / "fundus.json").write_text(json.dumps(own))
    domain = load_domains(tmp_path)["Fundus"]
    assert domain.prompt(domain.attributes[0]) == "a fundus photograph with drusen"
    assert domain.attributes[0].labels == ("drusen",)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 250},
        {"neutrals": {}},
        {"attributes": []},
        {"attributes": [{"name": "x"}]},
        {"attributes": [{"name": "x", "prompt": "y", "colour": "red"}]},
        {"size": "big"},
    ],
)
def test_a_broken_domain_file_is_named(tmp_path, change):
    own = {
        "name": "Fundus",
        "size": 256,
        "neutrals": {"healthy": "a"},
        "attributes": [{"name": "drusen", "prompt": "b"}],
        **change,
    }
    (tmp_path / "fundus.json").write_text(json.dumps(own))
    with pytest.raises(ValueError, match="domain file fundus.json"):
        read_domain(tmp_path / "fundus.json")


def test_extra_attributes_are_read_line_by_line():
    first, second = parse_attributes("edema = Chest X-ray showing Edema\n\n blue thing #0011AA = a = b\n")
    assert (first.name, first.prompt) == ("edema", "Chest X-ray showing Edema")
    assert (second.name, second.colour, second.prompt) == ("blue thing", "#0011AA", "a = b")
    with pytest.raises(ValueError, match="extra_attributes.*'no equals sign'"):
        parse_attributes("no equals sign")


def test_auto_reads_the_domain_off_the_name():
    domains = load_domains()
    assert guess_domain(domains, "sd15-CheXpert-epoch40.safetensors").name == "CheXpert"
    assert guess_domain(domains, "unet_isic2019").name == "ISIC"
    for name in ("model", "isic-and-chexpert"):
        with pytest.raises(ValueError, match="domain.*choose one of CheXpert, ISIC"):
            guess_domain(domains, name)


def test_a_broken_domain_file_can_be_left_out(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="domain file broken.json"):
        load_domains(tmp_path)
    reported = []
    assert set(load_domains(tmp_path, report=reported.append)) == {"CheXpert", "ISIC"}
    assert "broken.json" in str(reported[0])


def test_parentheses_become_literal_once():
    assert literal("melanoma (MEL)") == r"melanoma \(MEL\)"
    assert literal(literal("melanoma (MEL)")) == literal("melanoma (MEL)")

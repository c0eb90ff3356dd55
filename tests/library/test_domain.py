"""Domains: the paper's prompts letter by letter, and a user's own."""

import json

import pytest

from medtraverse.classifiers.torchxrayvision_state import PATHOLOGIES
from medtraverse.domain import guess_domain, load_domains, parse_attributes, read_domain
from medtraverse.evaluation import judged_columns
from medtraverse.prompts import literal

CHEXPERT_14 = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
DIAGNOSES = (
    "Actinic keratoses",
    "Basal cell carcinoma",
    "Benign keratosis-like lesions",
    "Dermatofibroma",
    "Melanocytic nevi",
    "Melanoma",
    "Vascular lesions",
)


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


OWN = {
    "name": "Fundus",
    "size": 256,
    "neutrals": {"healthy": "a"},
    "attributes": [{"name": "drusen", "prompt": "b"}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 250}, "size: 250 is no image side"),
        ({"size": "big"}, "size: 'big' is no image side"),
        ({"size": True}, "size: True"),
        ({"size": 0}, "size: 0"),
        ({"name": 3}, "name: 3 is no text; write it in quotes"),
        ({"name": " "}, "name: is empty"),
        ({"name": "auto"}, "name: 'auto' is what stands for no choice"),
        ({"title": 3}, "title: 3 is no text"),
        ({"negative": 3}, "negative: 3 is no text"),
        ({"neutrals": {}}, "neutrals: is empty"),
        ({"neutrals": ["healthy"]}, r'neutrals: \["healthy"\] is no object'),
        ({"neutrals": {"healthy": 3}}, "neutrals, 'healthy': 3 is no text"),
        ({"neutrals": {"": "a"}}, "neutrals, name '': is empty"),
        ({"neutrals": {"Auto": "a"}}, "neutrals, name 'Auto': 'Auto' is what stands for no choice"),
        ({"hints": "cxr"}, 'hints: "cxr" is no list'),
        ({"hints": [""]}, "hints: is empty"),
        ({"aliases": ["a"]}, "aliases: .* is no object"),
        ({"aliases": {"drusen": "spot"}}, "aliases, 'drusen': \"spot\" is no list"),
        ({"aliases": {"drusen": [3]}}, "aliases, 'drusen': 3 is no text"),
        ({"aliases": {"edema": ["x"]}}, "aliases: 'edema' is no label of an attribute; take one of drusen"),
        ({"aliases": {"drusen": ["x"], "Drusen": ["y"]}}, "aliases: 'drusen' is given twice"),
        ({"attributes": []}, "attributes: is empty"),
        ({"attributes": {"drusen": "b"}}, "attributes: .* is no list"),
        ({"attributes": ["drusen"]}, 'attribute 1: "drusen" is no object'),
        ({"attributes": [{"name": "x"}]}, "attribute 'x', prompt: is missing"),
        ({"attributes": [{"prompt": "x"}]}, "attribute 1, name: is missing"),
        ({"attributes": [{"name": "", "prompt": "y"}]}, "attribute 1, name: is empty"),
        ({"attributes": [{"name": "a, b", "prompt": "y"}]}, "attribute 1, name: 'a, b' has a comma"),
        ({"attributes": [{"name": "x", "prompt": 3}]}, "attribute 'x', prompt: 3 is no text"),
        (
            {"attributes": [{"name": "x", "prompt": "y", "colour": "red"}]},
            "'x', colour: 'red' is not a colour",
        ),
        ({"attributes": [{"name": "x", "prompt": "y", "color": "red"}]}, "'x': 'color' is no field"),
        ({"attributes": [{"name": "x", "prompt": "y", "default": "no"}]}, "'x', default: 'no' is neither"),
        (
            {"attributes": [{"name": "x", "prompt": "y", "labels": "pleural effusion"}]},
            "attribute 'x', labels: \"pleural effusion\" is no list",
        ),
        ({"attributes": [{"name": "x", "prompt": "y"}, {"name": "X ", "prompt": "z"}]}, "'x' is given twice"),
    ],
)
def test_a_broken_domain_file_is_named_with_its_field(tmp_path, change, message):
    (tmp_path / "fundus.json").write_text(json.dumps(OWN | change))
    with pytest.raises(ValueError, match=f"^domain file fundus.json: .*{message}"):
        read_domain(tmp_path / "fundus.json")


@pytest.mark.parametrize("key", ["name", "size", "neutrals", "attributes"])
def test_a_missing_field_is_named(tmp_path, key):
    (tmp_path / "fundus.json").write_text(json.dumps({k: v for k, v in OWN.items() if k != key}))
    with pytest.raises(ValueError, match=f"domain file fundus.json: {key}: is missing; add it"):
        read_domain(tmp_path / "fundus.json")


def test_a_byte_order_mark_is_read_over(tmp_path):
    (tmp_path / "fundus.json").write_text(json.dumps(OWN), encoding="utf-8-sig")
    assert read_domain(tmp_path / "fundus.json").name == "Fundus"


def test_nothing_in_a_folder_closes_it(tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "fundus.json").write_text(json.dumps(OWN))
    errors = []
    assert set(load_domains(tmp_path, report=errors.append)) == {*load_domains(), "Fundus"}
    names = ("bytes", "deep", "folder", "link", "list", "loop")
    assert [str(error).split(":")[0] for error in errors] == [f"domain file {name}.json" for name in names]
    assert set(load_domains(tmp_path / "fundus.json", tmp_path / "none")) == set(load_domains())


def test_extra_attributes_are_read_line_by_line():
    first, second = parse_attributes("edema = Chest X-ray showing Edema\n\n blue thing #0011AA = a = b\n")
    assert (first.name, first.prompt) == ("edema", "Chest X-ray showing Edema")
    assert (second.name, second.colour, second.prompt) == ("blue thing", "#0011AA", "a = b")
    with pytest.raises(ValueError, match="extra_attributes.*'no equals sign'"):
        parse_attributes("no equals sign")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("x = ", "'x =' has no prompt"),
        ("x #0011AA =", "has no prompt"),
        (" = y", "'= y' has no name"),
        ("#0011AA = y", "has no name"),
        ("=", "cannot be read"),
        ("x #red = y", "cannot be read"),
    ],
)
def test_extra_attributes_need_a_name_and_a_prompt(line, fault):
    with pytest.raises(ValueError, match=f"extra_attributes: .*{fault}; write one"):
        parse_attributes(f"edema = Edema\n{line}\n")


def test_auto_reads_the_domain_off_the_name():
    domains = load_domains()
    assert guess_domain(domains, "sd15-CheXpert-epoch40.safetensors").name == "CheXpert"
    assert guess_domain(domains, "unet_isic2019").name == "ISIC"
    for name, domain in (
        ("stable-diffusion-mimic-cxr-v0.1", "MIMIC-CXR"),
        ("RoentGen-v2", "RoentGen-v2"),
        ("nih-chest-xray", "NIH"),
        ("PRISM", "PRISM"),
        ("ham10000_unet", "HAM10000"),
        ("my-cxr", "CheXpert"),
    ):
        assert guess_domain(domains, name).name == domain
    for name in ("model", "isic-and-chexpert"):
        with pytest.raises(ValueError, match="domain.*choose one of CheXpert, HAM10000, ISIC"):
            guess_domain(domains, name)


def test_shipped_domains_are_whole():
    for name, domain in load_domains().items():
        prompts = [domain.prompt(attribute) for attribute in domain.attributes]
        assert len(set(prompts)) == len(prompts), name
        assert len({attribute.name for attribute in domain.attributes}) == len(prompts), name
        assert 2 <= len(domain.select()) <= 4, name
        assert len(set(domain.select())) == len(domain.select())
        assert len({attribute.colour for attribute in domain.attributes}) == len(prompts), name


def test_a_broken_domain_file_can_be_left_out(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="domain file broken.json"):
        load_domains(tmp_path)
    reported = []
    assert set(load_domains(tmp_path, report=reported.append)) == set(load_domains())
    assert "broken.json" in str(reported[0])


def test_parentheses_become_literal_once():
    assert literal("melanoma (MEL)") == r"melanoma \(MEL\)"
    assert literal(literal("melanoma (MEL)")) == literal("melanoma (MEL)")


def test_aliases_name_what_classifiers_call_a_label():
    """Labels of torchxrayvision, CheXpert's 14 and those of HAM10000 classifiers, without any renaming."""
    domains = load_domains()
    for name, labels in (
        ("NIH", PATHOLOGIES),
        ("MIMIC-CXR", CHEXPERT_14),
        ("RoentGen-v2", CHEXPERT_14),
        ("PRISM", CHEXPERT_14),
        ("CheXpert", CHEXPERT_14),
        ("HAM10000", DIAGNOSES),
    ):
        domain = domains[name]
        items = domain.attributes
        columns = judged_columns(
            [item.name for item in items], [item.labels for item in items], labels, domain.aliases
        )
        flat = [column for own in columns for column in own if len(own) == 1]
        assert len(set(flat)) == len(flat), name


def test_a_chexpert_attribute_finds_torchxrayvisions_word_and_devices_are_told():
    domain = load_domains()["CheXpert"]
    columns = judged_columns(["pleural effusion"], [["pleural effusion"]], PATHOLOGIES, domain.aliases)
    assert [PATHOLOGIES[column] for (column,) in columns] == ["Effusion"]
    with pytest.raises(ValueError, match="not 'support devices' .*; wire a classifier of this domain"):
        judged_columns(["devices"], [["support devices"]], PATHOLOGIES, domain.aliases)

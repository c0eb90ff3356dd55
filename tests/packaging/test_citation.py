"""CITATION.cff: what it says is what the project and the README say."""

import re
from pathlib import Path

import yaml

from medtraverse import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_the_citation_names_this_version_and_the_papers_authors():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert citation["version"] == __version__ == re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    paper = citation["preferred-citation"]
    assert re.search(r"title\s*= {(.+)}", readme)[1] == paper["title"]
    names = [author["family-names"] for author in paper["authors"]]
    assert re.search(r"author\s*= {(.+)}", readme)[1] == " and ".join(names)
    assert paper["identifiers"][0]["value"] in readme

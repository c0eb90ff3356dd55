"""web/*.js against the frontend's own types and the contract of the views' files.

Needs what `npm ci` installs; without it these tests are skipped.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TSC = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
FRONTEND = ROOT / "node_modules" / "@comfyorg" / "comfyui-frontend-types" / "index.d.ts"
CONTRACT = ROOT / "nodes" / "view_contract.py"


def check(project):
    node = shutil.which("node")
    if not node:
        pytest.skip("no node: install Node.js, then run `npm ci`")
    if not (TSC.is_file() and FRONTEND.is_file()):
        pytest.skip("the types are not installed: run `npm ci`")
    return subprocess.run(
        [node, str(TSC), "--project", str(project), "--pretty", "false"],
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_types_of_the_page_agree_with_the_frontends():
    done = check(ROOT / "tsconfig.json")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("app.registerExtensions({ name: 'x' })", "'registerExtensions' does not exist"),
        (
            "app.registerExtension({ name: 'x', nodeCreated(node) { node.addDOMWidget('a', 'b', 'c') } })",
            "'string' is not assignable to parameter of type 'HTMLElement'",
        ),
        ("api.apiURL(3)", "'number' is not assignable to parameter of type 'string'"),
    ],
)
def test_a_call_that_the_frontend_does_not_have_is_an_error(tmp_path, line, complaint):
    (tmp_path / "page.js").write_text(
        "import { app } from '/scripts/app.js'\nimport { api } from '/scripts/api.js'\n"
        f"export const used = [app, api]\n{line}\n"
    )
    (tmp_path / "tsconfig.json").write_text(
        json.dumps({"extends": str(ROOT / "tsconfig.json"), "include": ["page.js"]})
    )
    done = check(tmp_path / "tsconfig.json")
    assert done.returncode and complaint in done.stdout and done.stdout.count("error TS") == 1


@pytest.fixture(scope="module")
def contract():
    spec = importlib.util.spec_from_file_location("view_contract", CONTRACT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # pydantic finds the fields' docstrings by it
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_pages_types_and_the_schema_are_those_of_the_contract(contract):
    stale = [path.name for path, text in contract.files().items() if path.read_text("utf-8") != text]
    assert not stale, f"run `python nodes/view_contract.py`: {stale}"


def attribute(**change):
    return {"name": "hair", "colour": "#7A4B2A", "labels": ["hair"], **change}


def trajectory_file(**change):
    return {
        "format": 1,
        "view": "trajectory",
        "notice": "",
        "key": "k",
        "kind": "swap",
        "neutral": "normal",
        "seeds": [1, "18446744073709551615"],
        "attributes": [attribute()],
        "points": ["neutral", "5"],
        "index": [[[0, 1]], [[2, 3]]],
        "size": [8, 8],
        "images": {"subfolder": "medtraverse", "type": "temp", "prefix": "a-", "suffix": ".png"},
        "approximate": False,
        "left_out": 0,
        **change,
    }


CHANGES: list[dict[str, object]] = [
    {},
    {"format": 2},
    {"view": "map"},
    {"kind": "walk"},
    {"seeds": [None]},
    {"attributes": [attribute(labels=None)]},
    {"index": [[0]]},
    {"images": None},
    {"more": 1},
]


def test_page_and_nodes_take_and_refuse_the_same_files(contract, tmp_path):
    """Files as pydantic reads them by the contract, and as tsc does by the types made from it."""
    import pydantic

    types = json.dumps(str(ROOT / "web" / "types" / "views"))
    taken = set()
    for number, change in enumerate(CHANGES):
        text = json.dumps(trajectory_file(**change))
        (tmp_path / f"file{number}.ts").write_text(
            f"import type {{ ViewFile }} from {types}\nexport const file: ViewFile = {text}\n"
        )
        try:
            contract.adapter()[0].validate_json(text)
            taken.add(number)
        except pydantic.ValidationError:
            pass
    (tmp_path / "tsconfig.json").write_text(
        json.dumps({"extends": str(ROOT / "tsconfig.json"), "include": ["file*.ts"]})
    )
    done = check(tmp_path / "tsconfig.json")
    refused = {int(found) for found in re.findall(r"file(\d+)\.ts\(\d+,\d+\): error", done.stdout)}
    assert taken == {0} and refused == set(range(1, len(CHANGES))), done.stdout


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("readView(file).then((view) => view.seed)", "'seed' does not exist on type 'ViewFile'"),
        (
            "readView(file).then((view) => view.view === 'cfrt' && view.results[0].share)",
            "'share' does not exist on type 'Result'",
        ),
        ("readView({ filename: 'a' })", "missing the following properties from type 'File'"),
    ],
)
def test_a_field_that_the_contract_does_not_name_is_an_error_of_the_page(tmp_path, line, complaint):
    (tmp_path / "page.js").write_text(
        f"import {{ readView }} from {json.dumps(str(ROOT / 'web' / 'parts' / 'server.js'))}\n"
        "export const file = /** @type {Parameters<typeof readView>[0]} */ ({})\n"
        f"export const used = () => {line}\n"
    )
    (tmp_path / "tsconfig.json").write_text(
        json.dumps({"extends": str(ROOT / "tsconfig.json"), "include": ["page.js"]})
    )
    done = check(tmp_path / "tsconfig.json")
    assert done.returncode and complaint in done.stdout and done.stdout.count("error TS") == 1


def test_the_packages_are_pinned_to_versions_and_hashes():
    named = json.loads((ROOT / "package.json").read_text())
    locked = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert not named.get("dependencies") and locked[""]["devDependencies"] == named["devDependencies"]
    for name, version in named["devDependencies"].items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all(package["integrity"] and "resolved" not in package for path, package in locked.items() if path)

"""web/*.js against the frontend's own types. Needs what `npm ci` installs; without it these tests are skipped."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TSC = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
FRONTEND = ROOT / "node_modules" / "@comfyorg" / "comfyui-frontend-types" / "index.d.ts"


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
        f"import {{ app }} from '/scripts/app.js'\nimport {{ api }} from '/scripts/api.js'\nexport const used = [app, api]\n{line}\n"
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

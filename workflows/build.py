"""Write all bundled workflows and blueprints: ``python -m workflows.build [--server URL] [--check]``.

Takes the inputs of every node from a running ComfyUI's ``/object_info``, or starts one.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.comfyui import start_server
from medtraverse.remote.client import Client
from medtraverse.whole_file import write_text
from workflows.blueprints import BLUEPRINTS
from workflows.canvas import Canvas
from workflows.graphs import draw, names

FOLDER = Path(__file__).resolve().parent
SUBGRAPHS = FOLDER.parent / "subgraphs"


def files(object_info: dict[str, Any]) -> dict[Path, str]:
    """Return ``{path: text}`` of every workflow, in UI and (``api/``) API format, and of every blueprint."""
    texts = {}
    for name in names():
        canvas = draw(Canvas(object_info, name))
        texts[FOLDER / f"{name}.json"] = _text(canvas.ui())
        texts[FOLDER / "api" / f"{name}.json"] = _text(canvas.api())
    for name, (draw_inside, description, aliases) in BLUEPRINTS.items():
        canvas = Canvas(object_info, name)
        draw_inside(canvas)
        # Some versions of core read them in the machine's own encoding: ASCII is the same in all.
        texts[SUBGRAPHS / f"{name}.json"] = _text(canvas.blueprint(description, aliases), ascii=True)
    return texts


def _text(graph: dict[str, Any], ascii: bool = False) -> str:
    return json.dumps(graph, indent=1, ensure_ascii=ascii) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workflows.build", description=__doc__.splitlines()[0])
    parser.add_argument("--server", help="a running ComfyUI with the pack; without it one is started")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    arguments = parser.parse_args(argv)
    with contextlib.nullcontext(arguments.server) if arguments.server else start_server() as url:
        texts = files(Client(url).get("/object_info"))
    changed = [
        path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if arguments.check:
        print("\n".join(f"{path.relative_to(FOLDER.parent)} is not what the graphs say" for path in changed))
        return 1 if changed else 0
    for path in changed:
        write_text(path, texts[path])
    print(f"{len(changed)} of {len(texts)} files written")
    return 0


if __name__ == "__main__":
    sys.exit(main())

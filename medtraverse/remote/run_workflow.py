"""Run a workflow on a ComfyUI from the command line: queue it, follow it, fetch what it made.

`python -m medtraverse run` calls this.
"""

import csv
import io
import json
import re
import shutil
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .. import __version__
from ..notice import NOTICE
from ..whole_file import write_bytes, write_text
from .api_format import read_workflow, to_api
from .node_inputs import Record, input_specs, label, set_value, title_of

if TYPE_CHECKING:
    from .client import Client
    from .events import GraphRejected, RunResult
    from .events import Progress as Step

DONE, FAILED, BAD, LOST, CANCELLED = 0, 1, 2, 3, 130
MARKER = "run.json"  # written last: a folder that has one is finished
SAMPLER = "PromptSwapKSampler"
VIEWER = "medtraverse_view"  # files of the widgets on the canvas, of use to the page alone


class _NothingMade(Exception):
    """A graph that ComfyUI refused, or whose node failed: the exit code, and what to say of it."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(text)


def run_command(arguments: Namespace) -> int:
    """The subcommand `run`; returns the exit code and prints why it is not 0."""
    from .client import RunInterrupted

    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _run(arguments)
        return DONE
    except _NothingMade as error:
        code, text = error.code, error.text
    except ConnectionError as error:
        code, text = LOST, f"{error}\nStart ComfyUI (python run.py serve), or give its address by --server."
    except (RunInterrupted, TimeoutError) as error:
        code, text = CANCELLED, str(error)
    except KeyboardInterrupt:
        code, text = (
            CANCELLED,
            "cancelled, and gone from the server's queue. "
            "What is finished stays; the same command goes on from there.",
        )
    except (ValueError, OSError) as error:
        code, text = BAD, str(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    if arguments.json:
        print(
            json.dumps(
                {
                    "status": {FAILED: "failed", BAD: "refused", LOST: "lost", CANCELLED: "cancelled"}[code],
                    "message": text,
                    "notice": NOTICE,
                }
            )
        )
    print(f"medtraverse run: {text}", file=sys.stderr)
    return code


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _run(arguments: Namespace) -> None:
    from .client import Client

    began = time.monotonic()
    seeds = parse_seeds(arguments.seeds) if arguments.seeds else None
    workflow = read_workflow(arguments.workflow)
    client = Client(arguments.server)
    object_info = client.object_info()
    base = to_api(workflow, object_info)
    for assignment in arguments.set:
        base = set_value(base, assignment, object_info)
    jobs = seed_jobs(base, seeds, object_info) if seeds else {"": base}
    out = _folder(arguments, next(iter(jobs.items())))
    versions = {"medtraverse": __version__, **client.versions()}
    records = []
    for number, (name, job) in enumerate(jobs.items(), 1):
        record = finished(out / name, job)
        if record:
            _say(arguments, f"{name or out}: done already")
        else:
            if name:
                _say(arguments, f"Seeds {name} ({number} of {len(jobs)})")
            record = gather(
                client,
                job,
                _followed(client, job, arguments),
                out / name,
                {"workflow": arguments.workflow, "set": arguments.set, "seeds": name or None},
                versions,
            )
        records.append(
            {
                "folder": str(out / name),
                "prompt_id": record["prompt_id"],
                "seconds": record["seconds"],
                "files": [item["file"] for item in record["outputs"]],
            }
        )
    files = sum(len(record["files"]) for record in records)
    if arguments.json:
        print(
            json.dumps(
                {
                    "status": "done",
                    "out": str(out),
                    "runs": records,
                    "seconds": round(time.monotonic() - began, 1),
                    "notice": NOTICE,
                },
                indent=2,
            )
        )
    else:
        _say(arguments, f"{files} files are in {out}, {time.monotonic() - began:.1f} s in all.\n{NOTICE}")


def _followed(client: "Client", graph: Record, arguments: Namespace) -> "RunResult":
    """The result of a graph, its progress shown; raises _NothingMade where the graph is at fault."""
    from .client import GraphRejected, NodeFailed

    progress = Progress(graph, sys.stderr if arguments.json else sys.stdout, arguments.quiet)
    try:
        result = client.run(graph, progress, arguments.timeout)
    except BaseException as error:
        progress.stop()
        if isinstance(error, NodeFailed):
            reason = error.exception_message or error.exception_type
            raise _NothingMade(FAILED, f"{label(graph, error.node_id)} failed: {reason}") from error
        if isinstance(error, GraphRejected):
            lines = ["ComfyUI refused the graph.", *plain_errors(graph, error)]
            raise _NothingMade(BAD, "\n".join(lines)) from error
        raise
    progress.end()
    return result


def _say(arguments: Namespace, text: str) -> None:
    if not arguments.quiet:
        print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)


def _folder(arguments: Namespace, job: tuple[str, Record]) -> Path:
    """--out, or the first of output/NAME, NAME-2, … that is free or has outputs of this very graph."""
    name, graph = job
    if arguments.out:
        return Path(arguments.out)
    base, number = Path("output") / Path(arguments.workflow).stem, 1
    while True:
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            finished(folder / name, graph)
            return folder
        except ValueError:
            number += 1


def finished(folder: Path, graph: Record) -> Record | None:
    """The run.json of a folder that holds this graph's outputs, or None. ValueError if they are another's."""
    try:
        record = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"--out: {folder / MARKER} cannot be read ({error}); give another folder.") from None
    if not isinstance(record, dict) or record.get("graph") != graph:
        raise ValueError(
            f"--out: {folder} holds the outputs of another graph or other settings; give another folder."
        )
    return record


def parse_seeds(text: str) -> range:
    """ "1500-1999", or one seed."""
    match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", text)
    if not match or int(match[2] or match[1]) < int(match[1]):
        raise ValueError(
            f"--seeds: {text!r} is no range; give the first and the last, for example 1500-1999."
        )
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def seed_jobs(graph: Record, seeds: range, object_info: Record) -> dict[str, Record]:
    """One graph for each block of seeds: folder name to graph.

    A Prompt Swap KSampler samples as many seeds in one run as its `patients` say, and the last block has
    what is left. In a graph without one, every input `seed` or `noise_seed` that is not linked gets one
    seed a run.

    Raises
    ------
    ValueError
        There is no such input, or the samplers differ in `patients`.
    """
    samplers = [
        key for key, node in graph.items() if node["class_type"] == SAMPLER and _is_number(node, "seed")
    ]
    targets = [(key, "seed") for key in samplers] or [
        (key, name)
        for key, node in graph.items()
        for name in ("seed", "noise_seed")
        if name in input_specs(object_info.get(node["class_type"]) or {}) and _is_number(node, name)
    ]
    if not targets:
        raise ValueError(
            f"--seeds: no node of the graph has a seed of its own; add a {SAMPLER}, "
            "or any node with an input seed or noise_seed."
        )
    blocks = [graph[key]["inputs"].get("patients", 1) for key in samplers] or [1]
    block = blocks[0]
    if not isinstance(block, int) or block < 1 or blocks != [block] * len(blocks):
        raise ValueError(
            "--seeds: the samplers have unlike numbers of patients; give each the same number, by --set."
        )
    jobs = {}
    for first in range(seeds.start, seeds.stop, block):
        last = min(first + block, seeds.stop) - 1
        changed: dict[str, Record] = {key: {"seed": first, "patients": last - first + 1} for key in samplers}
        if not samplers:
            for key, name in targets:
                changed.setdefault(key, {})[name] = first
        jobs[str(first) if last == first else f"{first}-{last}"] = {
            key: {**node, "inputs": {**node["inputs"], **changed.get(key, {})}} for key, node in graph.items()
        }
    return jobs


def _is_number(node: Record, name: str) -> bool:
    return isinstance(node["inputs"].get(name), int)


def gather(
    client: "Client", graph: Record, result: "RunResult", folder: Path, settings: Record, versions: Record
) -> Record:
    """Fetch the outputs of a run into a folder, write run.json last, and return what is in it.

    The files of the viewers on the canvas stay on the server.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken, outputs = {MARKER}, []

    def keep(key: str, kind: str, name: str, content: str | bytes) -> None:
        name = file_name(name)
        if name.casefold() in taken:
            name = file_name(f"{key}-{name}")
        stem, suffix, number = Path(name).stem, Path(name).suffix, 2
        while name.casefold() in taken:
            name, number = f"{stem}-{number}{suffix}", number + 1
        taken.add(name.casefold())
        write_bytes(folder / name, content.encode("utf-8") if isinstance(content, str) else content)
        outputs.append({"file": name, "node": key, "title": title_of(graph, key), "kind": kind})

    for key, kinds in result.outputs.items():
        for kind, items in kinds.items():
            if kind == VIEWER:
                continue
            for item in items if isinstance(items, (list, tuple)) else [items]:
                if isinstance(item, dict) and isinstance(item.get("filename"), str):
                    keep(key, kind, item["filename"], client.fetch(item))
                elif isinstance(item, str) and item.strip():
                    keep(key, kind, title_of(graph, key) + text_suffix(item), item)
    record = {
        "status": "done",
        "settings": settings,
        "prompt_id": result.prompt_id,
        "seconds": round(result.seconds, 2),
        "outputs": outputs,
        "versions": versions,
        "graph": graph,
        "notice": NOTICE,
    }
    write_text(folder / MARKER, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def file_name(name: str) -> str:
    """A name that stays in its folder on every system, as near to the given one as can be."""
    name = (
        re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", name.replace("\\", "/").rsplit("/", 1)[-1]).strip().rstrip(".")
    )
    if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name) or not name or name.startswith("."):
        name = f"_{name}"
    path = Path(name)
    return path.stem[: 200 - len(path.suffix)] + path.suffix if len(path.suffix) < 20 else name[:200]


def text_suffix(text: str) -> str:
    """.json for a JSON object or list, .csv for rows of equal length, .txt for the rest."""
    try:
        if isinstance(json.loads(text), (dict, list)):
            return ".json"
    except ValueError:
        pass
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    return ".csv" if len(rows) > 1 and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1 else ".txt"


def plain_errors(graph: Record, rejected: "GraphRejected") -> list[str]:
    """A rejected graph's errors, a line each, with the node's title and the input."""
    lines = []
    for key, record in rejected.node_errors.items():
        for error in record.get("errors") or ():
            extra = error.get("extra_info") or {}
            name, details = extra.get("input_name"), error.get("details") or ""
            text = error.get("message") or error.get("type")
            place = f"{label(graph, key)}: {name}" if name else label(graph, key)
            lines.append(f"{place}: {text}{f' ({details})' if details and details != name else ''}")
    if not lines:
        lines = [" ".join(filter(None, (rejected.error.get("message"), rejected.error.get("details"))))]
    return lines


class Progress:
    """One line for each node: title, percent and seconds.

    On a terminal the line counts up; elsewhere it appears when the node is done.
    """

    def __init__(self, graph: Record, stream: TextIO, quiet: bool = False) -> None:
        self.graph, self.stream, self.quiet = graph, stream, quiet
        self.live = stream.isatty()
        self.node: str | None = None
        self.shown: int | None = None
        self.since, self.width, self.place = 0.0, 0, ""

    def __call__(self, step: "Step") -> None:
        if step.node_id != self.node:
            self.end()
            self.node, self.since, self.place = (
                step.node_id,
                time.monotonic(),
                f"{step.finished + 1}/{step.nodes}",
            )
        percent = int(100 * step.value / step.maximum) if step.maximum else 0
        if self.live and percent != self.shown:
            self.shown = percent
            self._print(f"{percent:3d} %", "")

    def end(self) -> None:
        """Close the current node's line."""
        if self.node is not None:
            self._print("100 %", "\n")
            self.node, self.shown, self.width = None, None, 0

    def stop(self) -> None:
        """Leave the current node's line as it is: the run ended within it."""
        if self.node is not None and self.live and not self.quiet:
            print(file=self.stream)

    def _print(self, percent: str, end: str) -> None:
        if self.quiet:
            return
        seconds = time.monotonic() - self.since
        line = f"{self.place:>7} {title_of(self.graph, self.node)}  {percent}  {seconds:.1f} s"
        if self.live:
            line = line[: shutil.get_terminal_size().columns - 1]
        print(("\r" if self.live else "") + line.ljust(self.width), end=end, file=self.stream, flush=True)
        self.width = len(line)

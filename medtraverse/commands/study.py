"""``python -m medtraverse study``: a study over one or several ComfyUIs, which may die meanwhile."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..processors import processors

DONE, FAILED, BAD, LOST, CANCELLED = 0, 1, 2, 3, 130


def add(commands: Any) -> None:
    """Add the subcommand to argparse's subparsers."""
    command = commands.add_parser(
        "study",
        help="make a study of many patients on one or several ComfyUIs",
        description="Makes the patients of a range of seeds by a workflow with a Traversal Study, block by "
        "block, on running servers, on ComfyUIs that it starts itself, or on a Ray cluster. What is done "
        "lies in the study's folder; the same command goes on from there, on any number of workers. A "
        "worker that dies gives its block to another.",
        epilog="exit codes: 0 done; 1 a node failed; 2 bad arguments, another study's folder, or ComfyUI "
        "refused the graph; 3 no worker is left; 130 cancelled.",
    )
    command.add_argument(
        "workflow", metavar="WORKFLOW", help="a file, or the bare name of a bundled workflow"
    )
    command.add_argument("--seeds", required=True, metavar="FIRST-LAST", help="such as 1500-3999")
    command.add_argument("--out", required=True, metavar="FOLDER", help="the study's folder")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="as for run; may be given several times",
    )
    command.add_argument(
        "--node", default="", metavar="NODE", help="title of the Traversal Study, where there are several"
    )
    command.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="URL",
        help="a running ComfyUI; may be given several times (default: http://127.0.0.1:8188)",
    )
    command.add_argument(
        "--comfyui", metavar="PATH", help="start ComfyUI from this folder, in place of running servers"
    )
    command.add_argument("--python", metavar="PATH", help="what runs it (default: its own environment's)")
    command.add_argument(
        "--arguments", default="", metavar="ARGS", help='more arguments for it, such as "--cpu"'
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="so many of it (default: 1; with --ray one a GPU)"
    )
    command.add_argument(
        "--ray", metavar="ADDRESS", help="spread them over a Ray cluster; local starts one here"
    )
    command.add_argument(
        "--block", type=int, metavar="N", help="patients to a block (default: the workflow's block_size)"
    )
    command.add_argument(
        "--interval-width", type=float, default=0.0, metavar="W", help="end once every interval is so narrow"
    )
    command.add_argument("--json", action="store_true", help="print a summary as JSON; the rest on stderr")
    command.add_argument("--quiet", action="store_true", help="print errors only (and the JSON)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the study; return the exit code, and print why it is not 0."""
    from ..remote.events import GraphRejected, NodeFailed, RunInterrupted
    from ..study.drive import NobodyLeft

    try:
        _run(arguments)
        return DONE
    except NobodyLeft as error:
        code, text = BAD if error.refused else LOST, str(error)
    except GraphRejected as error:
        code, text = BAD, f"ComfyUI refused the graph: {error}"
    except (NodeFailed, RunInterrupted) as error:
        code, text = FAILED, str(error)
    except ConnectionError as error:
        code, text = LOST, str(error)
    except KeyboardInterrupt:
        code, text = CANCELLED, "cancelled. What is done is kept; the same command goes on from there."
    except (ValueError, OSError) as error:
        code, text = BAD, str(error)
    print(f"medtraverse study: {text}", file=sys.stderr)
    return code


def _run(arguments: argparse.Namespace) -> None:
    from ..remote.api_format import read_workflow, to_api
    from ..remote.node_inputs import set_value
    from ..remote.run_workflow import parse_seeds
    from ..study.drive import Plan, drive
    from ..study.power import patients_for, power_text
    from ..study.store import Store
    from ..study.tables import Choices, study_report, study_text
    from ..study.workflow import differing_inputs, number_of, pruned, published_of, study_node

    seeds = parse_seeds(arguments.seeds)
    folder = Path(arguments.out)
    if arguments.interval_width:
        patients_for(arguments.interval_width)
    if arguments.block is not None and arguments.block < 1:
        raise ValueError(f"--block: it is {arguments.block}; give 1 patient or more.")
    workflow = read_workflow(arguments.workflow)
    store = Store(folder)
    told = _teller(arguments)
    workers = _workers(arguments)
    try:
        object_info = _object_info(workers)
        graph = to_api(workflow, object_info)
        for assignment in arguments.set:
            graph = set_value(graph, assignment, object_info)
        node = study_node(graph, arguments.node)
        graph = pruned(graph, node)
        if store.exists and (others := differing_inputs(graph, node, store.identity.settings)):
            raise ValueError(
                f"--out: the study in {folder} is another one ({'; '.join(others)}); give another folder, or "
                "those settings."
            )
        widths = [arguments.interval_width] if arguments.interval_width else []
        told(power_text(len(seeds), published_of(graph), widths))
        plan = Plan(
            graph,
            node,
            seeds,
            arguments.block or number_of(graph, node, "block_size"),
            number_of(graph, node, "pictured"),
            arguments.interval_width,
        )
        study = drive(plan, workers, folder, told)
    finally:
        for worker in workers:
            worker.close()
    choices = Choices()
    if arguments.json:
        print(json.dumps({"status": "done", "out": str(folder), **study_report(study, choices)}, indent=1))
    told(study_text(study, choices))
    told(f"The study is in {folder}; python -m medtraverse pool {folder} writes its tables and figures.")


def _teller(arguments: argparse.Namespace) -> Callable[[str], None]:
    stream = sys.stderr if arguments.json else sys.stdout

    def tell(text: str) -> None:
        if not arguments.quiet:
            print(text, file=stream, flush=True)

    return tell


def _workers(arguments: argparse.Namespace) -> Sequence[Any]:
    from ..remote.study_worker import OwnWorker, ServerWorker
    from ..study.cluster import ray_workers

    if arguments.server and (arguments.comfyui or arguments.ray):
        raise ValueError(
            "--server: it stands beside --comfyui or --ray; take running servers, or start some."
        )
    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers: it is {arguments.workers}; give 1 or more.")
    more = arguments.arguments.split()
    if arguments.ray:
        if not arguments.comfyui:
            raise ValueError(
                "--comfyui: with --ray it is needed; give ComfyUI's folder, the same on all hosts."
            )
        return ray_workers(arguments.ray, arguments.comfyui, arguments.python, more, arguments.workers)
    if arguments.comfyui:
        count = arguments.workers or 1
        threads = max(1, processors() // count) if count > 1 else None
        return [
            OwnWorker(arguments.comfyui, arguments.python, more, f"ComfyUI {number}", threads=threads)
            for number in range(1, count + 1)
        ]
    return [ServerWorker(url) for url in dict.fromkeys(arguments.server or ["http://127.0.0.1:8188"])]


def _object_info(workers: Sequence[Any]) -> Any:
    """The nodes' description, from the first worker that answers."""
    errors = []
    for worker in workers:
        try:
            return worker.object_info()
        except ConnectionError as error:
            errors.append(str(error))
    raise ConnectionError("\n".join(errors))

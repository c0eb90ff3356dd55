"""Command line of the library.

python -m medtraverse cfrt TABLE.csv --target ATTRIBUTE
python -m medtraverse run WORKFLOW.json
python -m medtraverse domain NAME --neutral PROMPT --attribute "NAME = PROMPT"
python -m medtraverse convert-torchxrayvision FILE.pt
python -m medtraverse lora pytorch_lora_weights.safetensors
python -m medtraverse train unet --data FOLDER --base FOLDER --out FOLDER
python -m medtraverse train classifier --data FOLDER --out FOLDER
python -m medtraverse known REPORT.json ... --out NAME.known.json
python -m medtraverse pool FOLDER ...
python -m medtraverse data audit FOLDER
python -m medtraverse study WORKFLOW.json --seeds 1500-3999 --out FOLDER
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .commands import data, pool, study
from .notice import NOTICE

# Which extra brings a module that a command lacks; the others come with `standalone`.
EXTRAS = {
    "pandas": "train",
    "accelerate": "train",
    "diffusers": "train",
    "peft": "train",
    "timm": "train",
    "tensorboard": "train",
    "yaml": "train",
}


class OneLineParser(argparse.ArgumentParser):
    """argparse that reports a bad command line in one line; the usage stays under --help."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one line."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def score(arguments: argparse.Namespace) -> None:
    """Print the CFRT and the flip rate of a table of predictions."""
    from .cfrt import cfrt, far_points, published_far_points, read_table, to_text
    from .flip_rate import flip_rate, flip_table, outwards
    from .predictions import published_kind

    table = read_table(arguments.table)
    target = table.attribute(arguments.target)
    if arguments.points is None:
        points = published_far_points(table.points, table.kind)
    else:
        points = far_points(arguments.points, table.points)
    result = cfrt(table.at(points), table.neutral, target)
    kind = published_kind(table.points, table.kind) or table.kind
    path = outwards(table.points, kind)
    flips = flip_rate(table.at(path), table.neutral, target, path, arguments.threshold)
    name = table.attributes[target]
    if not arguments.json:
        print(f"CFRT, Classifier Flip Rate along a Trajectory; far part: {', '.join(map(str, points))}")
        print(to_text({name: result}, table.attributes, flip_table({name: flips}, kind)), end="")
        return
    failures = [
        {"seed": table.seeds[i], "leaked": table.attributes[result.leaked[i]]}
        for i in range(result.patients)
        if not result.success[i]
    ]
    means = result.deltas.mean(axis=0).tolist()
    report = {
        "cfrt": result.cfrt,
        "successes": result.successes,
        "patients": result.patients,
        "interval": list(result.interval),
        "target": name,
        "attributes": list(table.attributes),
        "points": points,
        "mean_deltas": dict(zip(table.attributes, means)),
        "failures": failures,
        "flip_rate": flips.report(),
        "notice": NOTICE,
    }
    print(json.dumps(report, indent=2))


def parser() -> OneLineParser:
    """The command line, one subcommand per measure."""
    top = OneLineParser(prog="python -m medtraverse", description=f"MedTraverse. {NOTICE}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "cfrt",
        help="score a table of classifier predictions",
        description="CFRT (Classifier Flip Rate along a Trajectory) of one attribute: the share of patients "
        "in whom its mean rise over the far part is greater than that of every other attribute. Beside it "
        "the "
        "flip rate: the share whose probability passes the threshold anywhere on the trajectory, of those "
        "whose "
        "neutral image does not. Both with 95 %% intervals, from a table with the columns seed, "
        "neutral_<attribute> or 0_<attribute>, and <point>_<attribute>.",
    )
    command.add_argument("table", metavar="TABLE.csv")
    command.add_argument("--target", required=True, metavar="ATTRIBUTE", help="the attribute meant to change")
    command.add_argument(
        "--points",
        metavar="POINTS",
        help="far part, e.g. 5,10,15 or 30-49 (default: 5,10,15 for swap tables, 30-49 for tables of frames)",
    )
    command.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability that the target must pass to have flipped (default: %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.set_defaults(run=score)
    _add_run(commands)
    _add_domain(commands)
    _add_convert(commands)
    _add_lora(commands)
    _add_known(commands)
    pool.add(commands)
    _add_train(commands)
    data.add(commands)
    study.add(commands)
    return top


def _add_train(commands: Any) -> None:
    from .commands import train_classifier, train_unet

    command = commands.add_parser(
        "train", help="fine-tune a U-Net, or train the classifiers, on a data set's own table"
    )
    kinds = command.add_subparsers(dest="kind", required=True, metavar="WHAT")
    train_unet.add(kinds)
    train_classifier.add(kinds)


def _add_lora(commands: Any) -> None:
    command = commands.add_parser(
        "lora",
        help="give a LoRA of diffusers or PEFT the names that ComfyUI knows",
        description="Writes a LoRA that diffusers' or PEFT's training saved "
        "(pytorch_lora_weights.safetensors) under the keys that ComfyUI's Load LoRA applies. As it is, Load "
        "LoRA passes over such keys.",
    )
    command.add_argument("file", metavar="FILE")
    command.add_argument("--output", metavar="FILE", help="default: NAME-comfyui.safetensors beside the file")

    def run(arguments: argparse.Namespace) -> None:
        from .lora import convert

        file = Path(arguments.file)
        target = Path(arguments.output or file.with_name(f"{file.stem}-comfyui.safetensors"))
        print(f"{convert(file, target)} layers are in {target}; put it into models/loras.")

    command.set_defaults(run=run)


def _add_known(commands: Any) -> None:
    command = commands.add_parser(
        "known",
        help="say which images a model knows, from reports of Project to Latent",
        description="Writes the quantiles of the four measures that Project to Latent takes of an image. "
        "Give reports of images like those that the model was trained on, but kept from its training. With "
        "the file beside the weights the node says when another image is far from them.",
    )
    command.add_argument("reports", nargs="+", metavar="REPORT.json")
    command.add_argument(
        "--out",
        required=True,
        metavar="NAME.known.json",
        help="beside NAME.safetensors, or known.json in a folder of diffusers; nothing is replaced",
    )

    def run(arguments: argparse.Namespace) -> None:
        from .familiarity import MEASURES, read_reports, write_known

        out = Path(arguments.out)
        if out.name != "known.json" and not out.name.endswith(".known.json"):
            raise ValueError(f"--out: {out.name} would not be found; name it NAME.known.json, or known.json.")
        if out.exists():
            raise ValueError(f"--out: {out} is there already; remove it, or give another name.")
        values, classifiers = read_reports(arguments.reports)
        count = len(next(iter(values.values())))
        write_known(out, values, classifiers, images=f"{count} images given by the user", notice=NOTICE)
        print(f"{out}: {', '.join(MEASURES[name].name for name in values)} of {count} images")

    command.set_defaults(run=run)


def _add_run(commands: Any) -> None:
    command = commands.add_parser(
        "run",
        help="run a workflow on a ComfyUI and fetch what it makes",
        description="Queues a workflow, in the browser's format or in API format, on a running ComfyUI, "
        "follows it, and puts every file and text that it makes into a folder, run.json last. "
        "Ctrl-C cancels the job on the server. A folder that holds the outputs of the same graph and "
        "settings is not made again.",
        epilog="exit codes: 0 done; 1 a node failed; 2 bad arguments, or ComfyUI refused the graph; "
        "3 no ComfyUI answers, or it went away; 130 cancelled, by Ctrl-C, --timeout or someone else.",
    )
    command.add_argument(
        "workflow", metavar="WORKFLOW", help="a file, or the bare name of a bundled workflow"
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="NODE is an id, a title or a class type; may be given several times",
    )
    command.add_argument(
        "--seeds",
        metavar="FIRST-LAST",
        help="one run after another over these seeds, each into a folder of its own; every run takes "
        "as many seeds as the Prompt Swap KSampler has patients",
    )
    command.add_argument(
        "--out",
        metavar="DIR",
        help="where the outputs go (default: output/NAME, or NAME-2, ... if that holds another graph's)",
    )
    command.add_argument(
        "--server", default="http://127.0.0.1:8188", metavar="URL", help="default: %(default)s"
    )
    command.add_argument("--timeout", type=float, metavar="SECONDS", help="cancel a run that takes longer")
    command.add_argument(
        "--json", action="store_true", help="print a summary as JSON; progress goes to stderr"
    )
    command.add_argument("--quiet", action="store_true", help="print errors only (and the JSON)")

    def run(arguments: argparse.Namespace) -> int:
        from .remote.run_workflow import run_command

        return run_command(arguments)

    command.set_defaults(run=run)


def _add_domain(commands: Any) -> None:
    command = commands.add_parser(
        "domain",
        help="write a domain file from prompts or from a data set's table",
        description="Writes the prompts, attributes, colours and labels of a data set as a domain file, "
        "which Load Medical Checkpoint offers once it lies in ComfyUI's user/medtraverse/domains. "
        "Attributes come from --attribute, --table and --data. A table has a row for each attribute "
        "(columns name and prompt; colour, labels and default if wanted), or a row for each image and a "
        "column for each label, and then --template is needed. Of images nothing is written but the names "
        "of the labels.",
    )
    command.add_argument("name", metavar="NAME", help="the domain's name in the list")
    command.add_argument(
        "--neutral",
        action="append",
        default=[],
        metavar="[NAME =] PROMPT",
        help="neutral prompt; may be given several times, the first is the usual one",
    )
    command.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="NAME = PROMPT",
        help="or NAME #RRGGBB = PROMPT; {neutral} stands for the neutral prompt; may be given several times",
    )
    command.add_argument("--table", metavar="TABLE.csv")
    command.add_argument(
        "--data",
        metavar="FOLDER",
        help="a data set, or its captions.jsonl: prompts in the words of its captions, neutral ones too",
    )
    command.add_argument(
        "--artefacts", metavar="TABLE.csv", help="of ISIC 2019, if not in the folder of --data"
    )
    command.add_argument(
        "--template", default="", metavar="PROMPT", help="such as 'Chest X-ray showing {label}'"
    )
    command.add_argument(
        "--labels", default="", metavar="A,B", help="of a table of images, or of --data, these labels only"
    )
    command.add_argument("--negative", default="", metavar="PROMPT", help="negative prompt (default: empty)")
    command.add_argument("--size", type=int, default=512, help="image side in pixels (default: %(default)s)")
    command.add_argument("--title", default="", help="a longer name")
    command.add_argument(
        "--hint",
        action="append",
        default=[],
        metavar="TEXT",
        help="a piece of checkpoints' names by which 'auto' finds this domain; may be given several times",
    )
    command.add_argument("--out", metavar="FILE.json", help="default: NAME.json here; nothing is replaced")

    def run(arguments: argparse.Namespace) -> None:
        from .new_domain import (
            data_set_prompts,
            new_domain,
            parse_neutral,
            prompted_attributes,
            read_attributes,
            write_domain,
        )

        neutrals = dict(map(parse_neutral, arguments.neutral))
        columns = [name.strip() for name in arguments.labels.split(",") if name.strip()]
        attributes = prompted_attributes(arguments.attribute)
        if arguments.table is not None:
            attributes += read_attributes(arguments.table, arguments.template, columns)
        if arguments.data is not None:
            own, read = data_set_prompts(arguments.data, columns, arguments.artefacts)
            neutrals, attributes = neutrals or own, attributes + read
        if not neutrals:
            raise ValueError("neutral: none is given; write --neutral PROMPT.")
        record = new_domain(
            arguments.name,
            neutrals,
            attributes,
            arguments.size,
            arguments.title,
            arguments.negative,
            arguments.hint,
        )
        stem = re.sub(r"[^\w-]+", "-", arguments.name.strip().lower())
        out = arguments.out or f"{stem}.json"
        write_domain(record, out)
        print(f"{out}: {len(record['attributes'])} attributes")
        for item in record["attributes"]:
            print(
                f"  {item['name']}{'' if item.get('default', True) else ' (if asked for)'}: {item['prompt']}"
            )
        print("Put it into ComfyUI's user/medtraverse/domains and press R in the browser.")

    command.set_defaults(run=run)


def _add_convert(commands: Any) -> None:
    command = commands.add_parser(
        "convert-torchxrayvision",
        help="take the weights out of a torchxrayvision file",
        description="torchxrayvision's files are pickled modules, and a pickle is a program. This takes the "
        "tensors out of one without running anything in it, and writes them as safetensors, with the labels "
        "that were trained and the input size. Load Medical Classifier reads that file. torchxrayvision is "
        "not needed.",
    )
    command.add_argument("file", metavar="FILE.pt")
    command.add_argument(
        "--out", metavar="NEW.safetensors", help="default: FILE.safetensors, beside FILE; nothing is replaced"
    )
    command.add_argument(
        "--weights",
        default="",
        metavar="NAME",
        help="torchxrayvision's name of the weights, such as densenet121-res224-chex (default: by the file)",
    )

    def run(arguments: argparse.Namespace) -> None:
        from .classifiers.torchxrayvision_pickle import convert

        out = arguments.out or Path(arguments.file).with_suffix(".safetensors")
        labels = convert(arguments.file, out, arguments.weights)
        print(f"{out}: {len(labels)} labels, {', '.join(labels)}")
        print("Put it into models/classifiers and choose it in Load Medical Classifier.")

    command.set_defaults(run=run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns
    -------
    int
        0 when it worked, 2 with one line on stderr when its input was bad. `run` has further codes.
    """
    arguments = parser().parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a Windows console may not know the Greek delta
    try:
        return arguments.run(arguments) or 0
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "", "standalone")
        missing = f'{error.name} is not installed; run: python -m pip install "medtraverse[{extra}]"'
        print(f"medtraverse {arguments.command}: {missing}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"medtraverse {arguments.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

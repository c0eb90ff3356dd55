"""The whole method on phantoms: traverse, join, score, plot. ``python run.py demo`` calls this.

Starts ComfyUI, queues the bundled workflows of both domains over HTTP, and writes their pictures, videos and ``report.json``.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

from demo.comfyui import PACK, SetupError, installation, start_server
from medtraverse import __version__
from medtraverse.client import Client, GraphRejected, NodeFailed, RunInterrupted
from medtraverse.notice import NOTICE
from medtraverse.run import write

DOMAINS = {"CheXpert": "demo-chexpert.json", "ISIC": "demo-isic.json"}
WEIGHTS = PACK / "demo" / "weights"


def main(argv=None):
    arguments = _arguments(argv)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    report = {"notice": NOTICE, "domains": {}, "weights_sha256": weight_hashes(), "versions": {"medtraverse": __version__}}
    comfyui = installation()
    print("Starting ComfyUI.", flush=True)
    with start_server(comfyui, own_folders=comfyui.foreign, cpu=True if os.environ.get("MEDTRAVERSE_CPU") else None) as url:
        client = Client(url)
        report["seconds"] = {"server": round(time.monotonic() - started, 1)}
        report["versions"] |= client.versions()
        for domain, workflow in DOMAINS.items():
            report["domains"][domain] = run_domain(client, domain, workflow, arguments, out)
    report["seconds"]["all"] = round(time.monotonic() - started, 1)
    write(out / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(summary(report))
    print(f"Pictures, videos and report.json are in {out}.\n{NOTICE}")
    return 0


def run_domain(client, domain, workflow, arguments, out):
    """Run one workflow and return its part of the report; its files go to ``out``."""
    graph = json.loads((PACK / "workflows" / "api" / workflow).read_text(encoding="utf-8"))
    sampler = next(node["inputs"] for node in graph.values() if node["class_type"] == "PromptSwapKSampler")
    sampler["patients"] = arguments.patients
    if arguments.seed is not None:
        sampler["seed"] = arguments.seed
    titles = {node["_meta"]["title"]: key for key, node in graph.items()}
    stages = Stages(domain, {key: node["_meta"]["title"] for key, node in graph.items()})
    result = client.run(graph, on_progress=stages)
    stages.end()
    for key, node in graph.items():
        name = Path(node["inputs"].get("filename_prefix", "")).name
        for file in result.files(key) if name else ():
            write(out / (name + Path(file["filename"]).suffix), client.fetch(file))
    write(out / f"{domain.lower()}-identity.csv", result.outputs[titles["Identity"]]["text"][0])
    swaps, curve, cosine, identity = (
        json.loads(result.outputs[titles[title]]["medtraverse"][0])
        for title in ("CFRT of swaps", "CFRT of Bézier frames", "Direction cosines", "Identity")
    )
    return {
        "seeds": swaps["seeds"], "settings": swaps["settings"],
        "cfrt": {"swaps": _scores(swaps), "bezier": _scores(curve)},
        "mean_cosine": {"swap_steps": cosine["swap_steps"], **cosine["mean"]},
        "identity": identity, "seconds": stages.seconds, "workflow": workflow, "inputs": {k: v["inputs"] for k, v in graph.items()},
    }


def _scores(report):
    """Return what the report keeps of one CFRT evaluation."""
    return {key: report[key] for key in ("far_points", "attributes", "classifier", "classifier_sha256")}


class Stages:
    """Progress on the terminal, and the seconds of every node."""

    def __init__(self, domain, titles):
        self.domain, self.titles, self.seconds = domain, titles, {}
        self.node, self.since, self.width = None, time.monotonic(), 0

    def __call__(self, progress):
        if progress.node_id != self.node:
            self.end()
            self.node, self.since = progress.node_id, time.monotonic()
        share = progress.value / progress.maximum if progress.maximum else 0
        filled = round(24 * share)
        bar = "#" * filled + "-" * (24 - filled)
        line = f"{self.domain:9} {progress.finished:2}/{progress.nodes} [{bar}] {self.titles.get(self.node, '')}"
        if sys.stdout.isatty():
            print("\r" + line.ljust(self.width), end="", flush=True)
        self.width = len(line)

    def end(self):
        """Close the current node's time."""
        if self.node is None:
            return
        title, spent = self.titles.get(self.node, self.node), time.monotonic() - self.since
        self.seconds[title] = round(self.seconds.get(title, 0) + spent, 2)
        if spent >= 0.5:
            line = f"{self.domain:9} {title}: {spent:.1f} s"
            print(("\r" if sys.stdout.isatty() else "") + line.ljust(self.width), flush=True)
        self.node = None


def weight_hashes():
    """Return sha256 of every weight file that ships, by path under ``demo/weights``."""
    return {
        path.relative_to(WEIGHTS).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(WEIGHTS.rglob("*.safetensors"))
    }


def summary(report):
    """Return the CFRT of both domains as text."""
    lines = ["", f"{'':9} {'attribute':18} {'CFRT of swaps':>22} {'CFRT of Bézier frames':>24}"]
    for domain, part in report["domains"].items():
        for name, swaps in part["cfrt"]["swaps"]["attributes"].items():
            cells = [f"{item['cfrt']:.3f} ({item['interval'][0]:.2f}–{item['interval'][1]:.2f})"
                     for item in (swaps, part["cfrt"]["bezier"]["attributes"][name])]
            lines.append(f"{domain:9} {name:18} {cells[0]:>22} {cells[1]:>24}")
    return "\n".join([*lines, f"{report['seconds']['all']:.0f} s in all", ""])


def _arguments(argv):
    parser = argparse.ArgumentParser(prog="run.py demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="output/demo", help="where the pictures and report.json go")
    parser.add_argument("--patients", type=int, default=8, help="patients per domain")
    parser.add_argument("--seed", type=int, help="seed of the first patient, in both domains")
    arguments = parser.parse_args(argv)
    if arguments.patients < 1:
        parser.error(f"--patients is {arguments.patients}; give 1 or more")
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (SetupError, GraphRejected, NodeFailed, RunInterrupted, ConnectionError) as error:
        sys.exit(f"\nrun.py demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

"""The whole method on phantoms: traverse, join, score, plot. ``python run.py demo`` calls this.

Starts ComfyUI, queues the bundled workflows over HTTP, and writes their pictures, videos,
tables and ``report.json``.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.comfyui import PACK, SetupError, installation, start_server
from medtraverse import __version__
from medtraverse.digest import sha256_of
from medtraverse.notice import NOTICE
from medtraverse.remote.client import Client, GraphRejected, NodeFailed, RunInterrupted
from medtraverse.remote.events import Progress
from medtraverse.whole_file import write_bytes, write_text

WORKFLOWS = (
    "02-fig3-swap-grid-chexpert",
    "03-fig3-swap-grid-isic",
    "04-fig4-latent-tsne",
    "05-fig5-direction-cosine",
    "06-fig6-bezier",
    "07-cfrt-chexpert",
    "08-cfrt-isic",
    "10-distance-to-neutral",
)
WEIGHTS = PACK / "demo" / "weights"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    report: dict[str, Any] = {
        "notice": NOTICE,
        "domains": {},
        "direction_cosines": {},
        "workflows": {},
        "weights_sha256": weight_hashes(),
        "versions": {"medtraverse": __version__},
    }
    comfyui = installation()
    print("Starting ComfyUI.", flush=True)
    # What a workflow has sampled and decoded is there for the next ones.
    keep = ("--cache-lru", "200")
    with start_server(
        comfyui,
        own_folders=comfyui.foreign,
        cpu=True if os.environ.get("MEDTRAVERSE_CPU") else None,
        arguments=keep,
    ) as url:
        client = Client(url)
        report["seconds"] = {"server": round(time.monotonic() - started, 1)}
        report["versions"] |= client.versions()
        for name in WORKFLOWS:
            run_workflow(client, name, arguments, out, report)
    report["seconds"]["all"] = round(time.monotonic() - started, 1)
    write_text(out / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(summary(report))
    print(f"Pictures, videos, tables and report.json are in {out}.\n{NOTICE}")
    return 0


def run_workflow(
    client: Client, name: str, arguments: argparse.Namespace, out: Path, report: dict[str, Any]
) -> None:
    """Run one bundled workflow; its files go to ``out``, its numbers into the report."""
    graph = json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    measure_identity_of_nevi(graph)
    for node in graph.values():
        if node["class_type"] == "PromptSwapKSampler":
            node["inputs"]["patients"] = patients(node["_meta"]["title"], arguments.patients)
            if arguments.seed is not None:
                node["inputs"]["seed"] = arguments.seed
        elif node["class_type"] == "IdentityPreservation":
            node["inputs"]["perceptual"] = arguments.perceptual
    stages = Stages(name, {key: node["_meta"]["title"] for key, node in graph.items()})
    result = client.run(graph, on_progress=stages)
    stages.end()
    for key, node in graph.items():
        stem = Path(node["inputs"].get("filename_prefix", "")).name
        for file in [*result.files(key), *result.files(key, "files")] if stem else ():
            write_bytes(out / (stem + Path(file["filename"]).suffix), client.fetch(file))
        for text in result.outputs.get(key, {}).get("medtraverse", ()):
            take(report, node["class_type"], json.loads(text))
    report["workflows"][name] = {
        "seconds": stages.seconds,
        "inputs": {key: node["inputs"] for key, node in graph.items()},
    }


def patients(title: str, asked: int) -> int:
    """Return a sampler's number of patients: melanoma and nevus share the dermoscopy's."""
    return {"ISIC MEL patients": (asked + 1) // 2, "ISIC NV patients": max(asked // 2, 1)}.get(title, asked)


def measure_identity_of_nevi(graph: dict[str, dict[str, Any]]) -> None:
    """Add an identity node beside a grid of nevi: of ISIC, workflow 10 measures melanoma alone."""
    for key, node in list(graph.items()):
        if node["class_type"] == "TrajectoryGrid" and node["_meta"]["title"] == "NV swap grid":
            graph[f"{key}-identity"] = {
                "class_type": "IdentityPreservation",
                "inputs": {
                    "trajectory": node["inputs"]["trajectory"],
                    "images": node["inputs"]["images"],
                    "controls": 4,
                },
                "_meta": {"title": "NV distance to neutral"},
            }


def perceptual_reason(used: str) -> str:
    """Return why a perceptual distance of this name was measured, or none."""
    if used.startswith("LPIPS"):
        return "the paper's distance; the package lpips and AlexNet's weights are at hand"
    if used.startswith("ST-LPIPS"):
        return "in LPIPS's place, whose package or weights are not at hand; its values are not LPIPS's"
    if used == "none":
        return (
            "not asked for: it takes seconds per patient on a CPU; SSIM, MSE and correlation are measured. "
            "--perceptual auto measures it"
        )
    return used


def take(whole: dict[str, Any], class_type: str, report: dict[str, Any]) -> None:
    """Add one node's report to the whole one: under its domain, with the neutral where a domain has several.

    Direction cosines come in one report for all domains.
    """
    settings, domains = report.get("settings"), whole["domains"]
    if class_type == "LatentDirectionCosine":
        whole["direction_cosines"] = report
    elif settings:
        name = " ".join(
            [settings["domain"], *([settings["neutral"]] if settings["domain"] == "ISIC" else [])]
        )
        part = domains.setdefault(name, {"seeds": report.get("seeds"), "settings": settings, "cfrt": {}})
        if class_type == "CFRTEvaluator":
            kind = {"swap": "swaps", "curve": "bezier"}[report["kind"]]
            part["cfrt"][kind] = {
                key: report[key] for key in ("far_points", "attributes", "classifier", "classifier_sha256")
            }
        else:
            used = report["perceptual distance"]
            part["identity"] = {**report, "perceptual distance, why": perceptual_reason(used)}


class Stages:
    """Progress on the terminal, and the seconds of every node."""

    def __init__(self, name: str, titles: Mapping[str, str]):
        self.name, self.titles = name, titles
        self.seconds: dict[str, float] = {}
        self.node: str | None = None
        self.since, self.width = time.monotonic(), 0

    def __call__(self, progress: Progress) -> None:
        if progress.node_id != self.node:
            self.end()
            self.node, self.since = progress.node_id, time.monotonic()
        share = progress.value / progress.maximum if progress.maximum else 0
        filled = round(24 * share)
        bar = "#" * filled + "-" * (24 - filled)
        line = (
            f"{self.name:27} {progress.finished:2}/{progress.nodes} [{bar}] {self.titles.get(self.node, '')}"
        )
        if sys.stdout.isatty():
            print("\r" + line.ljust(self.width), end="", flush=True)
        self.width = len(line)

    def end(self) -> None:
        """Close the current node's time."""
        if self.node is None:
            return
        title, spent = self.titles.get(self.node, self.node), time.monotonic() - self.since
        self.seconds[title] = round(self.seconds.get(title, 0) + spent, 2)
        if spent >= 0.5:
            line = f"{self.name:27} {title}: {spent:.1f} s"
            print(("\r" if sys.stdout.isatty() else "") + line.ljust(self.width), flush=True)
        self.node = None


def weight_hashes() -> dict[str, str]:
    """Return sha256 of every weight file that ships, by path under ``demo/weights``."""
    return {
        path.relative_to(WEIGHTS).as_posix(): sha256_of(path)
        for path in sorted(WEIGHTS.rglob("*.safetensors"))
    }


def summary(report: Mapping[str, Any]) -> str:
    """Return the CFRT of every domain as text."""
    lines = ["", f"{'':9} {'attribute':18} {'CFRT of swaps':>22} {'CFRT of Bézier frames':>24}"]
    for domain, part in report["domains"].items():
        for name in part.get("cfrt", {}).get("swaps", {}).get("attributes", ()):
            cells = [
                f"{item['cfrt']:.3f} ({item['interval'][0]:.2f}–{item['interval'][1]:.2f})"
                for item in (part["cfrt"][kind]["attributes"][name] for kind in ("swaps", "bezier"))
            ]
            lines.append(f"{domain:9} {name:18} {cells[0]:>22} {cells[1]:>24}")
    return "\n".join([*lines, f"{report['seconds']['all']:.0f} s in all", ""])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="output/demo", help="where the pictures and report.json go")
    parser.add_argument("--patients", type=int, default=8, help="patients per domain")
    parser.add_argument("--seed", type=int, help="seed of the first patient, in both domains")
    parser.add_argument(
        "--perceptual",
        choices=("none", "auto", "lpips", "st-lpips"),
        default="none",
        help="perceptual distance of the identity measures; none, the default, spares seconds per patient",
    )
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

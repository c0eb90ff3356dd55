"""Judge trajectories that start from images: phantoms whose true counterfactual is known.

    python -m demo.judging.evaluate_projection --patients 200 --json projection.json [--bf16] [--resume]

Adds each attribute to images without a finding, and takes one away from images that have it. Beside every
figure stands what it would be without the method: nothing changed, or another patient. Synthetic images. Not
for clinical use.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from demo.judging import oracle
from demo.judging.measurements import STUDIES, Readers, Store, Study, settings_of
from demo.judging.phantom_references import through_vae
from demo.judging.projection_measurements import REMOVALS, SWAPS, collect, draw
from demo.judging.scores import Figure, share_figure, successes, to_text
from demo.phantoms.phantom_set import CACHE
from demo.training.architecture import WEIGHTS
from medtraverse.notice import NOTICE
from medtraverse.plain_traversal import Model, load_model
from medtraverse.projection import METHODS, OWN_NOISE
from medtraverse.whole_file import write_text

DOMAINS = ("chexpert", "isic")
FOUND = {15: 0.85, 10: 0.95, 5: 0.95}
MOVED = {25: 0.28, 15: 0.5}
# Patients that are drawn for the spread between them alone.
OTHERS, OTHERS_FROM = 100, 50_000
OUTSIDE = {"chexpert": 21.0, "isic": 18.0}


def mean_figure(group: str, name: str, values: Any, **more: Any) -> Figure:
    """The mean of finite values as a line of the table, with its 95 % interval from the standard error.

    An image that has not changed at all has a PSNR of ∞ and does not count.
    """
    values = np.asarray(values, float).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        return Figure(group, name, None, 0, **more)
    mean, error = float(values.mean()), float(1.96 * values.std() / np.sqrt(values.size))
    return Figure(group, name, mean, values.size, interval=(mean - error, mean + error), **more)


def attribute_figures(
    study: Study, data: dict[str, Any], between: np.ndarray, prefix: str = ""
) -> list[Figure]:
    """What the swaps at `SWAPS` do; with the prefix "region_" kept to the automatic region.

    `between` [A] is the spread of anatomy between patients, from `demo.judging.oracle.spread`.
    """
    kept = ", kept to the automatic region" if prefix else ""
    group, labels, chosen = f"{study.domain}: attributes added{kept}", study.labels, data["chosen"]
    patients = np.arange(len(chosen))[:, None]
    columns = np.arange(chosen.shape[1])[None]
    own = {judge: data[f"{prefix}{judge}"] for judge in ("classifier", "oracle")}
    figures = []
    for step, low in FOUND.items():
        point = 1 + SWAPS.index(step)
        for judge, values in own.items():
            found = values[patients, columns, point, chosen] > 0.5
            name = f"target found at λ = {step}, by {judge}"
            figures.append(share_figure(group, name, found.ravel(), low=low))
    for step in FOUND:
        scores = own["classifier"][:, :, 1 + SWAPS.index(step)].copy()
        scores[patients, columns, chosen] = 0
        leaked = (scores > 0.5) & ~(own["classifier"][:, :, 0] > 0.5)
        name = f"another attribute appears at λ = {step}, by classifier"
        figures.append(share_figure(group, name, leaked.any(-1).ravel(), high=0.05))
    far = [1 + SWAPS.index(step) for step in (5, 10, 15)]
    for judge, values in own.items():
        for target, label in enumerate(labels):
            rows = chosen == target
            won = successes(values[rows][:, far], values[rows][:, 0], target).won
            figures.append(share_figure(group, f"CFRT {label}, λ 5,10,15, by {judge}", won, low=0.98))
    anatomy = data[f"{prefix}anatomy"]
    moved = oracle.moved(anatomy[:, :, 1:], anatomy[:, :, :1], between)
    for step in SWAPS:
        name = f"anatomy moved at λ = {step}, as a share of the spread"
        limit = MOVED.get(step, np.inf)
        figures.append(mean_figure(group, name, moved[:, :, SWAPS.index(step)], high=limit))
    stranger = oracle.moved(np.roll(anatomy[:, 0, 0], -1, axis=0), anatomy[:, 0, 0], between)
    figures.append(mean_figure(group, "the same to another patient", stranger))
    for step in SWAPS:
        name = f"PSNR outside the true region at λ = {step}, dB"
        low = OUTSIDE[study.name] if step == 15 else -np.inf
        values = data[f"{prefix}outside"][:, :, 1 + SWAPS.index(step)]
        figures.append(mean_figure(group, name, values, low=low))
    for step in SWAPS:
        name = f"PSNR to the true counterfactual at λ = {step}, dB"
        figures.append(mean_figure(group, name, data[f"{prefix}truth"][:, :, 1 + SWAPS.index(step)]))
    if not prefix:
        figures.append(mean_figure(group, "the same if nothing is changed", data["truth"][:, :, 0]))
        figures.append(mean_figure(group, "the same of another patient with the attribute", data["other"]))
    return figures


def removal_figures(study: Study, data: dict[str, Any]) -> list[Figure]:
    """What a swap to the neutral prompt does to images that show an attribute."""
    group, target = f"{study.domain}: attribute removed", data["chosen"][:, 0]
    patients, figures = np.arange(len(target)), []
    for judge in ("classifier", "oracle"):
        values = data[f"removed_{judge}"][:, 0]
        shown = values[patients, 0, target] > 0.5
        figures.append(share_figure(group, f"attribute seen before, by {judge}", shown))
        for place, step in enumerate(REMOVALS, 1):
            gone = values[patients, place, target] < 0.5
            figures.append(share_figure(group, f"gone at λ = {step}, by {judge}, of those", gone[shown]))
    for place, step in enumerate(REMOVALS, 1):
        values = data["removed_outside"][:, 0, place]
        figures.append(mean_figure(group, f"PSNR outside the true region at λ = {step}, dB", values))
    for place, step in enumerate(REMOVALS, 1):
        values = data["removed_truth"][:, 0, place]
        figures.append(mean_figure(group, f"PSNR to the patient without it at λ = {step}, dB", values))
    figures.append(mean_figure(group, "the same if nothing is changed", data["removed_truth"][:, 0, 0]))
    return figures


def domain_figures(study: Study, data: dict[str, Any], between: np.ndarray) -> list[Figure]:
    """All figures of a domain."""
    group = f"{study.domain}: reconstruction and control"
    return [
        mean_figure(group, "PSNR of the neutral, the VAE's round trip, dB", data["round_trip"][:, 0]),
        mean_figure(
            group,
            "image → its own prompt, λ = 5: largest change of a latent",
            data["null"],
            high=1e-5,
            note="0 but for rounding",
        ),
        *attribute_figures(study, data, between),
        *attribute_figures(study, data, between, "region_"),
        *removal_figures(study, data),
    ]


def spread(study: Study, model: Model, readers: Readers) -> dict[str, Any]:
    """Spread of each entry of the anatomy between `OTHERS` patients without a finding, through the VAE."""
    others = np.concatenate(
        [draw(study, [number]).without for number in range(OTHERS_FROM, OTHERS_FROM + OTHERS)]
    )
    anatomy = readers.read(study.phantoms, (), through_vae(model, others))
    return {"spread": [float(value) for value in oracle.spread(anatomy)]}


def evaluate(args: argparse.Namespace) -> tuple[list[Figure], dict[str, int]]:
    """Measure; return the figures, and how many patients of each domain they rest on."""
    from medtraverse.classifier import load_classifier

    figures: list[Figure] = []
    counts = {}
    with Readers(args.workers) as readers:
        for name in args.only:
            study, unet = STUDIES[name], WEIGHTS.parent / f"phantom-{name}.safetensors"
            model = load_model(WEIGHTS, unet, args.device, args.bf16)
            if args.device == "cpu":
                model.rows_per_call = 32
            weights = WEIGHTS.parent / f"classifier-{study.classifier}.safetensors"
            classifier = load_classifier(weights, device=args.device)
            settings = settings_of(
                study, WEIGHTS, unet, classifier, args.guidance, args.steps, args.bf16, False
            )
            settings |= {"method": args.method, "swaps": list(SWAPS), "removals": list(REMOVALS)}
            store = Store(args.out / name, settings, args.resume)
            data = collect(
                study,
                store,
                model,
                classifier,
                args.patients,
                args.block,
                readers,
                args.minutes / len(args.only),
                guidance=args.guidance,
                steps=args.steps,
                method=args.method,
            )
            counts[name] = len(data["number"])
            between = store.kept(f"spread-{OTHERS}.json", partial(spread, study, model, readers))
            figures += domain_figures(study, data, np.array(between["spread"]))
    return figures, counts


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.judging.evaluate_projection", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--patients", type=int, default=200, help="in each domain")
    parser.add_argument("--only", nargs="+", choices=DOMAINS, default=DOMAINS, help="domains to judge")
    parser.add_argument("--method", choices=METHODS, default=OWN_NOISE, help="path of each image")
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--steps", type=int, default=50, choices=range(28, 200), metavar="28…199")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 in the U-Net and in decoding")
    parser.add_argument("--block", type=int, default=2, help="patients sampled together; a GPU likes 25")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--out", type=Path, default=CACHE / "projection", help="folder of the measurements")
    parser.add_argument("--resume", action="store_true", help="keep the measurements that are there")
    parser.add_argument("--json", type=Path, help="write the table there too")
    args = parser.parse_args(argv)
    if args.patients < 2:
        parser.error(f"--patients is {args.patients}; a patient is compared with another: give 2 or more")
    try:
        figures, counts = evaluate(args)
    except ValueError as error:
        sys.exit(f"demo.judging.evaluate_projection: {error}")
    except KeyboardInterrupt:
        sys.exit("\ndemo.judging.evaluate_projection: stopped; --resume continues")
    print(f"{to_text(figures)}\n{NOTICE}")
    if args.json:
        settings = {
            "patients": counts,
            "guidance": args.guidance,
            "steps": args.steps,
            "method": args.method,
            "bfloat16": args.bf16,
            "device": args.device,
        }
        record = {"notice": NOTICE, "settings": settings, "figures": [figure.record() for figure in figures]}
        write_text(args.json, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Judge the demo model: the table of goals, on generated patients and on phantoms that no training saw.

    python -m demo.judging.evaluate --patients 500 --json evaluation.json [--device cuda] [--resume]

Chest and dermoscopy, and a confounded chest model where there is one. Patients are sampled without ComfyUI;
what is measured on them goes to a file a block, so that a run can be stopped and continued with --resume.
Synthetic images. Not for clinical use.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np

from demo.judging import oracle
from demo.judging.measurements import ALL_SWAPS, FAR_SWAPS, STUDIES, Readers, Store, collect, settings_of
from demo.judging.scores import (
    Figure,
    agreement,
    difference,
    falls,
    share,
    share_figure,
    spread_ratios,
    successes,
    to_text,
    wins,
)
from demo.phantoms.phantom_set import CACHE
from demo.training.architecture import WEIGHTS
from medtraverse.notice import NOTICE
from medtraverse.whole_file import write_text

# Where both attributes of a confounded model appear in the same images, which rose more is a matter of the
# judges' last digits.
CLEAR = 0.05
THIN = {"support devices": "wires", "ruler": "ticks", "hair": "hairs"}


def classifier_figures(study, report: dict, count: int) -> list:
    """AUC and calibration of each label on unseen phantoms, and on the same through the VAE.

    `report` from `demo.judging.judge_classifier.measure`.
    """
    group, figures = f"{study.domain}: classifier on unseen phantoms", []
    for label, row in report["phantoms"].items():
        figures += [
            Figure(group, f"AUC {label}", row["auc"], count, low=0.99),
            Figure(group, f"calibration error {label}", row["ece"], count, high=0.05),
        ]
    for label, row in report.get("reconstructions", {}).items():
        figures.append(Figure(group, f"AUC {label}, decoded by the VAE", row["auc"], count))
        figures.append(Figure(group, f"calibration error {label}, decoded by the VAE", row["ece"], count))
    return figures


def verdicts(study, data: dict, judge: str, target: int, curve: bool = False):
    """CFRT's verdict on each patient for attribute `target`, by the "classifier" or the "oracle".

    See `demo.judging.scores.Verdicts`.
    """
    start = data[judge][:, target, 0]
    if curve:
        return successes(data[f"curve_{judge}"][:, target], start, target)
    far = [1 + study.swap_steps.index(step) for step in FAR_SWAPS]
    return successes(data[judge][:, target][:, far], start, target)


def cfrt_figures(study, data: dict) -> list:
    group, figures = f"{study.domain}: CFRT", []
    for judge in ("classifier", "oracle"):
        for curve, what in ((False, "swaps λ 5,10,15"), (True, "Bézier frames 30–49")):
            for target, label in enumerate(study.labels):
                won = verdicts(study, data, judge, target, curve).won
                figures.append(share_figure(group, f"{label}, {what}, by {judge}", won, low=0.98))
    return figures


def control_figures(study, data: dict) -> list:
    """Controls that must fail, spurious attributes of neutrals, and thin structures."""
    group, neutral = f"{study.domain}: controls", data["classifier"][:, 0, 0]
    before, after = data["control"][np.isfinite(data["control"]).all((1, 2))].swapaxes(0, 1)
    change = float(np.abs(after - before).max())
    figures = [
        share_figure(
            group,
            "neutral → neutral: an attribute wins",
            wins(after, before),
            high=0.05,
            note=f"largest change {change:.1e}",
        )
    ]
    others = np.roll(neutral, -len(set(study.prompts(range(len(neutral)))[0])), axis=0)
    figures.append(
        share_figure(
            group,
            "neutral → another patient's neutral: an attribute wins",
            wins(others, neutral),
            note="what strictness alone gives",
        )
    )
    figures.append(
        share_figure(group, "neutrals with a spurious attribute", (neutral > 0.5).any(1), high=0.02)
    )
    near = 1 + study.swap_steps.index(5)
    for target, label in enumerate(study.labels):
        if label in THIN:
            figures.append(
                share_figure(
                    group,
                    f"{THIN[label]} found by the oracle at λ = 5",
                    data["oracle"][:, target, near, target] > 0.5,
                    low=0.9,
                )
            )
    return figures


def identity_figures(study, data: dict, phantoms: np.ndarray, drawn: np.ndarray) -> list:
    """How far anatomy moved along the swaps, against different patients.

    `phantoms` is the anatomy [M, A] of unseen neutrals; `drawn` [M, 1 + K, A] that of phantoms without and
    with each attribute.
    """
    group, anatomy = f"{study.domain}: identity and diversity", data["anatomy"]
    n = len(anatomy)
    names = [f"anatomy moved at λ = {step}" for step in study.swap_steps]
    neutral = anatomy[:, 0, 0]
    try:
        between = oracle.spread(neutral)
    except ValueError as error:  # too few patients, or neutrals all alike
        return [
            Figure(group, name, None, n, high=0.20 if "25" in name else np.inf, note=str(error))
            for name in names
        ]
    moved = oracle.moved(anatomy[:, :, 1:], neutral[:, None, None], between)
    means = np.nanmean(moved, axis=(0, 1))
    figures = [
        Figure(group, name, float(mean), n, high=0.20 if step == 25 else np.inf)
        for name, mean, step in zip(names, means, study.swap_steps)
    ]
    floor = float(np.nanmean(oracle.moved(drawn[:, 1:], drawn[:, :1], between)))
    figures.append(
        Figure(
            group,
            "the same of phantoms drawn without and with the attribute",
            floor,
            len(drawn),
            note="nothing has moved: the oracle's own error",
        )
    )
    figures.append(Figure(group, "steps from λ = 45 to 5 at which it falls", falls(means), n, low=0, high=0))
    # The neighbour with the same neutral prompt.
    turn = len(set(study.prompts(range(n))[0]))
    stranger = float(np.nanmean(oracle.moved(np.roll(neutral, -turn, axis=0), neutral, between)))
    figures.append(Figure(group, "neutral → another patient's neutral: anatomy moved", stranger, n))
    other = oracle.moved(
        np.roll(anatomy[:, :, 1 + study.swap_steps.index(5)], -turn, axis=0), neutral[:, None], between
    )
    figures.append(
        Figure(
            group,
            "neutral → another's attribute latents, over that",
            float(np.nanmean(other)) / stranger,
            n,
            low=0.8,
            high=1.25,
            note="λ = 5; 1: the level of different patients",
        )
    )
    ratios = spread_ratios(neutral, phantoms)
    entries = ", ".join(
        f"{name} {ratio:.2f}" for name, ratio in zip(oracle.DOMAINS[study.phantoms][1].ANATOMY, ratios)
    )
    middle = float(np.exp(np.log(np.maximum(ratios, 1e-6)).mean()))
    return [
        *figures,
        Figure(
            group,
            "spread of neutrals over spread of phantoms",
            middle,
            n,
            low=0.8,
            high=1.2,
            note=f"geometric mean of {entries}",
        ),
    ]


def memorisation_figures(study, found: dict) -> list:
    group, threshold = f"{study.domain}: memorisation", found["threshold"]
    memorised = found["nearest"] < threshold
    figures = [
        share_figure(
            group,
            "neutrals nearer to a training image than two renderings of one patient",
            memorised,
            low=0,
            high=0,
        )
    ]
    figures.append(
        share_figure(
            group, "the same of unseen phantoms, which cannot be memorised", found["unseen"] < threshold
        )
    )
    figures.append(
        Figure(group, "distance of two renderings, 95th percentile", threshold, min(200, found["training"]))
    )
    figures.append(
        Figure(
            group,
            "distance to the nearest training image, least",
            float(found["nearest"].min()),
            len(found["nearest"]),
            note=f"of {found['training']} training images",
        )
    )
    return figures


def confounded_figures(study, data: dict, plain_study, plain: dict) -> list:
    """CFRT with correlated attributes, beside that of the plain model on the same patients.

    Also whether the oracle sees the same failures.
    """
    group, labels, figures, drops, judged = f"{study.domain}, confounded", study.labels, [], [], []
    for target, label in enumerate(labels):
        by = {judge: verdicts(study, data, judge, target) for judge in ("classifier", "oracle")}
        judged.append(by)
        leaked = by["classifier"].leaked
        leaks = ", ".join(
            f"{labels[b]} leaked in {count}"
            for b, count in zip(*np.unique(leaked[leaked >= 0], return_counts=True))
        )
        figures.append(share_figure(group, f"CFRT {label}, by classifier", by["classifier"].won, note=leaks))
        figures.append(share_figure(group, f"CFRT {label}, by oracle", by["oracle"].won))
        # CFRT asks which attribute rose most; a leak that rises less than its target shows here alone.
        for other, name in enumerate(labels):
            if other != target:
                present, alone = (part["classifier"][:, target, -1, other] > 0.5 for part in (data, plain))
                figures.append(
                    share_figure(
                        group,
                        f"{label} asked for: {name} too, λ = 5",
                        present,
                        note=f"{share(alone)[0]:.3f} in the plain model",
                    )
                )
        drops.append(difference(verdicts(plain_study, plain, "classifier", target).won, by["classifier"].won))
    worst = max(range(len(labels)), key=lambda target: drops[target][0])
    (drop, interval), label, by = drops[worst], labels[worst], judged[worst]
    figures.append(
        Figure(group, f"drop of CFRT {label}", drop, len(data["number"]), low=0.2, interval=interval)
    )
    failing = agreement(by["classifier"].won, by["oracle"].won)
    figures.append(share_figure(group, "failing patients that fail by the oracle too", failing, low=0.9))
    for judge, found in by.items():
        for what, flags in ((label, found.lead > CLEAR), ("another", found.lead < -CLEAR)):
            figures.append(
                share_figure(group, f"{label} asked for: {what} rises most by {CLEAR}, by {judge}", flags)
            )
    failing = agreement(~(by["classifier"].lead < -CLEAR), by["oracle"].won)
    return [
        *figures,
        share_figure(
            group, f"patients in whom another rises most by {CLEAR}: failing by the oracle too", failing
        ),
    ]


def evaluate(args) -> list:
    """Measure and return the figures. Raises ValueError for files that do not fit."""
    from demo.judging.judge_classifier import measure as measure_classifier
    from demo.judging.phantom_references import (
        UNSEEN,
        drawn_attributes,
        memorisation,
        training_images,
        unseen_neutrals,
    )
    from medtraverse.classifier import load_classifier
    from medtraverse.plain_traversal import load_model

    figures, measured = [], {}
    with Readers(args.workers) as readers:
        for name in args.only:
            study, unet = STUDIES[name], args.unet.get(name)
            weights = args.classifiers / f"classifier-{study.classifier}.safetensors"
            model = load_model(args.model, unet, args.device, args.bf16, compiled=args.compile)
            classifier = load_classifier(weights, device=args.device)
            settings = settings_of(
                study, args.model, unet, classifier, args.guidance, args.steps, args.bf16, args.compile
            )
            store = Store(args.out / name, settings, args.resume)
            data = collect(
                study,
                store,
                model,
                classifier,
                args.patients,
                args.block,
                readers,
                guidance=args.guidance,
                steps=args.steps,
            )
            measured[name] = data
            if not study.curve:
                continue
            print(f"{name}: phantoms", flush=True)
            judged = partial(
                measure_classifier, study.classifier, str(weights), str(args.model / "vae"), args.patients
            )
            report = store.kept(f"classifier-{args.patients}.json", judged)
            neutrals = unseen_neutrals(study.phantoms, UNSEEN, readers)
            anatomy = readers.read(study.phantoms, (), neutrals)
            drawn = drawn_attributes(model, study.phantoms, study.labels, UNSEEN // 5, readers)
            figures += (
                classifier_figures(study, report, args.patients)
                + cfrt_figures(study, data)
                + control_figures(study, data)
            )
            figures += identity_figures(study, data, anatomy, drawn)
            try:
                found = memorisation(
                    model,
                    data["neutral"],
                    training_images(args.model, unet, study.phantoms),
                    study.phantoms,
                    args.out,
                    readers,
                )
                figures += memorisation_figures(study, found)
            except ValueError as error:
                figures.append(
                    Figure(
                        f"{study.domain}: memorisation",
                        "neutrals nearer to a training image",
                        None,
                        0,
                        low=0,
                        high=0,
                        note=str(error),
                    )
                )
    if {"chexpert", "confounded"} <= set(measured):
        figures += confounded_figures(
            STUDIES["confounded"], measured["confounded"], STUDIES["chexpert"], measured["chexpert"]
        )
    return figures


def main(argv=None) -> int:
    args = _arguments(argv)
    try:
        figures = evaluate(args)
    except ValueError as error:
        sys.exit(f"demo.judging.evaluate: {error}")
    except KeyboardInterrupt:
        sys.exit("\ndemo.evaluate: stopped; --resume continues")
    text = f"{to_text(figures)}\n{NOTICE}"
    print(text)
    if args.json:
        settings = {
            "patients": args.patients,
            "guidance": args.guidance,
            "steps": args.steps,
            "bfloat16": args.bf16,
            "compiled": args.compile,
        }
        settings |= {"swap_steps": list(ALL_SWAPS), "device": args.device, "studies": list(args.only)}
        record = {"notice": NOTICE, "settings": settings, "figures": [figure.record() for figure in figures]}
        write_text(args.json, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return 0


def _arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m demo.judging.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--patients", type=int, default=500, help="in each domain")
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="diffusers folder of the base")
    parser.add_argument(
        "--unet",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="fine-tuned U-Net of chexpert, isic or confounded; a FILE alone is for chexpert and isic "
        "(default: phantom-NAME.safetensors beside the base where it is there, else the base's own)",
    )
    parser.add_argument(
        "--classifiers",
        type=Path,
        default=WEIGHTS.parent,
        help="folder of classifier-chexpert and classifier-isic",
    )
    parser.add_argument(
        "--only", nargs="+", choices=tuple(STUDIES), help="studies to run (default: all that have weights)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 in the U-Net and in decoding")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile, which needs a C compiler and two minutes, and then saves a third",
    )
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument(
        "--steps", type=int, default=50, choices=range(47, 200), metavar="47…199", help="DDIM steps"
    )
    parser.add_argument(
        "--block",
        type=int,
        help="patients sampled together (default: 4, on a GPU 25); no effect on the result",
    )
    parser.add_argument(
        "--workers", type=int, help="processes that read images (default: 1, with a GPU one a core)"
    )
    parser.add_argument("--out", type=Path, default=CACHE / "evaluation", help="folder of the measurements")
    parser.add_argument("--resume", action="store_true", help="keep the measurements that are there")
    parser.add_argument("--json", type=Path, help="write the table there too")
    args = parser.parse_args(argv)
    if args.patients < 2:
        parser.error(f"--patients is {args.patients}; a patient is compared with another: give 2 or more")
    gpu = args.device != "cpu"
    if gpu:
        from demo.training.train_base import require_device

        require_device(args.device)
    args.block = args.block or (25 if gpu else 4)
    args.workers = args.workers or ((os.cpu_count() or 1) if gpu else 1)
    beside = {name: args.model.parent / f"phantom-{name}.safetensors" for name in STUDIES}
    given, args.unet = args.unet, {name: path for name, path in beside.items() if path.is_file()}
    for item in given:
        name, equals, path = item.partition("=")
        if equals and name not in STUDIES:
            parser.error(f"--unet is {item!r}; write NAME=FILE with NAME one of {', '.join(STUDIES)}")
        args.unet |= {name: Path(path)} if equals else dict.fromkeys(("chexpert", "isic"), Path(item))
    args.only = tuple(
        name
        for name in STUDIES
        if name in (args.only or STUDIES) and (name != "confounded" or name in args.unet)
    )
    if not args.only:
        parser.error("--only is confounded, which has no weights; give --unet confounded=FILE")
    return args


if __name__ == "__main__":
    sys.exit(main())

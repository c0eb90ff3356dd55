"""The first stage of the paper: fine-tune a Stable Diffusion on a data set of medical images.

TehraniNasab, Kumar, Arbel (2025), arXiv 2503.23623, section 3. `fine_tune` checks everything that can be
checked, fills the caches, and trains. The other modules of this package are a step of it each. Synthetic
images. Not for clinical use.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import data_sets
from ..digest import sha256_of
from ..notice import NOTICE
from ..whole_file import write_text
from .base_model import Base, read_base
from .draws import Batches, Draw, Pieces, share_of
from .held_out import HeldOut
from .journal import Journal, clock
from .judging import PromptSwaps
from .latent_cache import encode_images, image_digest, latent_shards
from .loop import Pending, Updates
from .networks import Average, Denoiser, build_denoiser, build_optimizer, trainable
from .objective import Objective
from .output import check_comfyui, install, metadata_of_run, model_card, write_domain_file, write_weights
from .prompts_of_data import domain_to_judge_by, trained_domain
from .resume import State, last_step, load_state, save_state
from .settings import BF16, FP16, FREE, MIXED, Settings
from .shards import Shards
from .text_cache import MOST_IN_FULL, embed_captions, token_ids, too_long

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..data_sets import DataSet
    from ..domain import Domain

BEST, LAST = "best", "last"


@dataclass
class Prepared:
    """What is known, and lies in the caches, before the networks are loaded.

    Attributes
    ----------
    data : DataSet
    record : dict
        What weights and cards say of it.
    latents : Shards
        Moments of all images.
    rows, words : ndarray, int
        Rows of the images that are trained on, and their captions.
    held_rows, held_words : ndarray, int
        Of those that are held out.
    captions : list of str
        Each once, the empty one last.
    texts : Shards, optional
        Their embeddings; None where the text encoder is trained.
    """

    data: DataSet
    record: dict[str, Any]
    latents: Shards
    rows: np.ndarray
    words: np.ndarray
    held_rows: np.ndarray
    held_words: np.ndarray
    captions: list[str]
    texts: Shards | None


@torch.inference_mode(False)
def fine_tune(settings: Settings, resume: bool = False, say: Callable[[str], None] = print) -> Path:
    """Fine-tune, or go on with a run that was stopped.

    Parameters
    ----------
    settings : Settings
        Of `settings_of`.
    resume : bool
        Go on with the run that `settings.out` holds; where it holds none, begin.
    say : callable
        Takes a line of progress, from the main process alone.

    Returns
    -------
    Path
        The folder of the weights to use: ``best``, or ``last`` where nothing was measured.

    Raises
    ------
    ValueError
        Something does not fit, before the first update: settings, base, data, disk, classifier. Or the loss
        is no number: the last good state stays.
    """
    accelerator = _accelerator(settings)
    tell = say if accelerator.is_main_process else lambda line: None
    base = read_base(Path(settings.base))
    size = settings.size or base.size
    base.check_size(size)
    out = Path(settings.out)
    name = settings.name or out.resolve().name
    if not re.fullmatch(r"[\w .+-]+", name):
        raise ValueError(f"name: {name!r} is no name of a file; take letters, digits, hyphens.")
    if settings.install:
        check_comfyui(Path(settings.install))
    begun = last_step(out / "state")
    if begun is not None and not resume:
        raise ValueError(
            f"out: {out} holds a training that has done {begun:,} updates; give --resume to go on, or "
            "another folder."
        )
    share = share_of(accelerator.process_index, accelerator.num_processes, settings.images_per_update)
    data = data_sets.read(
        settings.data,
        layout=settings.layout or None,
        uncertain=settings.uncertain,
        views=settings.views,
        threshold=settings.threshold,
        artefacts=settings.artefacts or None,
        held_out=settings.held_out,
        seed=settings.split_seed,
    )
    trained = trained_domain(name, data, size)
    judge = _judge(settings, data, trained[0] if trained else None, accelerator)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        # Of writers that were killed.
        for path in (*out.glob("*/.medtraverse-*"), *out.glob("*/*/.medtraverse-*")):
            shutil.rmtree(path, ignore_errors=True)
    prepared = _prepare(settings, base, size, data, accelerator, tell)

    torch.manual_seed(settings.seed)
    denoiser = build_denoiser(settings, base)
    weights = trainable(denoiser)
    total = settings.steps or math.ceil(settings.epochs * len(prepared.rows) / settings.images_per_update)
    if accelerator.is_local_main_process:
        _check_room_for_states(out, weights, settings)
    run = _Run(settings, base, name, prepared, denoiser, accelerator, tell, total, share, judge, trained, out)
    return run(begun if resume else None)


class _Run:
    """A training on its way: it was checked and its caches are filled."""

    def __init__(
        self,
        settings: Settings,
        base: Base,
        name: str,
        prepared: Prepared,
        denoiser: Denoiser,
        accelerator: Accelerator,
        say: Callable[[str], None],
        total: int,
        share: range,
        judge: PromptSwaps | None,
        trained: tuple[Domain, dict[str, Any]] | None,
        out: Path,
    ):
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_scheduler

        self.settings, self.base, self.name, self.prepared = settings, base, name, prepared
        self.denoiser, self.accelerator, self.say = denoiser, accelerator, say
        self.total, self.share, self.judge, self.trained, self.out = total, share, judge, trained, out
        device = accelerator.device
        optimizer = build_optimizer(settings, denoiser)
        kind = {"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule)
        self.schedule = get_scheduler(
            kind, optimizer, num_warmup_steps=settings.warmup, num_training_steps=total
        )
        self.network, self.optimizer = accelerator.prepare(denoiser, optimizer)
        self.weights = trainable(denoiser)
        self.average = Average(self.weights, settings.ema)
        scheduler = DDPMScheduler.from_pretrained(base.folder / "scheduler", local_files_only=True)
        self.objective = Objective(scheduler, device, settings.min_snr, settings.high_noise)
        self.table = _table(prepared, base, denoiser, device)
        self.draw = Draw(
            settings.seed,
            int(scheduler.config.num_train_timesteps),
            base.scaling,
            settings.caption_dropout,
            settings.noise_offset,
        )
        self.best: list[float] | None = None
        self.validation: dict[str, Any] | None = None
        self.best_validation: dict[str, Any] | None = None
        self.parts: dict[str, Any] = {}
        # Figures of another classifier, or of other prompts, are not compared.
        self.measure = [
            len(prepared.held_rows),
            *((judge.classifier.sha256, judge.domain.name, *judge.swap_steps) if judge else ()),
        ]

    def context(self, batch: dict[str, Tensor]) -> Tensor:
        """What the network takes of a batch's captions: embeddings, or ids for a trained encoder."""
        return batch["context"] if self.table is None else self.table[batch["words"]]

    def __call__(self, begun: int | None) -> Path:
        settings, accelerator = self.settings, self.accelerator
        done = 0 if begun is None else self._load()
        journal = self._journal(done)
        kept = {
            math.ceil(epoch * len(self.prepared.rows) / settings.images_per_update): epoch
            for epoch in settings.keep_epochs
        }
        pieces = Pieces(done, self.total, self.share, settings.batch)
        updates = Updates(
            accelerator,
            self.network,
            self.optimizer,
            self.schedule,
            self.average,
            self.objective,
            self.context,
            settings,
            pieces.per_update,
            len(self.share),
        )
        batches = iter(self._loader(pieces))
        pending: Pending | None = None

        def settle() -> None:
            nonlocal pending
            if pending is not None:
                try:
                    loss, norm = updates.read(pending)
                except ValueError as error:
                    if accelerator.is_main_process:
                        journal.flush()
                    raise ValueError(f"{str(error)[:-1]}; {self._kept_state()}.") from None
                if accelerator.is_main_process:
                    journal.update(pending.step, loss, norm, pending.rate)
                pending = None

        for step in range(done + 1, self.total + 1):
            following = updates(step, batches)
            settle()  # the numbers of the update before, while the device is busy with this one
            pending = following
            every, last = settings.validate_every, step == self.total
            validates = last or bool(every and step % every == 0)
            if validates or step in kept or step % settings.save_every == 0:
                settle()
                paused = time.monotonic()
                if validates:
                    self._validate(step, journal)
                if step in kept:
                    self._write(f"epoch-{kept[step]}", step, self.validation)
                if last:
                    self._write(LAST, step, self.validation)
                if accelerator.is_main_process:
                    journal.flush()
                self._save(step)
                journal.pause(time.monotonic() - paused)
        chosen = self._finish()
        accelerator.wait_for_everyone()
        # Ends trackers and the group of processes.
        accelerator.end_training()
        return chosen

    def _loader(self, pieces: Pieces) -> Any:
        from torch.utils.data import DataLoader

        prepared, device = self.prepared, self.accelerator.device
        texts = prepared.texts if self.table is None else None
        batches = Batches(
            prepared.latents,
            prepared.rows,
            prepared.words,
            len(prepared.captions) - 1,
            self.draw,
            self.settings.images_per_update,
            texts,
        )
        # On a CPU a worker would take a core from the network.
        workers = 0 if device.type == "cpu" else self.settings.workers
        return DataLoader(
            batches,
            batch_size=None,
            sampler=pieces,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if workers else None,
        )

    def _journal(self, done: int) -> Journal:
        settings, accelerator = self.settings, self.accelerator
        track = None
        if settings.track != "none":
            kwargs = {"tensorboard": {"purge_step": done}} if settings.track == "tensorboard" else {}
            config = {key: str(value) for key, value in settings.report().items()}
            accelerator.init_trackers(self.name, config, kwargs)

            def track(figures: dict[str, float], step: int) -> None:
                accelerator.log(figures, step=step)

        journal = Journal(
            self.out / "log.jsonl",
            self.say,
            track,
            self.total,
            settings.images_per_update,
            settings.log_every,
        )
        if accelerator.is_main_process:
            journal.begin(done)
            count = len(self.prepared.rows)
            epochs = self.total * settings.images_per_update / count
            millions = sum(value.numel() for value in self.weights.values()) / 1e6
            self.say(
                f"{self.total:,} updates of {settings.images_per_update} images, {epochs:.2f} epochs of "
                f"{count:,}; {millions:.1f} million weights; "
                f"{accelerator.num_processes} x {accelerator.device.type}"
                + (f"; going on behind update {done:,}" if done else "")
            )
        return journal

    def _validate(self, step: int, journal: Journal) -> None:
        prepared, settings, accelerator = self.prepared, self.settings, self.accelerator
        if not len(prepared.held_rows) and self.judge is None:
            return
        begun = time.monotonic()
        record: dict[str, Any] = {"step": step, "loss": None, "attributes": None}
        figures: dict[str, float] = {}
        said = [f"validation after update {step}:"]
        score: list[float] = []
        self.denoiser.eval()
        with self.average.applied():
            if self.judge is not None:
                model = self._model()
                picture = self.out / "validation" / f"update-{step:06d}.png"
                judged = self.judge(model, accelerator, picture if accelerator.is_main_process else None)
                self._rest(model)
                record["attributes"] = judged.report()
                figures |= judged.figures()
                score += judged.score
                for attribute, result in judged.cfrt.items():
                    flips = judged.flips[attribute]
                    said.append(f"{attribute} CFRT {result.cfrt:.3f}, flip rate {flips.rate:.3f};")
            if len(prepared.held_rows):
                held = HeldOut(
                    prepared.latents, prepared.held_rows, prepared.held_words, self.draw, settings.batch
                )
                losses = held.losses(self.denoiser, self.objective, self._held_context, accelerator)
                record["loss_by_timestep"] = {str(key): value for key, value in losses.items()}
                record["loss"] = float(np.mean(list(losses.values())))
                figures |= {f"loss_at_{key}": value for key, value in losses.items()}
                figures["loss"] = record["loss"]
                score.append(-record["loss"])
                spread = " ".join(f"{value:.3f}" for value in losses.values())
                said.append(f"held-out loss {record['loss']:.5f} ({spread} from little noise to much);")
            better = self.best is None or score > self.best
            if better:
                self.best, self.best_validation = score, record
                self._write(BEST, step, record, averaged=True)
        self.denoiser.train()
        self.validation = record
        said.append(f"{'the best so far, ' if better else ''}{clock(time.monotonic() - begun)}")
        if accelerator.is_main_process:
            journal.validation(step, record, figures, " ".join(said))

    def _held_context(self, words: Tensor) -> Tensor:
        if self.table is not None:
            return self.table[words]
        assert self.prepared.texts is not None
        return torch.from_numpy(self.prepared.texts.take(words.tolist())).to(words.device)

    def _model(self) -> Any:
        """The network on its way with the base's other parts, on the device."""
        from ..plain_traversal import Model, cumulative_alphas

        if not self.parts:
            parts = {"vae": self.base.load("vae")}
            if self.denoiser.text is None:
                parts["text"] = self.base.load("text_encoder")
            self.parts = {key: part.eval().requires_grad_(False) for key, part in parts.items()}
        device = self.accelerator.device
        for part in self.parts.values():
            part.to(device)
        half = self.settings.precision == BF16 or self.settings.precision == FP16
        return Model(
            self.denoiser.unet,
            self.parts["vae"],
            self.parts.get("text", self.denoiser.text),
            self.base.tokenizer(),
            cumulative_alphas(self.base.configs["scheduler"]),
            self.base.prediction,
            half,
            64 if device.type == "cuda" else 16,
        )

    def _rest(self, model: Any) -> None:
        """Take what only validation needs off the device."""
        del model
        for part in self.parts.values():
            part.to("cpu")

    def _write(
        self, folder: str, step: int, validation: dict[str, Any] | None, averaged: bool = False
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        metadata = metadata_of_run(
            self.settings, self.base, self.name, self.prepared.record, step, validation
        )
        place = self.out / folder
        if averaged:
            write_weights(place, self.denoiser, self.settings, self.base, self.name, metadata)
            return
        with self.average.applied():
            write_weights(place, self.denoiser, self.settings, self.base, self.name, metadata)

    def _finish(self) -> Path:
        chosen = self.out / (BEST if self.best is not None else LAST)
        if not self.accelerator.is_main_process:
            return chosen
        card = model_card(self.name, self.settings, self.base, self.prepared.record, self.best_validation)
        write_text(self.out / "README.md", card)
        record = self.trained[1] if self.trained else None
        if record is not None:
            write_domain_file(self.out / f"{self.name}.domain.json", record)
        if self.settings.install:
            for path in install(Path(self.settings.install), chosen, self.name, self.settings, record):
                self.say(f"installed {path}")
        self.say(f"{chosen}: done. {NOTICE}")
        return chosen

    def _identity(self) -> dict[str, Any]:
        settings = self.settings
        identity = {key: value for key, value in settings.report().items() if key not in FREE}
        identity["size"] = self.prepared.record["size"]
        identity["base's files"] = hashlib.sha256(
            json.dumps(sorted(self.base.sha256.items())).encode()
        ).hexdigest()
        identity["images and captions"] = self.prepared.record["sha256"]
        if settings.unet:
            path = Path(settings.unet)
            identity["unet"] = sha256_of(path) if path.is_file() else path.name
        if settings.schedule != "constant":
            identity["updates"] = self.total
        return identity

    def _save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            scaler = getattr(self.accelerator, "scaler", None)
            tensors = {
                "weights": {name: value.detach() for name, value in self.weights.items()},
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "average": self.average.state(),
                "scaler": scaler.state_dict() if scaler is not None else {},
            }
            record = {
                "measure": self.measure,
                "best": self.best,
                "best_validation": self.best_validation,
                "validation": self.validation,
            }
            save_state(self.out / "state", State(step, self._identity(), tensors, record))
        self.accelerator.wait_for_everyone()

    def _load(self) -> int:
        state = load_state(self.out / "state", self._identity())
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(state.tensors["weights"][name])
        self.optimizer.load_state_dict(state.tensors["optimizer"])
        self.schedule.load_state_dict(state.tensors["schedule"])
        self.average.load(state.tensors["average"])
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and state.tensors["scaler"]:
            scaler.load_state_dict(state.tensors["scaler"])
        self.validation = state.record["validation"]
        if state.record["measure"] == self.measure:
            self.best, self.best_validation = state.record["best"], state.record["best_validation"]
        return state.step

    def _kept_state(self) -> str:
        step = last_step(self.out / "state")
        if step is None:
            return "no state had been saved yet"
        return f"the state after update {step} is kept, and --resume goes on behind it"


def _accelerator(settings: Settings) -> Accelerator:
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    if settings.precision == FP16 and (settings.device == "cpu" or not torch.cuda.is_available()):
        raise ValueError("precision: fp16 needs a GPU, and there is none; give --precision fp32 or bf16.")
    if settings.track != "none":
        _check_tracker(settings.track)
    accelerator = Accelerator(
        mixed_precision=MIXED[settings.precision],
        cpu=settings.device == "cpu" or None,
        log_with=None if settings.track == "none" else settings.track,
        project_dir=settings.out,
    )
    known = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if accelerator.distributed_type not in known:
        raise ValueError(
            f"accelerate: {accelerator.distributed_type.value} cuts the network into parts, which is not "
            "supported; launch with --multi_gpu, or in one process."
        )
    if accelerator.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return accelerator


def _check_tracker(name: str) -> None:
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise ValueError(f"track: {name} is not installed; install it, or give --track none.")


def _judge(
    settings: Settings, data: DataSet, trained: Domain | None, accelerator: Accelerator
) -> PromptSwaps | None:
    if not settings.classifier:
        return None
    from ..classifier import load_classifier

    domain = domain_to_judge_by(settings.domain, data, trained)
    if domain is None:
        raise ValueError(
            f"domain: {data.layout} has no prompts of its own to judge by; name a domain, or a domain file."
        )
    classifier = load_classifier(list(settings.classifier), device=accelerator.device)
    return PromptSwaps(settings, domain, classifier)


def _prepare(
    settings: Settings,
    base: Base,
    size: int,
    data: DataSet,
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> Prepared:
    from accelerate.utils import broadcast_object_list

    used = np.flatnonzero(data.frame["split"].isin(["train", "validation"]).to_numpy())
    frame = data.frame.iloc[used]
    files, sentences = list(frame["file"]), list(frame["caption"])
    split = frame["split"].to_numpy()
    if not (split == "train").any():
        raise ValueError(
            f"data: no image of {settings.data} is in its training split; give a folder with training images."
        )
    told: list[Any] = [None]
    if accelerator.is_main_process:
        told = [(image_digest(data.root, files), image_digest(data.root, files, sentences))]
    ((digest, captioned),) = broadcast_object_list(told) if accelerator.num_processes > 1 else told
    cache = Path(settings.cache or Path(settings.out) / "cache")
    latents = latent_shards(cache, digest, len(files), size, settings.fit, base)

    def progress(what: str) -> Callable[[int, int], None]:
        def told(done: int, count: int) -> None:
            say(f"{what} {done:,}/{count:,}")

        return told

    broken = encode_images(
        latents,
        data.root,
        files,
        size,
        settings.fit,
        base,
        accelerator,
        settings.workers,
        progress("latents"),
    )
    if broken and not settings.skip_broken:
        first = broken[min(broken)]
        raise ValueError(
            f"data: {len(broken):,} of {len(files):,} images cannot be read, the first: {first.rstrip('.')}; "
            "give --skip-broken to leave them out (python -m medtraverse data audit lists them)."
        )
    usable = np.ones(len(files), bool)
    usable[list(broken)] = False
    # Those that are held out come in an order of their own, so that any number of them is a fair choice.
    rows = np.flatnonzero(usable & (split == "train"))
    held = np.flatnonzero(usable & (split == "validation"))
    held = np.sort(np.random.default_rng(settings.split_seed).permutation(held)[: settings.validation_images])
    if not len(rows):
        raise ValueError(
            f"data: no training image of {settings.data} can be read; see the audit of the data."
        )
    captions = [*sorted({sentences[row] for row in (*rows, *held)} - {""}), ""]
    place = {caption: number for number, caption in enumerate(captions)}
    words = np.array([place.get(sentence, -1) for sentence in sentences])
    tokenizer = base.tokenizer()
    known = base.configs["text_encoder"].get("vocab_size", len(tokenizer))
    if len(tokenizer) > known:
        raise ValueError(
            f"base: the tokenizer of {base.folder.name} has {len(tokenizer)} tokens and its text encoder "
            f"{known}; put the tokenizer of its own training there."
        )
    if cut := too_long(tokenizer, captions):
        say(
            f"{cut:,} of {len(captions) - 1:,} captions are longer than the text encoder reads; they are cut."
        )
    texts = None
    if not settings.train_text_encoder:
        texts = embed_captions(cache, captions, base, accelerator, progress("captions"))
    left_out = dict(data.left_out) | ({"broken": len(broken)} if broken else {})
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "none"
    say(f"{data.layout}: {len(rows):,} images to train on, {len(held):,} to validate by; left out: {reasons}")
    record = {
        "layout": data.layout,
        "images": len(rows),
        "held_out": int((usable & (split == "validation")).sum()),
        "captions": len(captions) - 1,
        "sha256": captioned,
        "rule": data.rule,
        "policies": data.policies,
        "left_out": left_out,
        "size": size,
        "fit": settings.fit,
    }
    return Prepared(data, record, latents, rows, words[rows], held, words[held], captions, texts)


def _table(prepared: Prepared, base: Base, denoiser: Denoiser, device: torch.device) -> Tensor | None:
    """All captions as the network takes them, on the device; None where they are too many for that."""
    if denoiser.text is not None:
        return token_ids(base.tokenizer(), prepared.captions).to(device)
    texts = prepared.texts
    assert texts is not None
    if len(texts) * math.prod(texts.shape) * 4 > MOST_IN_FULL:
        return None
    return torch.from_numpy(texts.take(range(len(texts)))).float().to(device)


def _check_room_for_states(out: Path, weights: dict[str, Any], settings: Settings) -> None:
    """Raise ValueError where the disk has no room for two states and the weights that are kept."""
    count = sum(value.numel() for value in weights.values())
    moments = 0.5 if settings.optimizer != "adamw" else 2
    state = 4 * count * (1 + moments + bool(settings.ema))
    needed = 2 * state + (2 + len(settings.keep_epochs)) * 4 * count
    free = shutil.disk_usage(out).free
    if needed > free:
        raise ValueError(
            f"out: {out} needs {needed / 1e9:.1f} GB for states and weights and the disk has "
            f"{free / 1e9:.1f} GB free; free some, or give another folder."
        )

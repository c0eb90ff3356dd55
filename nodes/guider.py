"""Shared-prefix sampling inside ComfyUI's own machinery.

The latents of all rows go through an unchanged ComfyUI sampler from first step to last, so multistep history,
previews and patches see full batches. What is shared are U-Net evaluations: a wrapper around
``calc_cond_batch`` sends only the distinct rows of a step (``Plan.sources``) to the U-Net, in chunks, and
copies the results to the rows that they serve.
"""

import itertools
import math
from enum import Enum

import comfy.conds
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch

from ..medtraverse import projection
from ..medtraverse.traversal import NEUTRAL
from .call_size import fixed_sizes, next_call
from .call_tables import Phases, banks_of
from .compilation import is_compiled
from .model_patches import refuse_patches

WRAPPERS = comfy.patcher_extension.WrappersMP
PER_CONDITIONING = (
    "control",
    "hooks",
    "area",
    "mask",
    "gligen",
    "timestep_start",
    "timestep_end",
    "default",
    "strength",
)


class Role(Enum):
    """What a conditioning stands for in a call of the model."""

    POSITIVE = "each row's own prompt"
    NEGATIVE = "the unconditional prompt"
    FOREIGN = "a patch's own prompt, the same for every row"
    ABSENT = "none was given"
    SKIPPED = "one was given, but is not wanted for these rows"

    @property
    def evaluated(self):
        return self not in (Role.ABSENT, Role.SKIPPED)


class TraversalGuider(comfy.samplers.CFGGuider):
    """CFGGuider over the rows of a traversal's ``Plan``.

    ``size`` is the ``CallSize`` of a run. ``progress(rows)`` is told of evaluated rows. ``cache`` and
    ``row_keys`` (one per row) let outputs be kept and served again. TraversalSampler says with ``enter``
    where the sampler is.
    """

    def __init__(self, model, settings, size, progress, cache=None, row_keys=None):
        super().__init__(model)
        refuse_patches(model)
        self.plan, self.steps = settings.plan, settings.steps
        self.size, self.progress = size, progress
        # A compiled model meets few sizes of a call only.
        self.fixed = fixed_sizes(size.most) if is_compiled(model) else ()
        self.cache, self.row_keys = cache, row_keys
        self.phases, self.banks, self.members, self.stacked, self.different = None, {}, [], {}, set()
        self.step = self.evaluation = self.call = 0
        self.rows = self.calls = self.served = 0
        self.ahead, self.foreseen = None, set()

    def enter(self, step, evaluation):
        """The sampler begins an evaluation, numbered within its step."""
        self.step, self.evaluation, self.call = step, evaluation, 0

    def set_traversal(self, conditionings):
        """Set the ``Conditionings``. Raises ValueError for one that was made for a batch."""
        conds = {"positive": conditionings.neutral, "negative": conditionings.negative} | {
            _key(number): attribute for number, attribute in enumerate(conditionings.attributes)
        }
        names = [
            "neutral",
            "negative",
            *(f"attributes (number {number + 1})" for number in range(len(conditionings.attributes))),
        ]
        for name, conditioning in zip(names, conds.values()):
            _refuse_batch(conditioning, name)
        self.inner_set_conds(conds)

    def look_ahead(self, model, path, levels, **extra):
        """Evaluate the neutral rows of several steps beside each other, and keep what comes out.

        ``path`` gives the states [patients, C, h, w] of each step. Nothing is done where a patch might read
        the step off the batch, or nothing can be kept: the steps then evaluate their neutral rows themselves.
        """
        if self.cache is None or not _unpatched(self.model_patcher.model_options):
            return
        roles = (Role.POSITIVE,) if math.isclose(self.cfg, 1.0) else (Role.POSITIVE, Role.NEGATIVE)
        pairs = [
            (patient, patient * self.plan.rows_per_patient, step)
            for step in path
            for patient in range(self.plan.patients)
        ]
        pairs = [
            pair
            for pair in pairs
            if any(self.cache.get((self.row_keys[pair[1]], pair[2], 0, 0, role)) is None for role in roles)
        ]
        while pairs:
            part, pairs = pairs[: self.size.now], pairs[self.size.now :]
            states = torch.stack([path[step][patient] for patient, _, step in part])
            sigmas = torch.tensor([levels[step] for _, _, step in part]).to(states)
            self.predict_beside(model, states, sigmas, [(row, step) for _, row, step in part], **extra)

    def predict_beside(self, model, states, sigmas, keys=(), **extra):
        """Return the model's predictions of states [N, C, h, w] that are no rows, under the neutral prompt.

        ``keys`` are row and step of each, under which the outputs are kept.
        """
        self.ahead = list(keys)
        try:
            return model(states, sigmas, **extra)
        finally:
            self.ahead = None

    def process_attributes(self, noise, latent_image, denoise_mask, seed):
        """Process each attribute with the negative alone, as core does in a run of its own.

        Processed together, an area, GLIGEN or ControlNet of one would reach the neutral and the other
        attributes.
        """
        self.different, self.stacked = set(), {}
        for number in range(self.plan.attributes):
            pair = {"positive": self.unprocessed[_key(number)], "negative": self.unprocessed["negative"]}
            pair = comfy.samplers.process_conds(
                self.inner_model, noise, pair, noise.device, latent_image, denoise_mask, seed
            )
            self.conds[_key(number)], self.conds[_negative(_key(number))] = pair["positive"], pair["negative"]
            if not _same(pair["negative"], self.conds["negative"]):
                self.different.add(number)
        for conds in self.conds.values():
            for cond in conds:
                _move_prompt(cond, noise.device)
        shapes = {
            number: (_plain(self.conds[_key(number)]), _plain(self.conds[self._negative_of(number)]))
            for number in (NEUTRAL, *range(self.plan.attributes))
        }
        self.banks, self.members = banks_of(
            {number: pair if all(pair) else number for number, pair in shapes.items()}
        )
        own = torch.tensor([number in self.different for number in (*range(self.plan.attributes), NEUTRAL)])
        self.phases = Phases(self.plan, self.steps, own[self.plan.attribute()], self.banks, noise.device)

    def sample(self, *args, **kwargs):
        original = self.model_options
        self.model_options = comfy.model_patcher.create_model_options_clone(original)
        if comfy.model_management.is_device_cpu(self.model_patcher.load_device):
            self.model_options.setdefault("transformer_options", {}).setdefault(
                "optimized_attention_override",
                _plain_attention if is_compiled(self.model_patcher) else _scaled_dot_product,
            )
        add = comfy.patcher_extension.add_wrapper_with_key
        add(
            WRAPPERS.CALC_COND_BATCH,
            "medtraverse",
            self._distinct_rows,
            self.model_options,
            is_model_options=True,
        )
        add(
            WRAPPERS.PREPARE_SAMPLING, "medtraverse", self._prepare, self.model_options, is_model_options=True
        )
        try:
            return super().sample(*args, **kwargs)
        finally:
            self.model_options = original

    def _prepare(self, executor, model, noise_shape, conds, *args, **kwargs):
        """Ask for the memory of one call, where core would ask for that of all rows at once.

        The attributes are kept from core's processing; ``process_attributes`` does it.
        """
        rows = min(noise_shape[0], self.size.now)
        real_model, self.unprocessed, loaded = executor(
            model, [rows, *noise_shape[1:]], conds, *args, **kwargs
        )
        return real_model, {key: self.unprocessed[key] for key in ("positive", "negative")}, loaded

    def _distinct_rows(self, executor, model, conds, x, timestep, model_options):
        roles = [self._role(cond) for cond in conds]
        if self.ahead is not None:
            return self._evaluate_beside(
                executor, model, conds, roles, x, timestep, model_options, self.ahead
            )
        if len(x) != self.plan.rows:
            return executor(model, conds, x, timestep, model_options)
        self._advance_hooks(model, timestep, model_options)
        phase = self.phases.at(self.step, self.evaluation)
        # Of what is evaluated every row that is read below is written first.
        outputs = [torch.empty_like(x) if role.evaluated else torch.zeros_like(x) for role in roles]
        only_positive = [role if role is Role.POSITIVE else Role.SKIPPED for role in roles]
        for rows, wanted in ((phase.shared, roles), (phase.only_conditional, only_positive)):
            pair = sum(role.evaluated for role in wanted) > 1
            for group in phase.groups(self._not_kept(rows, wanted, outputs)):
                first = 0
                while first < len(group.rows):
                    call = group.call(first, self.size.now, self._sizes(pair))
                    if self._evaluate(
                        executor, model, conds, call, wanted, x, timestep, model_options, outputs
                    ):
                        first += len(call.rows)
        self.call += 1
        return [
            output.index_select(0, phase.conditional if role is Role.POSITIVE else phase.unconditional)
            if role.evaluated
            else output
            for output, role in zip(outputs, roles)
        ]

    def _sizes(self, pair):
        """Return the sizes that calls of a compiled model may have; nothing where any size will do.

        A call of one prompt a row has twice the rows of one with guidance, so that the model sees the same
        few batches of both.
        """
        if not self.fixed:
            return ()
        sizes = tuple(size for size in self.fixed if size <= self.size.now) or (self.size.now,)
        return sizes if pair or math.isclose(self.cfg, 1.0) else tuple(2 * size for size in sizes)

    def _evaluate_beside(self, executor, model, conds, roles, x, timestep, model_options, keys):
        """Evaluate states that are no rows; when the device runs out of memory, fewer a call."""
        parts, first = [], 0
        while first < len(x):
            comfy.model_management.throw_exception_if_processing_interrupted()
            here = [role for role in roles if role.evaluated]
            sizes, left = self._sizes(len(here) > 1), len(x) - first
            count, filled = next_call(left, sizes) if sizes else (min(self.size.now, left),) * 2
            part = slice(first, first + count)
            index = torch.arange(first, first + filled, device=x.device).clamp(max=first + count - 1)
            results = self._tried(
                executor,
                model,
                conds,
                x.index_select(0, index),
                timestep.index_select(0, index),
                model_options,
            )
            if results is None:
                comfy.model_management.soft_empty_cache()
                continue
            results = [result[:count] for result in results]
            first += count
            self.rows += count * len(here)
            if keys:
                self._keep(
                    [(row, step, 0, 0) for row, step in keys[part]],
                    here,
                    [result for result, role in zip(results, roles) if role.evaluated],
                )
                self.foreseen.update(keys[part])
            self.calls += 1
            self.progress(self.rows + self.served)
            parts.append(results)
        return [torch.cat(pieces) for pieces in zip(*parts)] if len(parts) > 1 else parts[0]

    def _tried(self, executor, model, conds, x, timestep, model_options):
        """Return the outputs of a call; None, and fewer rows from now on, where memory runs out.

        Nothing of the failed call is held then, or what it took could not be freed.
        """
        try:
            results = executor(model, conds, x, timestep, model_options)
        except Exception as error:
            if len(x) == 1 or not out_of_memory(error):
                raise
            results = None
        if results is None:
            self.size.failed(len(x))
        else:
            self.size.fitted(len(x))
        return results

    def _advance_hooks(self, model, timestep, model_options):
        """Let scheduled hooks see every step; else an attribute's keyframes would begin at the first swap."""
        for hooks in {
            id(c["hooks"]): c["hooks"]
            for conds in self.conds.values()
            for c in conds
            if c.get("hooks") is not None
        }.values():
            model.current_patcher.prepare_hook_patches_current_keyframe(timestep, hooks, model_options)

    def _role(self, cond):
        """Say what a conditioning stands for; a foreign one, from a patch, is the same for every row."""
        if cond is None:
            return Role.ABSENT
        if cond is self.conds["positive"] or cond is self.conds["negative"]:
            return Role.POSITIVE if cond is self.conds["positive"] else Role.NEGATIVE
        if {c.get("uuid") for c in cond} & {c["uuid"] for c in self.conds["positive"]}:
            raise ValueError(
                "model: one of its patches rewrites the positive prompt itself, which differs from row to "
                "row here; remove that patch."
            )
        return Role.FOREIGN

    def _not_kept(self, rows, roles, outputs):
        """Write what the cache has to the outputs; return the rows that it does not have for every role."""
        if self.cache is None or Role.FOREIGN in roles:
            return rows
        missing, found, kept = [], [], []
        at = (self.step, self.evaluation, self.call)
        here = [role for role in roles if role.evaluated]
        for row in rows:
            items = [self.cache.get((self.row_keys[row], *at, role)) for role in here]
            if any(item is None for item in items):
                missing.append(row)
                continue
            found.append(row)
            kept.append(torch.stack(items))
            self.served += len(here) * ((row, self.step) not in self.foreseen)
        if found:
            values = torch.stack(kept, dim=1).to(outputs[0])
            index = torch.tensor(found).to(values.device)
            written = [output for output, role in zip(outputs, roles) if role.evaluated]
            for output, value in zip(written, values):
                output.index_copy_(0, index, value)
        return tuple(missing)

    def _keep(self, places, roles, results):
        """Keep outputs, one for each of the roles, of places (row, step, evaluation, call), copied at once.

        A patch may call twice in an evaluation, hence the call's number.
        """
        for role, values in zip(roles, torch.stack(list(results)).cpu()):
            for (row, *place), value in zip(places, values):
                self.cache.put((self.row_keys[row], *place, role), value)

    def _evaluate(self, executor, model, given, call, roles, x, timestep, model_options, outputs):
        """Evaluate the rows of a call and return True; False when memory does not suffice for so many."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        results = self._tried(
            executor,
            model,
            [
                None if not role.evaluated else cond if role is Role.FOREIGN else self._stack(call, role)
                for cond, role in zip(given, roles)
            ],
            x.index_select(0, call.filled),
            timestep.index_select(0, call.filled),
            model_options,
        )
        if results is None:
            comfy.model_management.soft_empty_cache()
            return False
        results = [result[: len(call.rows)] for result in results]
        for output, result, role in zip(outputs, results, roles):
            if role.evaluated:
                output.index_copy_(0, call.index, result)
                self.rows += len(call.rows)
        if self.cache is not None:
            here = [number for number, role in enumerate(roles) if role.evaluated]
            here = [number for number in here if roles[number] is not Role.FOREIGN]
            if here:
                self._keep(
                    [(row, self.step, self.evaluation, self.call) for row in call.rows],
                    [roles[number] for number in here],
                    [results[number] for number in here],
                )
        self.calls += 1
        self.progress(self.rows + self.served)
        return True

    def _stack(self, call, role):
        """Return the rows' conditioning: one for all, or prompts stacked, such as [rows, tokens, width]."""
        names = [
            _key(number) if role is Role.POSITIVE else self._negative_of(number) for number in call.numbers
        ]
        first = self.conds[names[0]]
        if call.places is None or len(set(names)) == 1:
            return first
        stacked = {
            part: type(cond)(cond.cond.index_select(0, call.places))
            for part, cond in self._bank(call.numbers[0], role).items()
        }
        return [{**first[0], "model_conds": stacked}]

    def _bank(self, number, role):
        """Return the prompts of all attributes that share calls with one, made once for a run."""
        group = self.banks[number][0]
        if (group, role) not in self.stacked:
            names = [
                _key(member) if role is Role.POSITIVE else self._negative_of(member)
                for member in self.members[group]
            ]
            parts = [self.conds[name][0]["model_conds"] for name in names]
            self.stacked[group, role] = {
                part: type(cond)(torch.cat([others[part].cond for others in parts]))
                for part, cond in parts[0].items()
            }
        return self.stacked[group, role]

    def _negative_of(self, number):
        """Return the key of an attribute's negative prompt: the neutral's own where they are the same."""
        return _negative(_key(number)) if number in self.different else "negative"


def out_of_memory(error):
    """Whether the device is out of memory; newer versions of core know more such errors."""
    known = getattr(comfy.model_management, "is_oom", None)
    return isinstance(error, comfy.model_management.OOM_EXCEPTION) or bool(known and known(error))


def _unpatched(options):
    """Whether a MODEL has no patch that could see which step a batch belongs to; weights may be patched."""
    rest = {
        key: value
        for key, value in options.items()
        if key not in ("transformer_options", "torch_compile_kwargs")
    }
    return not any(rest.values()) and not any(options.get("transformer_options", {}).values())


def _scaled_dot_product(attention, *args, **kwargs):
    """On a CPU core chooses sub-quadratic attention, which takes a sixth longer at these sizes.

    There a single call of a full-size model takes many seconds; a cancel is heard within it.
    """
    comfy.model_management.throw_exception_if_processing_interrupted()
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def _plain_attention(attention, *args, **kwargs):
    """The same for a compiled model, whose graph the question after a cancel would cut."""
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def _move_prompt(cond, device):
    """Keep a prompt where the latents are: core leaves it on the CPU and sends it up in every call."""
    cond["model_conds"] = {
        name: type(part)(part.cond.to(device)) if _is_dealt_by_row(part) else part
        for name, part in cond.get("model_conds", {}).items()
    }


def _is_dealt_by_row(part):
    """Whether core deals a part of a conditioning out by row, so that rows of several can stand in one."""
    known = type(part) in (comfy.conds.CONDRegular, comfy.conds.CONDCrossAttn)
    return known and isinstance(part.cond, torch.Tensor) and part.cond.ndim > 0


def _key(number):
    return "positive" if number == NEUTRAL else f"attribute {number}"


def _negative(key):
    return "negative" if key == "positive" else f"{key} negative"


def _plain(conds):
    """Return the shapes of a conditioning that is one prompt and nothing else, else an empty tuple.

    Those of the same shapes share a call. Stable Diffusion XL has the pooled text and the picture's size, as
    ``y``, beside the prompt.
    """
    if len(conds) != 1 or any(conds[0].get(key) is not None for key in PER_CONDITIONING):
        return ()
    parts = conds[0]["model_conds"]
    if not all(_is_dealt_by_row(part) and len(part.cond) == 1 for part in parts.values()):
        return ()
    return tuple(sorted((name, type(part).__name__, tuple(part.cond.shape)) for name, part in parts.items()))


def _same(first, second):
    """Whether two conditionings, processed from one, have stayed the same."""
    own = {"model_conds", "uuid"}
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(a[key] is b[key] for key in a.keys() - own)
        for a, b in zip(first, second)
    )


def _refuse_batch(conditioning, name):
    """Raises ValueError for what core would deal out by place in the batch: a place is a row here."""
    for tensor, options in conditioning:
        control, hints = options.get("control"), 1
        while control is not None:
            if isinstance(getattr(control, "cond_hint_original", None), torch.Tensor):
                hints = max(hints, len(control.cond_hint_original))
            control = getattr(control, "previous_controlnet", None)
        mask = options.get("mask")
        masks = len(mask) if mask is not None and mask.ndim > 2 else 1
        for count, what in (
            (len(tensor), "prompts in one batch"),
            (hints, "ControlNet images"),
            (masks, "masks"),
        ):
            if count > 1:
                raise ValueError(
                    f"{name}: its conditioning has {count} {what}; a traversal takes one for all patients, "
                    "so give one."
                )


class TraversalSampler(comfy.samplers.KSAMPLER):
    """A ComfyUI sampler that tells the guider which step it is in.

    A sampler with one evaluation a step runs as it is, the step read off σ. One with several, and no history,
    runs step by step. ``noise_sampler`` draws a patient's noise once for all its rows. ``from_full_noise``
    starts from noise·sqrt(1 + σ²) also where the first σ, as diffusers' 981, is not σ_max; core's own
    schedulers start as core does. ``projected`` (a ``ProjectedPatients``) takes the place of all this: rows
    then start from images.
    """

    def __init__(self, sampler, guider, stepwise, noise_sampler=None, from_full_noise=False, projected=None):
        extra = {**sampler.extra_options, **({"noise_sampler": noise_sampler} if noise_sampler else {})}
        super().__init__(sampler.sampler_function, extra, sampler.inpaint_options)
        self.inner, self.guider, self.from_full_noise = sampler.sampler_function, guider, from_full_noise
        self.sampler_function = self._by_step if stepwise else self._whole
        if projected is not None:
            self.projected, self.sampler_function = projected, self._from_images

    def max_denoise(self, model_wrap, sigmas):
        return self.from_full_noise or super().max_denoise(model_wrap, sigmas)

    def sample(
        self,
        model_wrap,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        disable_pbar=False,
    ):
        self.guider.process_attributes(noise, latent_image, denoise_mask, extra_args.get("seed"))
        return super().sample(
            model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
        )

    def _whole(self, model, x, sigmas, **kwargs):
        def located(x, sigma, **kwargs):
            self.guider.enter(int((sigmas[:-1] - sigma.flatten()[0]).abs().argmin()), 0)
            return model(x, sigma, **kwargs)

        return self.inner(_Denoiser(model, located), x, sigmas, **kwargs)

    def _from_images(self, model, x, sigmas, extra_args=None, callback=None, disable=None, **kwargs):
        """Take Euler's step, which is DDIM's, from the path of `medtraverse.projection`."""
        guider, source, extra = self.guider, self.projected, extra_args or {}
        latents, first = source.latents.to(x), projection.first_step(guider.plan.swap_steps)
        levels = sigmas.double().tolist()

        def alone(step, states, sigma):
            guider.enter(step, 0)
            guidance, guider.cfg = guider.cfg, 1.0
            try:
                return guider.predict_beside(model, states, states.new_full([len(states)], sigma), **extra)
            finally:
                guider.cfg = guidance

        def denoised(step, states, sigma):
            guider.enter(step, 0)
            return model(states, states.new_full([len(states)], sigma), **extra)

        def told(step, states, prediction):
            if callback is not None:
                callback(
                    {"i": step, "x": states, "denoised": prediction, "sigma": sigmas[step]}
                    | {"sigma_hat": sigmas[step]}
                )

        path = source.path(latents, sigmas, first, alone)
        guider.look_ahead(model, path, levels, **extra)
        return projection.branched(
            denoised, path.__getitem__, latents, sigmas, guider.plan, source.mask, told
        )

    def _by_step(self, model, x, sigmas, callback=None, **kwargs):
        for step in range(len(sigmas) - 1):
            evaluations = itertools.count()

            def located(x, sigma, step=step, evaluations=evaluations, **kwargs):
                self.guider.enter(step, next(evaluations))
                return model(x, sigma, **kwargs)

            shifted = callback and (lambda state, step=step: callback({**state, "i": step}))
            # Not a progress bar on the console for every step.
            x = self.inner(
                _Denoiser(model, located),
                x,
                sigmas[step : step + 2],
                callback=shifted,
                **{**kwargs, "disable": True},
            )
        return x


class _Denoiser:
    """The model as k-diffusion samplers see it, called through ``function``."""

    def __init__(self, model, function):
        self._model, self._function = model, function

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self._model, name)

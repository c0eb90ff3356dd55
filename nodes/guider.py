"""Shared-prefix sampling inside ComfyUI's own machinery.

The latents of all rows go through an unchanged ComfyUI sampler from first step to last, so multistep history, previews and
patches see full batches. What is shared are U-Net evaluations: a wrapper around ``calc_cond_batch`` sends only the distinct
rows of a step (``Plan.sources``) to the U-Net, in chunks, and copies the results to the rows that they serve.
"""

import comfy.conds
import comfy.model_management
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch

from ..medtraverse.traversal import NEUTRAL

WRAPPERS = comfy.patcher_extension.WrappersMP
PER_CONDITIONING = ("control", "hooks", "area", "mask", "gligen", "timestep_start", "timestep_end", "default", "strength")


class TraversalGuider(comfy.samplers.CFGGuider):
    """CFGGuider over the rows of a ``Plan``; ``step`` is the step that the sampler is in, set by TraversalSampler."""

    def __init__(self, model, plan, steps, rows_per_call, progress):
        super().__init__(model)
        self.plan, self.steps, self.rows_per_call, self.progress = plan, steps, rows_per_call, progress
        self.row_attribute = plan.attribute()
        self.step, self.sharing = 0, True
        self.evaluated_rows = self.calls = 0

    def set_traversal(self, neutral, attributes, negative):
        """Set the conditionings: one neutral, one per attribute, one negative."""
        conds = {"positive": neutral, "negative": negative}
        for number, attribute in enumerate(attributes):
            conds[_key(number)] = attribute
            conds[_key(number) + " negative"] = _with_control_of(attribute, negative)
        self.inner_set_conds(conds)

    def sample(self, *args, **kwargs):
        original = self.model_options
        self.model_options = comfy.model_patcher.create_model_options_clone(original)
        add = comfy.patcher_extension.add_wrapper_with_key
        add(WRAPPERS.CALC_COND_BATCH, "medtraverse", self._distinct_rows, self.model_options, is_model_options=True)
        add(WRAPPERS.PREPARE_SAMPLING, "medtraverse", self._memory_of_one_call, self.model_options, is_model_options=True)
        try:
            return super().sample(*args, **kwargs)
        finally:
            self.model_options = original

    def _memory_of_one_call(self, executor, model, noise_shape, conds, *args, **kwargs):
        """Ask for the memory of one call: core would estimate it from all rows."""
        rows = min(noise_shape[0], self.rows_per_call)
        return executor(model, [rows, *noise_shape[1:]], conds, *args, **kwargs)

    def _distinct_rows(self, executor, model, conds, x, timestep, model_options):
        roles = [self._role(cond) for cond in conds]
        if None in roles or len(x) != self.plan.rows:
            return executor(model, conds, x, timestep, model_options)
        conditional, unconditional = self.plan.sources(self.step, self.steps)
        if not self.sharing:
            unconditional = conditional
        shared = unconditional.unique()
        only_conditional = conditional.unique()
        only_conditional = only_conditional[~torch.isin(only_conditional, shared)]
        outputs = [torch.zeros_like(x) for _ in conds]
        for rows, wanted in ((shared, roles), (only_conditional, ["skip" if role == "negative" else role for role in roles])):
            for keys, group in self._groups(rows):
                for chunk in group.split(self.rows_per_call):
                    self._evaluate(executor, model, keys, chunk, wanted, x, timestep, model_options, outputs)
        served = {"positive": conditional, "negative": unconditional, "none": torch.arange(len(x))}
        return [output[served[role].to(x.device)] for output, role in zip(outputs, roles)]

    def _role(self, cond):
        if cond is None:
            return "none"
        return next((role for role in ("positive", "negative") if cond is self.conds.get(role)), None)

    def _groups(self, rows):
        """Split rows into those that one call can serve: all with plain prompts together, others by their conditioning."""
        attribute = torch.where(self.step <= self.plan.swap_step(self.steps)[rows], NEUTRAL, self.row_attribute[rows])
        keys = {int(number): _key(int(number)) for number in attribute.unique()}
        plain = [number for number, key in keys.items() if _plain(self.conds[key]) and _plain(self.conds[_negative(key)])]
        groups = [plain] * bool(plain) + [[number] for number in keys if number not in plain]
        for numbers in groups:
            mask = torch.isin(attribute, torch.tensor(numbers))
            yield {int(row): keys[int(number)] for row, number in zip(rows[mask], attribute[mask])}, rows[mask]

    def _evaluate(self, executor, model, keys, rows, roles, x, timestep, model_options, outputs):
        """Evaluate rows; when the device runs out of memory, go on with half as many a call."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        conds = [None if role in ("none", "skip") else self._stack([keys[int(row)] for row in rows], role) for role in roles]
        index = rows.to(x.device)
        try:
            results = executor(model, conds, x[index], timestep[index], model_options)
        except comfy.model_management.OOM_EXCEPTION:
            if len(rows) == 1:
                raise
            results = None
        if results is None:
            comfy.model_management.soft_empty_cache()
            self.rows_per_call = (len(rows) + 1) // 2
            for half in rows.split(self.rows_per_call):
                self._evaluate(executor, model, keys, half, roles, x, timestep, model_options, outputs)
            return
        for output, result, cond in zip(outputs, results, conds):
            if cond is not None:
                output[index] = result
                self.evaluated_rows += len(rows)
        self.calls += 1
        self.progress(self.evaluated_rows)

    def _stack(self, keys, role):
        """Return the conditioning of the rows: one for all, or a stack [rows, tokens, width] of their prompts."""
        names = [key if role == "positive" else _negative(key) for key in keys]
        first = self.conds[names[0]]
        if len(set(names)) == 1:
            return first
        tensors = {name: self.conds[name][0]["model_conds"]["c_crossattn"].cond for name in set(names)}
        longest = max(tensor.shape[1] for tensor in tensors.values())
        tensors = {name: tensor.repeat(1, longest // tensor.shape[1], 1) for name, tensor in tensors.items()}
        stacked = torch.cat([tensors[name] for name in names])
        return [{**first[0], "model_conds": {**first[0]["model_conds"], "c_crossattn": comfy.conds.CONDCrossAttn(stacked)}}]


def _key(number):
    return "positive" if number == NEUTRAL else f"attribute {number}"


def _negative(key):
    return "negative" if key == "positive" else f"{key} negative"


def _plain(conds):
    """Whether a conditioning is one prompt and nothing else, so that it can share a call with other prompts."""
    if len(conds) != 1 or any(conds[0].get(key) is not None for key in PER_CONDITIONING):
        return False
    model_conds = conds[0]["model_conds"]
    return set(model_conds) == {"c_crossattn"} and model_conds["c_crossattn"].cond.shape[:2] == (1, 77)


def _with_control_of(attribute, negative):
    """Return the negative that core would use beside this attribute: a ControlNet may apply to both."""
    control = [c for _, c in attribute if c.get("control_apply_to_uncond") and "control" in c]
    if not control:
        return negative
    fields = {"control": control[0]["control"], "control_apply_to_uncond": True}
    return [[tensor, options if "control" in options else {**options, **fields}] for tensor, options in negative]


class TraversalSampler(comfy.samplers.KSAMPLER):
    """A ComfyUI sampler that tells the guider which step it is in.

    A sampler with one evaluation a step runs as it is, the step read off σ. One with several, and no history, runs step by
    step. ``noise_sampler`` draws a patient's noise once for all its rows.
    """

    def __init__(self, sampler, guider, stepwise, noise_sampler=None):
        extra = {**sampler.extra_options, **({"noise_sampler": noise_sampler} if noise_sampler else {})}
        super().__init__(sampler.sampler_function, extra, sampler.inpaint_options)
        self.inner, self.guider, self.stepwise = sampler.sampler_function, guider, stepwise
        self.sampler_function = self._by_step if stepwise else self._whole

    def max_denoise(self, model_wrap, sigmas):
        """Start from noise·sqrt(1 + σ²) also where σ(981) is not σ_max, as diffusers' DDIM does."""
        return True

    def _whole(self, model, x, sigmas, **kwargs):
        def located(x, sigma, **kwargs):
            self.guider.step = int((sigmas[:-1] - sigma.flatten()[0]).abs().argmin())
            return model(x, sigma, **kwargs)

        return self.inner(_Denoiser(model, located), x, sigmas, **kwargs)

    def _by_step(self, model, x, sigmas, callback=None, **kwargs):
        for step in range(len(sigmas) - 1):
            self.guider.step, first = step, [True]

            def located(x, sigma, **kwargs):
                self.guider.sharing, first[0] = first[0], False
                return model(x, sigma, **kwargs)

            shifted = callback and (lambda state, step=step: callback({**state, "i": step}))
            x = self.inner(_Denoiser(model, located), x, sigmas[step:step + 2], callback=shifted, **kwargs)
        return x


class _Denoiser:
    """The model as k-diffusion samplers see it, called through ``function``."""

    def __init__(self, model, function):
        self._model, self._function = model, function

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self._model, name)

"""A trajectory of the demo model, sampled by the pack as its node does, for what measures the rest."""

from dataclasses import dataclass

from benchmarks.host import Host
from benchmarks.methods import CFG, encode
from medtraverse.trajectory import Trajectory
from medtraverse.traversal import parse_swap_steps

SHARES = "90%,80%,70%,60%,50%,40%,30%,20%,10%"
FIRST_SEED = 1500


@dataclass(frozen=True)
class Setting:
    """A sampler, its scheduler and number of steps."""

    sampler: str
    scheduler: str
    steps: int
    compiled: bool = False


PAPER = Setting("ddim", "diffusers_ddim", 50)


def sampled(host: Host, setting: Setting, patients: int, attributes: int, shares: str = SHARES) -> Trajectory:
    """Return a trajectory; under ``settings["unet"]`` is what it cost."""
    from medtraverse_pack.medtraverse.traversal import TraversalSettings
    from medtraverse_pack.nodes.run_traversal import Conditionings, traverse

    chosen = host.domain.attributes[:attributes]
    name, neutral = host.domain.neutral()
    settings = TraversalSettings(
        seed=FIRST_SEED,
        patients=patients,
        steps=setting.steps,
        cfg=CFG,
        sampler=setting.sampler,
        scheduler=setting.scheduler,
        swap_steps=parse_swap_steps(shares, setting.steps),
        noise="cpu",
        width=8 * host.latent[2],
        height=8 * host.latent[1],
        domain=host.domain.name,
        neutral=name,
        neutral_prompt=neutral,
        prompts=tuple((attribute.name, attribute.prompt) for attribute in chosen),
    )
    conditionings = Conditionings(
        encode(host, neutral),
        tuple(encode(host, attribute.prompt) for attribute in chosen),
        encode(host, ""),
    )
    latents, cost = traverse(host.model, conditionings, settings, compile_unet=setting.compiled)
    return Trajectory(
        latents,
        settings.plan.index(),
        settings.seeds,
        settings.attributes,
        tuple(attribute.colour for attribute in chosen),
        tuple(attribute.labels for attribute in chosen),
        ("neutral", *map(str, settings.swap_steps)),
        neutral=name,
        settings={**settings.report(), "unet": cost},
    )

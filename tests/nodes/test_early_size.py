"""A workflow whose images no memory holds is refused by the sampler, with a number, before it samples."""

import pytest

SAMPLER = {"1": {"class_type": "PromptSwapKSampler", "inputs": {}}}
CURVE = {"class_type": "BezierLatentInterpolate", "inputs": {"source": ["1", 1], "frames": 50}}
SELECT = {
    "class_type": "TrajectorySelect",
    "inputs": {"trajectory": ["2", 1], "patients": 10, "attributes": "a", "points": "30-49"},
}


def decode(source):
    return {"class_type": "VAEDecode", "inputs": {"samples": source, "vae": ["9", 2]}}


@pytest.fixture
def check(pack, node_classes):
    """``check(graph, gigabytes, asked)``: 1,000 patients, 2 attributes and 9 λ at 512²."""
    settings = pack.medtraverse.traversal.TraversalSettings(
        seed=0,
        patients=1000,
        steps=50,
        cfg=7.5,
        sampler="ddim",
        scheduler="diffusers_ddim",
        swap_steps=tuple(range(5, 50, 5)),
        noise="cpu",
        width=512,
        height=512,
        domain="CheXpert",
        neutral="neutral",
        neutral_prompt="n",
        prompts=(("a", "a"), ("b", "b")),
    )

    def call(graph, gigabytes, asked=None):
        pack.nodes.early_size.check_size(graph, "1", settings, 4, asked, int(gigabytes * 1e9))

    return call


def test_images_are_counted_along_the_way(check):
    """Rows times bytes by hand: 19,000 latents of 65,536 bytes, images of 3 MiB."""
    latents, image = 19_000 * 65_536, 3 * 2**20
    curves = 65_536 * (100_000 + 10 * 21)  # a point of a selection is the neutral
    for graph, total in (
        ({**SAMPLER}, latents),
        ({**SAMPLER, "5": decode(["1", 0])}, latents + 19_000 * image),
        ({**SAMPLER, "2": CURVE, "3": SELECT, "5": decode(["3", 0])}, latents + curves + 210 * image),
        ({**SAMPLER, "5": decode(["8", 0])}, latents),
    ):
        check(graph, total / 1e9 + 0.001)
        with pytest.raises(ValueError, match=r"^patients: 1,000 make .* of memory where .* are free; use"):
            check(graph, total / 1e9 - 0.001)


def test_the_message_has_the_numbers_and_the_way_out(check):
    with pytest.raises(ValueError, match=r"19,000 images of 512×512, 61 GB of memory where 8\.0 GB are free"):
        check({**SAMPLER, "5": decode(["1", 0])}, 8)


def test_what_this_run_is_not_for_is_not_counted(check):
    graph = {
        **SAMPLER,
        "5": decode(["1", 0]),
        "6": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}},
    }
    check(graph, 8, asked={"6"})
    with pytest.raises(ValueError, match="61 GB"):
        check(graph, 8, asked={"5"})


def test_the_sampler_asks_before_it_samples(traverse):
    """100,000 patients at 4096²: 400 GB and more of latents alone."""
    with pytest.raises(ValueError, match=r"^patients: 100,000 make [\d,]+ latents, [\d,]+ GB of memory"):
        traverse(patients=100_000, swap_steps="45,40,35", width=4096, height=4096)

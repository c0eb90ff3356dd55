"""What only an NVIDIA card shows, through a live server: main.py sets what a process of its own would not."""

import pytest
import torch

from launcher.comfyui import start_server
from medtraverse.remote.client import Client

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA card")


@pytest.mark.parametrize("arguments", [[], ["--gpu-only"], ["--force-fp16"]])
def test_a_run_on_the_card(tmp_path, graph, arguments):
    loaded, sampled = graph.traversal()
    graph[sampled.id]["inputs"].update(vae=loaded[2], noise="gpu", patients=2)
    images = graph.add("VAEDecode", samples=sampled[0], vae=loaded[2])
    grid = graph.add(
        "TrajectoryGrid",
        trajectory=sampled[1],
        images=images[0],
        max_patients=2,
        frames_shown=5,
        title="",
        dpi=50,
    )
    # A plain LATENT, which --gpu-only keeps on the card.
    plain = graph.add("VAEEncode", pixels=images[0], vae=loaded[2])
    curve = graph.add(
        "BezierLatentInterpolate", source=plain[0], frames=4, method="bezier", spacing="parameter"
    )
    mapped = graph.add("LatentTSNE", trajectory=curve[1], perplexity=0.0, seed=500, thumbnails=False)
    with start_server(base=tmp_path, cpu=False, arguments=arguments) as url:
        client = Client(url)
        version = tuple(map(int, client.versions()["comfyui"].split(".")[:2]))
        result = client.run(graph, timeout=300)
        for node in (grid, mapped):
            assert result.files(node.id)
    log = (tmp_path / "server.log").read_text(encoding="utf-8")
    assert "Device: cuda" in log
    if version >= (0, 33) and "--gpu-only" not in arguments:
        assert "DynamicVRAM support detected" in log

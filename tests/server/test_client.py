"""The client against a real server, on core nodes alone."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from medtraverse.remote.client import Client, GraphRejected, NodeFailed, RunInterrupted


def test_runs_a_graph_and_fetches_its_picture(client, graph):
    image = graph.add("EmptyImage", width=24, height=16, batch_size=2, color=0x204060)
    saved = graph.add("SaveImage", images=image[0], filename_prefix="client")
    seen = []
    result = client.run(graph, seen.append)
    files = result.files(saved.id)
    assert len(files) == 2
    picture = np.asarray(Image.open(io.BytesIO(client.fetch(files[0]))))
    assert picture.shape == (16, 24, 3)
    assert (picture == (0x20, 0x40, 0x60)).all()
    assert {step.node_type for step in seen} == {"EmptyImage", "SaveImage"}
    assert seen[-1].finished == 1 and seen[-1].nodes == 2
    assert result.seconds > 0


def test_the_second_run_is_cached(client, graph):
    image = graph.add("EmptyImage", width=40, height=40, batch_size=1, color=1)
    graph.add("PreviewImage", images=image[0])
    assert image.id not in client.run(graph).cached
    assert image.id in client.run(graph).cached


def test_uploads_an_image(client, graph):
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(data, "PNG")
    loaded = graph.add("LoadImage", image=client.upload_image("uploaded.png", data.getvalue()))
    shown = graph.add("PreviewImage", images=loaded[0])
    picture = Image.open(io.BytesIO(client.fetch(client.run(graph).files(shown.id)[0])))
    assert picture.getpixel((0, 0)) == (1, 2, 3)


def test_an_invalid_input_is_named(client, graph):
    image = graph.add("EmptyImage", width=-5, height=16, batch_size=1, color=0)
    graph.add("PreviewImage", images=image[0])
    with pytest.raises(GraphRejected, match="EmptyImage.*width") as caught:
        client.run(graph)
    assert list(caught.value.node_errors) == [image.id]


def test_one_invalid_output_of_two_is_an_error_as_well(client, graph):
    good = graph.add("EmptyImage", width=16, height=16, batch_size=1, color=0)
    graph.add("PreviewImage", images=good[0])
    bad = graph.add("EmptyImage", width=-5, height=16, batch_size=1, color=0)
    graph.add("PreviewImage", images=bad[0])
    with pytest.raises(GraphRejected, match="width"):
        client.submit(graph)


def test_an_unknown_node_is_named(client, graph):
    graph.add("NoSuchNode")
    with pytest.raises(GraphRejected, match="NoSuchNode"):
        client.submit(graph)


def test_a_node_that_raises_is_named_with_its_message(client, graph):
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    broken = graph.add("LatentUpscaleBy", samples=latent[0], upscale_method="nearest-exact", scale_by=0.01)
    graph.add("SaveLatent", samples=broken[0], filename_prefix="broken")
    with pytest.raises(NodeFailed, match="LatentUpscaleBy") as caught:
        client.run(graph)
    assert caught.value.node_id == broken.id
    assert caught.value.exception_message
    assert "Traceback" in caught.value.traceback or "File" in caught.value.traceback


def test_a_waiting_run_can_be_cancelled(client, graph):
    slow, queued = client.submit(_slow(graph, seed=1)), client.submit(_slow(type(graph)(), seed=2))
    client.cancel(queued)
    with pytest.raises(RunInterrupted):
        client.wait(queued, timeout=10)
    assert not any(queued in ids for ids in client.queue())
    client.cancel(slow)
    with pytest.raises(RunInterrupted):
        client.wait(slow, timeout=60)


def test_a_run_that_takes_too_long_is_cancelled(client, graph):
    with pytest.raises(TimeoutError):
        client.run(_slow(graph, seed=3), timeout=1)
    deadline = time.monotonic() + 60
    while any(client.queue()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_run_tells_that_another_cancelled_it(client, graph):
    def cancel():
        while not client.queue()[0]:
            time.sleep(0.05)
        client.cancel(client.queue()[0][0])

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(RunInterrupted):
        client.run(_slow(graph, seed=4), timeout=60)
    canceller.join()


def test_no_server_is_a_connection_error():
    with pytest.raises(ConnectionError, match="127.0.0.1:9"):
        Client("http://127.0.0.1:9").queue()


def _slow(graph, seed):
    """A chain of nodes, some tenths of a second each: a run can be interrupted between two of them."""
    image = graph.add("EmptyImage", width=700, height=700, batch_size=1, color=seed)
    for _ in range(100):
        image = graph.add("ImageBlur", image=image[0], blur_radius=31, sigma=10.0)
    graph.add("PreviewImage", images=image[0])
    return graph

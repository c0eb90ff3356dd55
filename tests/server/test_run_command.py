"""`python -m medtraverse run` against a real server: what it fetches, what it prints and how it exits."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image

from launcher.comfyui import PACK


@pytest.fixture
def command(server, tmp_path):
    """Start the command in a folder of its own; `wait=False` gives the running process."""

    def run(*arguments, url=server, wait=True):
        process = subprocess.Popen(
            [sys.executable, "-m", "medtraverse", "run", *map(str, arguments), "--server", url],
            cwd=tmp_path,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": str(PACK), "PYTHONIOENCODING": "utf-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return finish(process) if wait else process

    return run


def finish(process, timeout=200):
    try:
        process.stdout, process.stderr = map(str, process.communicate(timeout=timeout))
    finally:
        if process.poll() is None:
            process.kill()
    return process


def saved(path, graph):
    path.write_text(json.dumps(graph), encoding="utf-8")
    return path


def picture(graph, **inputs):
    """A picture, saved; returns the graph."""
    image = graph.add(
        "EmptyImage", **{"width": 24, "height": 16, "batch_size": 2, "color": 0x204060, **inputs}
    )
    graph.add("SaveImage", images=image[0], filename_prefix="run/command")
    return graph


def slow(graph, seed=1, blurs=100):
    """About a second for each blur."""
    image = graph.add("EmptyImage", width=700, height=700, batch_size=1, color=seed)
    for _ in range(blurs):
        image = graph.add("ImageBlur", image=image[0], blur_radius=31, sigma=10.0)
    graph.add("PreviewImage", images=image[0])
    return graph


UI = {
    "version": 0.4,
    "nodes": [
        {
            "id": 1,
            "type": "EmptyImage",
            "widgets_values": [24, 16, 2, 0x204060],
            "inputs": [],
            "outputs": [{"type": "IMAGE", "links": [1]}],
        },
        {
            "id": 2,
            "type": "Reroute",
            "inputs": [{"name": "", "type": "*", "link": 1}],
            "outputs": [{"type": "IMAGE", "links": [2]}],
        },
        {
            "id": 3,
            "type": "SaveImage",
            "title": "Keep",
            "widgets_values": ["run/ui"],
            "inputs": [{"name": "images", "type": "IMAGE", "link": 2}],
        },
        {"id": 4, "type": "Note", "widgets_values": ["a note"]},
    ],
    "links": [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 3, 0, "IMAGE"]],
}


@pytest.mark.parametrize("form", ["api", "ui"])
def test_both_formats_run_and_their_pictures_are_fetched(form, command, graph, tmp_path):
    path = saved(tmp_path / "flow.json", UI if form == "ui" else picture(graph))
    done = command(path, "--set", "EmptyImage.width=32")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "output" / "flow"
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert {item["file"] for item in record["outputs"]} == {item.name for item in out.iterdir()} - {
        "run.json"
    }
    assert len(record["outputs"]) == 2
    for item in record["outputs"]:
        shown = Image.open(out / item["file"])
        assert shown.size == (32, 16) and shown.getpixel((0, 0)) == (0x20, 0x40, 0x60)
    assert record["versions"]["comfyui"] and record["settings"]["set"] == ["EmptyImage.width=32"]
    assert record["graph"]["1"]["inputs"]["width"] == 32 and "clinical" in record["notice"]
    assert "2/2 " + ("Keep" if form == "ui" else "SaveImage") + "  100 %" in done.stdout


def test_json_is_all_that_stdout_holds(command, graph, tmp_path):
    done = command(saved(tmp_path / "flow.json", picture(graph)), "--json", "--out", "here")
    report = json.loads(done.stdout)
    assert report["status"] == "done" and report["out"] == "here" and len(report["runs"][0]["files"]) == 2
    assert "SaveImage" in done.stderr


def test_the_same_again_is_not_run_again_and_another_goes_beside_it(command, client, graph, tmp_path):
    path = saved(tmp_path / "flow.json", picture(graph))
    assert command(path).returncode == 0
    ran = set(client.get("/history"))
    again = command(path)
    assert again.returncode == 0 and "done already" in again.stdout and set(client.get("/history")) == ran
    assert command(path, "--set", "EmptyImage.color=3").returncode == 0
    assert (tmp_path / "output" / "flow-2" / "run.json").is_file()
    refused = command(path, "--set", "EmptyImage.color=4", "--out", "output/flow")
    assert refused.returncode == 2 and "another graph" in refused.stderr


def test_seeds_are_run_one_after_another_and_what_is_done_stays(command, tmp_path):
    settings = [
        part
        for value in (
            "PromptSwapKSampler.steps=4",
            "PromptSwapKSampler.swap_steps=2",
            "PromptSwapKSampler.patients=2",
        )
        for part in ("--set", value)
    ]
    source = json.loads(
        (PACK / "workflows" / "api" / "02-fig3-swap-grid-chexpert.json").read_text(encoding="utf-8")
    )
    ids = {node["class_type"]: key for key, node in source.items()}
    keep = {
        ids[name]: source[ids[name]]
        for name in ("MedicalCheckpointLoader", "MedicalAttributePrompts", "PromptSwapKSampler", "VAEDecode")
    }
    keep["show"] = {
        "class_type": "PreviewImage",
        "inputs": {"images": [ids["VAEDecode"], 0]},
        "_meta": {"title": "Show"},
    }
    path = saved(tmp_path / "seeds.json", keep)
    first = command(path, "--seeds", "10-12", "--out", "all", *settings)
    assert first.returncode == 0, first.stderr
    graphs = {
        name: json.loads((tmp_path / "all" / name / "run.json").read_text(encoding="utf-8"))["graph"][
            ids["PromptSwapKSampler"]
        ]["inputs"]
        for name in ("10-11", "12")
    }
    assert {name: (inputs["seed"], inputs["patients"]) for name, inputs in graphs.items()} == {
        "10-11": (10, 2),
        "12": (12, 1),
    }
    (tmp_path / "all" / "12" / "run.json").unlink()
    before = (tmp_path / "all" / "10-11" / "run.json").stat().st_mtime_ns
    second = command(path, "--seeds", "10-12", "--out", "all", *settings)
    assert second.returncode == 0 and "10-11: done already" in second.stdout
    assert (tmp_path / "all" / "12" / "run.json").is_file() and (
        tmp_path / "all" / "10-11" / "run.json"
    ).stat().st_mtime_ns == before


def test_texts_and_reports_become_files(command, graph, tmp_path):
    shown = graph.add("PreviewAny", source="point,cfrt\n5,0.9\n")
    shown = shown.id
    graph[shown]["_meta"] = {"title": "Table of points"}
    done = command(saved(tmp_path / "flow.json", graph), "--out", "here")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "Table of points.csv").read_text(encoding="utf-8") == "point,cfrt\n5,0.9\n"


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C cannot be sent to one process there")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_ctrl_c_while_sampling_ends_our_run_and_no_other(sent, command, client, graph, tmp_path):
    process = command(
        "02-fig3-swap-grid-chexpert",
        "--set",
        "PromptSwapKSampler.patients=500",
        "--set",
        "PromptSwapKSampler.seed=990001",
        wait=False,
    )
    until(lambda: client.queue()[0])
    other = client.submit(picture(graph, color=77))
    time.sleep(3)
    process.send_signal(sent)
    done = finish(process, timeout=90)
    assert done.returncode == 130, done.stderr
    assert "cancelled" in done.stderr and "Traceback" not in done.stderr
    assert client.wait(other, timeout=90).outputs
    until(lambda: not any(client.queue()))
    assert not (tmp_path / "output").exists()


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C cannot be sent to one process there")
def test_ctrl_c_takes_a_waiting_run_out_and_lets_the_other_go_on(command, client, graph, tmp_path):
    other = client.submit(slow(graph, 5))
    process = command(saved(tmp_path / "flow.json", picture(type(graph)())), wait=False)
    until(lambda: client.queue()[1])
    process.send_signal(signal.SIGINT)
    assert finish(process, timeout=60).returncode == 130
    assert client.queue() == ([other], [])
    client.cancel(other)


def test_a_run_that_takes_too_long_is_cancelled(command, client, graph, tmp_path):
    done = command(saved(tmp_path / "flow.json", slow(graph, 6)), "--timeout", 1)
    assert done.returncode == 130 and "not done after 1" in done.stderr
    until(lambda: not any(client.queue()))


def test_a_wrong_address_says_so(command, graph, tmp_path):
    done = command(saved(tmp_path / "flow.json", picture(graph)), "--json", url="http://127.0.0.1:9")
    assert done.returncode == 3 and "http://127.0.0.1:9" in done.stderr and "--server" in done.stderr
    assert json.loads(done.stdout)["status"] == "lost"


def test_a_server_that_is_no_comfyui_says_so(command, server, graph, tmp_path):
    done = command(saved(tmp_path / "flow.json", picture(graph)), url=f"{server}/not/there")
    assert done.returncode == 3 and "/not/there" in done.stderr and "Traceback" not in done.stderr


def test_a_rejected_graph_says_which_input_of_which_node(command, graph, tmp_path):
    picture(graph, width=-5)
    graph["1"]["_meta"] = {"title": "Background"}
    done = command(saved(tmp_path / "flow.json", graph))
    assert done.returncode == 2 and "Background (EmptyImage, node 1): width: " in done.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["nothing.json"], "there is no file nothing.json"),
        (["02-fig3-swap-grid-chexpert", "--set", "PromptSwapKSampler.stepz=3"], "did you mean steps"),
        (
            ["02-fig3-swap-grid-chexpert", "--set", "PromptSwapKSampler.scheduler=diffusers"],
            "did you mean diffusers_ddim",
        ),
        (["02-fig3-swap-grid-chexpert", "--seeds", "9-3"], "--seeds"),
        (["02-fig3-swap-grid-chexpert", "--server"], "--server"),
    ],
)
def test_bad_arguments_exit_with_2(arguments, fault, command):
    done = command(*arguments)
    assert done.returncode == 2 and fault in done.stderr and "Traceback" not in done.stderr


def test_a_missing_node_is_named(command, tmp_path):
    flow = json.loads(json.dumps(UI))
    flow["nodes"][1] |= {"type": "FancyFilter", "properties": {"cnr_id": "fancy-pack"}}
    done = command(saved(tmp_path / "flow.json", flow))
    assert done.returncode == 2 and "FancyFilter (node 2, pack fancy-pack)" in done.stderr


def test_a_failing_node_is_named_by_its_title(command, graph, tmp_path):
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    broken = graph.add("LatentUpscaleBy", samples=latent[0], upscale_method="nearest-exact", scale_by=0.01)
    graph.add("SaveLatent", samples=broken[0], filename_prefix="broken")
    graph[broken.id]["_meta"] = {"title": "Make small"}
    done = command(saved(tmp_path / "flow.json", graph), "--json")
    assert done.returncode == 1 and "Make small (LatentUpscaleBy, node 2) failed: " in done.stderr
    assert json.loads(done.stdout)["status"] == "failed"
    assert not (tmp_path / "output").exists()


def test_a_dropped_connection_is_taken_up_again(command, client, server, graph, tmp_path):
    with line_to(server) as (url, drop):
        process = command(
            saved(tmp_path / "flow.json", slow(graph, 8, blurs=8)), "--out", "here", url=url, wait=False
        )
        until(lambda: client.queue()[0])
        time.sleep(1)
        assert drop() > 0
        done = finish(process)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "here").glob("*.png"))) == 1


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def line_to(server):
    """A port that leads to the server, and a call that cuts its connections and says how many they were."""
    address, pairs = ("127.0.0.1", int(server.rsplit(":", 1)[1])), []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection(address)
                pairs.append((near, far))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    def drop():
        cut, pairs[:] = list(pairs), []
        for ends in cut:
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return len(cut)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", drop
    finally:
        listener.close()

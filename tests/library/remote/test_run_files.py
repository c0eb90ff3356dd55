"""Seeds into runs, and outputs into a folder."""

import io
import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtraverse.remote.run_workflow import (
    MARKER,
    Progress,
    file_name,
    finished,
    gather,
    parse_seeds,
    seed_jobs,
    text_suffix,
)

INFO = {
    "KSampler": {"input": {"required": {"seed": ["INT"], "model": ["MODEL"]}}},
    "Other": {"input": {"required": {"size": ["INT"]}}},
}


def sampler(**inputs):
    return {"class_type": "PromptSwapKSampler", "inputs": {"seed": 0, "patients": 8, **inputs}}


@given(st.integers(0, 5000), st.integers(1, 60), st.integers(1, 20))
def test_every_seed_is_run_once(first, count, patients):
    graph = {
        "1": sampler(patients=patients),
        "2": sampler(patients=patients),
        "3": {"class_type": "KSampler", "inputs": {"seed": 5}},
    }
    jobs = seed_jobs(graph, range(first, first + count), INFO)
    for key in "12":
        ran = [
            seed
            for job in jobs.values()
            for seed in range(
                job[key]["inputs"]["seed"], job[key]["inputs"]["seed"] + job[key]["inputs"]["patients"]
            )
        ]
        assert ran == list(range(first, first + count))
    assert all(job["3"] == graph["3"] and job["1"]["inputs"]["patients"] <= patients for job in jobs.values())
    assert len(jobs) == -(-count // patients)
    assert graph["1"] == sampler(patients=patients)


def test_without_the_sampler_every_seed_input_is_set():
    graph = {
        "1": {"class_type": "KSampler", "inputs": {"seed": 3, "model": ["2", 0]}},
        "2": {"class_type": "Other", "inputs": {"size": 1}},
    }
    jobs = seed_jobs(graph, parse_seeds("7-9"), INFO)
    assert {name: job["1"]["inputs"] for name, job in jobs.items()} == {
        name: {"seed": int(name), "model": ["2", 0]} for name in ("7", "8", "9")
    }
    assert all(job["2"] == graph["2"] for job in jobs.values())


@pytest.mark.parametrize(
    "graph",
    [
        {"1": {"class_type": "Other", "inputs": {"size": 1}}},
        {"1": {"class_type": "KSampler", "inputs": {"seed": ["2", 0]}}},
        {"1": sampler(patients=2), "2": sampler(patients=3)},
        {"1": sampler(patients=["2", 0])},
    ],
)
def test_seeds_that_cannot_be_set_are_refused(graph):
    with pytest.raises(ValueError, match="^--seeds: "):
        seed_jobs(graph, range(3), INFO)


@pytest.mark.parametrize("text", ["", "a", "3-", "5-4", "-3", "1,2", "1.5"])
def test_a_bad_range_of_seeds_is_refused(text):
    with pytest.raises(ValueError, match="^--seeds: "):
        parse_seeds(text)


@given(
    st.text()
    | st.sampled_from(
        [
            "../../etc/passwd",
            "..",
            "C:\\x\\..",
            "nul.txt",
            "/",
            ".bashrc",
            "a/../../b.png",
            "x" * 400 + ".png",
        ]
    )
)
def test_no_name_leaves_its_folder(tmp_path_factory, name):
    safe = file_name(name)
    folder = tmp_path_factory.getbasetemp()
    assert (folder / safe).resolve().parent == folder.resolve()
    assert not set(safe) & set('/\\<>:"|?*') and not safe.startswith(".") and len(safe) <= 220
    assert file_name(safe) == safe


def test_a_plain_name_stays():
    assert file_name("medtraverse/CFRT β_00001_.png") == "CFRT β_00001_.png"


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ('{"cfrt": 1}', ".json"),
        ("[1, 2]", ".json"),
        ("a,b\n1,2\n", ".csv"),
        ('"a, b",c\n1,2\n', ".csv"),
        ("3", ".txt"),
        ("one, two", ".txt"),
        ("CFRT\nattribute   0.9\n", ".txt"),
        ("a,b\n1\n", ".txt"),
    ],
)
def test_the_kind_of_a_text_is_told_by_what_is_in_it(text, suffix):
    assert text_suffix(text) == suffix


def test_outputs_are_gathered_and_the_folder_counts_as_finished_for_this_graph_only(tmp_path):
    graph = {"1": {"class_type": "Save", "inputs": {}, "_meta": {"title": "Grid: all"}}}
    files = {"x.png": b"one", "y/x.png": b"two", "run.json": b"three"}
    result = SimpleNamespace(
        prompt_id="p",
        seconds=1.234,
        outputs={
            "1": {
                "images": [
                    {"filename": name.split("/")[-1], "subfolder": name.rpartition("/")[0], "type": "output"}
                    for name in files
                ],
                "text": ("a,b\n1,2\n",),
                "medtraverse": ('{"cfrt": 1}',),
                "animated": (True,),
                "empty": ("",),
                "medtraverse_view": [{"view": "1f.json", "subfolder": "medtraverse", "type": "temp"}],
            }
        },
    )
    client = SimpleNamespace(
        fetch=lambda item: files["/".join(filter(None, (item["subfolder"], item["filename"])))]
    )
    folder = tmp_path / "new" / "deeper"
    assert finished(folder, graph) is None
    record = gather(client, graph, result, folder, {}, {"medtraverse": "0"})
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MARKER} == {
        "x.png": b"one",
        "1-x.png": b"two",
        "1-run.json": b"three",
        "Grid_ all.csv": b"a,b\n1,2\n",
        "Grid_ all.json": b'{"cfrt": 1}',
    }
    assert sorted(item["file"] for item in record["outputs"]) == sorted(
        path.name for path in folder.iterdir() if path.name != MARKER
    )
    assert finished(folder, graph) == record == json.loads((folder / MARKER).read_text(encoding="utf-8"))
    assert "clinical" in record["notice"]
    with pytest.raises(ValueError, match="^--out: .*another graph"):
        finished(folder, {**graph, "2": {}})


def test_a_folder_whose_fetching_broke_off_is_not_finished(tmp_path):
    def fetch(item):
        raise ConnectionError

    graph = {"1": {"class_type": "Save", "inputs": {}}}
    result = SimpleNamespace(
        prompt_id="p", seconds=1, outputs={"1": {"text": ["a"], "images": [{"filename": "x.png"}]}}
    )
    with pytest.raises(ConnectionError):
        gather(SimpleNamespace(fetch=fetch), graph, result, tmp_path, {}, {})
    assert finished(tmp_path, graph) is None


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress(stream, quiet=False):
    graph = {
        "1": {"class_type": "Sample", "inputs": {}, "_meta": {"title": "Traverse"}},
        "2": {"class_type": "Save", "inputs": {}},
    }
    lines = Progress(graph, stream, quiet)
    for node, value, maximum, done in (("1", 0, 1, 0), ("1", 5, 10, 0), ("1", 9, 10, 0), ("2", 0, 1, 1)):
        lines(SimpleNamespace(node_id=node, value=value, maximum=maximum, finished=done, nodes=2))
    lines.end()
    return stream.getvalue()


def test_a_terminal_sees_the_percent_count_up_in_one_line_for_each_node():
    first, second = progress(Terminal()).removesuffix("\n").split("\n")
    assert [part.split()[2] for part in first.strip("\r").split("\r")] == ["0", "50", "90", "100"]
    assert "1/2 Traverse" in first and "2/2 Save" in second


def test_elsewhere_each_node_is_one_line_when_it_is_done():
    lines = progress(io.StringIO()).splitlines()
    assert (
        len(lines) == 2
        and "1/2 Traverse  100 %" in lines[0]
        and "2/2 Save  100 %" in lines[1]
        and lines[1].endswith(" s")
    )


def test_a_run_that_ends_within_a_node_leaves_its_line_and_starts_a_new_one():
    stream = Terminal()
    lines = Progress({"1": {"class_type": "Sample", "inputs": {}}}, stream)
    lines(SimpleNamespace(node_id="1", value=4, maximum=10, finished=0, nodes=1))
    lines.stop()
    assert (
        stream.getvalue().endswith("s\n") and "40 %" in stream.getvalue() and "100 %" not in stream.getvalue()
    )


def test_quiet_says_nothing():
    assert progress(Terminal(), quiet=True) == ""

"""A figure saved by a real server: the PNG is the graph again, and an API client fetches every file."""

import csv
import io
import json

from PIL import Image


def test_a_saved_figure_carries_its_graph_and_its_files_are_fetched(client, graph):
    _, sampled = graph.traversal()
    cosine = graph.add("LatentDirectionCosine", trajectory=sampled[1], published=True)
    saved = graph.add(
        "SaveTraversalFigure",
        drawing=cosine[3],
        filename_prefix="paper/fig5",
        vector="svg",
        table=True,
        dpi=100,
    )
    result = client.run(graph)
    (picture,), (vector, table) = result.files(saved.id), result.files(saved.id, "files")
    assert {(file["type"], file["subfolder"]) for file in (picture, vector, table)} == {("output", "paper")}
    texts = Image.open(io.BytesIO(client.fetch(picture))).info
    assert json.loads(texts["prompt"]) == graph
    assert len(json.loads(texts["medtraverse sha256"])) == 3
    assert json.loads(texts["medtraverse"])["trajectories"][0]["settings"]["swap_steps"] == [2, 1]
    assert client.fetch(vector).startswith(b"<?xml")
    rows = list(csv.DictReader(io.StringIO(client.fetch(table).decode())))
    assert {row["seed"] for row in rows} == {"1500", "mean, from the paper"}

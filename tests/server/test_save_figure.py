"""A figure saved by a real server: the PNG is the graph again, and an API client fetches every file."""

import csv
import io
import json

from PIL import Image


def test_a_saved_figure_carries_its_graph_and_its_files_are_fetched(client, graph):
    loaded = graph.add(
        "MedicalCheckpointLoader",
        checkpoint="MedTraverse demo (phantoms)",
        unet="from checkpoint",
        domain="CheXpert",
    )
    prompts = graph.add(
        "MedicalAttributePrompts",
        clip=loaded[1],
        domain=loaded[3],
        neutral="auto",
        attributes="",
        extra_attributes="",
        neutral_prompt="",
        negative_prompt="",
    )
    sampled = graph.add(
        "PromptSwapKSampler",
        model=loaded[0],
        neutral=prompts[0],
        negative=prompts[1],
        attributes=prompts[2],
        width=0,
        height=0,
        seed=1500,
        patients=1,
        steps=4,
        cfg=7.5,
        sampler="ddim",
        scheduler="diffusers_ddim",
        swap_steps="2,1",
        noise="cpu",
        rows_per_call=0,
        cache_mb=-1,
    )
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

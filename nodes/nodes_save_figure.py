"""SaveTraversalFigure: a drawing as files in ComfyUI's output folder, with the graph and its settings."""

import json
from pathlib import Path
from typing import Any

import comfy.cli_args
from comfy_api.latest import io

from ..medtraverse.figures.drawing import VECTORS, Drawing, write
from .managed import cancellable
from .output_place import output_place
from .schema import schema
from .sockets import CATEGORY, Figure, checked_sockets


class SaveTraversalFigure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            node_id="SaveTraversalFigure",
            display_name="Save Figure",
            category=CATEGORY,
            search_aliases=["save plot", "SVG", "PDF", "CSV"],
            description="Saves a figure for a paper: PNG with graph, settings and hashes in it, SVG or PDF, "
            "and its numbers as CSV, all by one name.",
            inputs=[
                Figure.Input("drawing", tooltip="The drawing of a figure node."),
                io.String.Input(
                    "filename_prefix",
                    default="medtraverse/figure",
                    tooltip="Name within ComfyUI's output folder, folders included; a number is added that "
                    "counts up.",
                ),
                io.Combo.Input(
                    "vector",
                    options=list(VECTORS),
                    default=VECTORS[0],
                    tooltip="Vector file beside the PNG; text in it can be edited.",
                ),
                io.Boolean.Input(
                    "table",
                    default=True,
                    tooltip="CSV beside it: the figure's numbers, or what each cell of a grid shows.",
                ),
                io.Int.Input(
                    "dpi",
                    default=200,
                    min=30,
                    max=600,
                    tooltip="Dots per inch of the PNG, and of photographs in the vector file.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    @checked_sockets
    def execute(cls, drawing: Drawing, filename_prefix: str, vector: str, table: bool, dpi: int) -> Any:
        width, height = (round(inches * dpi) for inches in drawing.figure.get_size_inches())
        folder, name, counter, subfolder = output_place(filename_prefix, width, height, "medtraverse/figure")
        quiet = comfy.cli_args.args.disable_metadata
        files = cancellable(
            lambda _: write(
                drawing,
                Path(folder, f"{name}_{counter:05}_"),
                vector,
                table,
                dpi,
                metadata={} if quiet else None,
                png_metadata={} if quiet else cls.graph(),
            )
        )
        saved = [{"filename": file.name, "subfolder": subfolder, "type": "output"} for file in files]
        return io.NodeOutput(ui={"images": saved[:1], "files": saved[1:]})

    @classmethod
    def graph(cls) -> dict[str, str]:
        """Return ``prompt`` and ``workflow`` as core's SaveImage writes them: the PNG opens as a graph.

        What core noted for its cache (``is_changed``) stays out: other packs' holds paths of the machine.
        """
        if not cls.hidden:
            return {}
        prompt = {
            number: {key: value for key, value in node.items() if key != "is_changed"}
            for number, node in (cls.hidden.prompt or {}).items()
        }
        texts = {"prompt": prompt} if prompt else {}
        return {
            key: json.dumps(value) for key, value in {**texts, **(cls.hidden.extra_pnginfo or {})}.items()
        }

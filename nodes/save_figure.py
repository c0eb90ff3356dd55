"""SaveTraversalFigure: a figure as PNG, vector and table, side by side in ComfyUI's output folder."""

import json
from pathlib import Path

import comfy.cli_args
import folder_paths
from comfy_api.latest import io

from ..medtraverse.figures.drawing import VECTORS
from .sockets import CATEGORY, Figure


class SaveTraversalFigure(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SaveTraversalFigure",
            display_name="Save Figure",
            category=CATEGORY,
            description="Saves a figure as PNG, with its settings, hashes and workflow inside, and beside it as SVG or PDF and its numbers as CSV.",
            inputs=[
                Figure.Input("drawing", tooltip="The output drawing of a figure's node."),
                io.String.Input("filename_prefix", default="medtraverse/figure", tooltip="Folder and beginning of the name, inside ComfyUI's output folder."),
                io.Combo.Input("vector", options=list(VECTORS), default="svg", tooltip="Vector file beside the PNG: svg, pdf or none."),
                io.Boolean.Input("table", default=True, tooltip="Save the figure's numbers as CSV beside it."),
                io.Int.Input("dpi", default=200, min=30, max=1200, tooltip="Dots per inch of the PNG. 100 shows a 128-pixel image pixel for pixel, 300 is for print."),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, drawing, filename_prefix, vector, table, dpi):
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, folder_paths.get_output_directory())
        metadata = {}
        if not comfy.cli_args.args.disable_metadata:
            graph = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
            metadata = {key: json.dumps(value) for key, value in graph.items() if value is not None}
        paths = drawing.save(Path(folder) / f"{name}_{counter:05}_", vector, table, dpi, metadata)
        files = [{"filename": path.name, "subfolder": subfolder, "type": "output"} for path in paths]
        return io.NodeOutput(ui={"images": files[:1], "files": files[1:]})

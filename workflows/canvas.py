"""A workflow laid out on ComfyUI's canvas: titled groups from left to right, written in API and in UI format."""

import uuid

NODE_WIDTH, FIGURE_WIDTH, NOTE_WIDTH = 340, 620, 400
TITLE, SLOT, WIDGET, TEXT_WIDGET, BELOW, GAP, PREVIEW = 30, 20, 24, 110, 16, 26, 380
GROUP_EDGE, GROUP_TITLE, GROUP_GAP = 20, 50, 60
PRIMITIVES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEEDS = ("seed", "noise_seed")
# Room for the widget that a node shows after a run.
VIEWS = {
    "PromptSwapKSampler": 390,
    "BezierLatentInterpolate": 330,
    "TrajectoryGrid": 400,
    "LatentTSNE": 420,
    "CFRTEvaluator": 260,
}
VIEW_WIDTH = 460
COLOURS = {
    "note": "#8c6d3f",
    "model": "#3f789e",
    "traverse": "#8A8",
    "measure": "#a1309b",
    "figure": "#b58b2a",
}


class Canvas:
    """A workflow under construction.

    Parameters
    ----------
    object_info : dict
        The server's ``/object_info``, which says the inputs and outputs of every node class.
    name : str
        The file's stem.

    `group` begins a column; `add` puts a node into it and returns a `Node`, whose outputs are its items by name.
    """

    def __init__(self, object_info, name):
        self.object_info, self.name = object_info, name
        self.nodes, self.notes, self.groups = [], [], []

    def group(self, title, kind="traverse"):
        self.groups.append((title, kind, []))

    def note(self, text):
        """A note in Markdown, in the group begun last."""
        item = Note(len(self.nodes) + len(self.notes) + 1, text)
        self.notes.append(item)
        self.groups[-1][2].append(item)

    def add(self, class_type, title, /, **inputs):
        """Add a node. Inputs not given take the class's default; ``node["output"]`` is a link.

        Raises KeyError for a class or an input that the server does not know.
        """
        node = Node(
            len(self.nodes) + len(self.notes) + 1, class_type, title, self.object_info[class_type], inputs
        )
        self.nodes.append(node)
        self.groups[-1][2].append(node)
        return node

    def api(self):
        """Return the graph in API format, as the frontend's ``graphToPrompt`` makes it."""
        return {
            str(node.number): {
                "inputs": {
                    name: [str(value.node.number), value.slot] if isinstance(value, Link) else value
                    for name, value in node.values.items()
                },
                "class_type": node.class_type,
                "_meta": {"title": node.title},
            }
            for node in self.nodes
        }

    def ui(self):
        """Return the workflow in UI format, version 0.4."""
        links, groups, left = [], [], 0
        for node in self.nodes:
            for slot, (name, _) in enumerate(node.slots()):
                value = node.values.get(name)
                if isinstance(value, Link):
                    links.append(
                        [len(links) + 1, value.node.number, value.slot, node.number, slot, value.type]
                    )
        for number, (title, kind, items) in enumerate(self.groups, 1):
            top, width = 0, max(item.size[0] for item in items)
            for item in items:
                item.place = [left + GROUP_EDGE, top + GROUP_TITLE + TITLE]
                top += TITLE + item.size[1] + GAP
            bounding = [left, 0, width + 2 * GROUP_EDGE, top + GROUP_TITLE + GROUP_EDGE]
            groups.append(
                {
                    "id": number,
                    "title": title,
                    "bounding": bounding,
                    "color": COLOURS[kind],
                    "font_size": 24,
                    "flags": {},
                }
            )
            left += bounding[2] + GROUP_GAP
        items = sorted([*self.nodes, *self.notes], key=lambda item: item.number)
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"medtraverse/{self.name}")),
            "revision": 0,
            "last_node_id": len(items),
            "last_link_id": len(links),
            "nodes": [item.ui(order, links) for order, item in enumerate(items)],
            "links": links,
            "groups": groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [140, 230]}},
            "version": 0.4,
        }


class Link:
    """An output of a node."""

    def __init__(self, node, slot, type):
        self.node, self.slot, self.type = node, slot, type


class Note:
    """A MarkdownNote: text on the canvas, no part of the graph that runs."""

    def __init__(self, number, text):
        self.number, self.text = number, text
        lines = sum(1 + len(line) // 52 for line in text.split("\n"))
        self.size = [NOTE_WIDTH, 40 + 21 * lines]

    def ui(self, order, links):
        return {
            "id": self.number,
            "type": "MarkdownNote",
            "pos": self.place,
            "size": self.size,
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": "Note",
            "properties": {},
            "widgets_values": [self.text],
            "color": "#432",
            "bgcolor": "#653",
        }


class Node:
    """A node of the graph, with the value or link of each of its inputs."""

    def __init__(self, number, class_type, title, info, given):
        self.number, self.class_type, self.title, self.info = number, class_type, title, info
        specs = {
            name: spec
            for part in ("required", "optional")
            for name, spec in info["input"].get(part, {}).items()
        }
        unknown = set(given) - set(specs)
        if unknown:
            raise KeyError(
                f"{class_type} has no input {', '.join(sorted(unknown))}; it has {', '.join(specs)}"
            )
        self.specs = {name: _spec(spec) for name, spec in specs.items()}
        self.values = {}
        for name, (kind, options) in self.specs.items():
            if name in given:
                self.values[name] = given[name]
            elif kind in PRIMITIVES:
                self.values[name] = options["default"] if "default" in options else options["options"][0]
        pictures = class_type in ("SaveTraversalFigure", "SaveVideo", "PreviewImage")
        rows = max(sum(1 for _, widget in self.slots() if not widget), len(info["output"]))
        widgets = sum(
            TEXT_WIDGET
            if options.get("multiline")
            else WIDGET * (2 if self._controlled(name, options) else 1)
            for name, (kind, options) in self.specs.items()
            if kind in PRIMITIVES
        )
        shown = PREVIEW if pictures or info["output_node"] else 0
        view = VIEWS.get(class_type, 0)
        width = FIGURE_WIDTH if pictures else VIEW_WIDTH if view else NODE_WIDTH
        self.size = [width, rows * SLOT + widgets + BELOW + shown + view]

    def __getitem__(self, output):
        """The output of that name, as a link."""
        slot = self.info["output_name"].index(output)
        return Link(self, slot, self.info["output"][slot])

    def slots(self):
        """Return ``(name, has a widget)`` of every input, in the frontend's order: sockets first."""
        return sorted(
            ((name, kind in PRIMITIVES) for name, (kind, _) in self.specs.items()), key=lambda slot: slot[1]
        )

    @staticmethod
    def _controlled(name, options):
        """Whether the frontend puts "control after generate" behind the widget."""
        return options.get("control_after_generate", name in SEEDS)

    def ui(self, order, links):
        inputs = []
        for slot, (name, widget) in enumerate(self.slots()):
            link = next((link[0] for link in links if link[3:5] == [self.number, slot]), None)
            inputs.append(
                {
                    "name": name,
                    "type": self.specs[name][0],
                    **({"widget": {"name": name}} if widget else {}),
                    "link": link,
                }
            )
        outputs = [
            {
                "name": name,
                "type": kind,
                "links": [link[0] for link in links if link[1:3] == [self.number, slot]] or None,
            }
            for slot, (name, kind) in enumerate(zip(self.info["output_name"], self.info["output"]))
        ]
        values = []
        for name, (kind, options) in self.specs.items():
            if kind in PRIMITIVES:
                value = self.values[name]
                values += [options.get("default") if isinstance(value, Link) else value] + ["fixed"] * bool(
                    self._controlled(name, options)
                )
        pack = self.info["python_module"].startswith("custom_nodes.")
        return {
            "id": self.number,
            "type": self.class_type,
            "pos": self.place,
            "size": self.size,
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "title": self.title,
            "properties": {
                "Node name for S&R": self.class_type,
                "cnr_id": "medtraverse" if pack else "comfy-core",
            },
            "widgets_values": values,
        }


def _spec(spec):
    """Return (type, options) of an input; a list of choices is a COMBO."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    return ("COMBO", {**options, "options": kind}) if isinstance(kind, list) else (kind, options)

"""A workflow laid out on ComfyUI's canvas, titled groups from left to right, in API and in UI format."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

NODE_WIDTH, FIGURE_WIDTH, NOTE_WIDTH = 340, 620, 400
TITLE, SLOT, WIDGET, LINE_WIDGET, TEXT_WIDGET, BELOW, GAP, PREVIEW = 30, 20, 24, 32, 110, 24, 44, 380
GROUP_EDGE, GROUP_TITLE, GROUP_GAP = 20, 50, 60
PRIMITIVES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEEDS = ("seed", "noise_seed")
# Room for the optional inputs of core's nodes that some versions have: the frontend adds them.
ADDED = {"CreateVideo": 44}
# A subgraph's input and output side, where its links begin and end.
ENTRY, EXIT = -10, -20
# Room for the widget that a node shows after a run.
VIEWS = {
    "PromptSwapKSampler": 390,
    "BezierLatentInterpolate": 330,
    "TrajectoryGrid": 400,
    "LatentTSNE": 420,
    "CFRTEvaluator": 260,
    "MedicalStudy": 260,
    "LoadMedicalImage": 260,
    "ProjectToLatent": 90,
    "SaveMedicalImage": 340,
    "MinimalCounterfactual": 360,
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

    `group` begins a column; `add` puts a node into it and returns a `Node`, whose outputs are its items by
    name. `ask` and `show` say what a person sees of the workflow as a form (ComfyUI's App mode). A canvas for
    a subgraph has `enter` and `leave` too, and `blueprint` writes it.
    """

    def __init__(self, object_info, name):
        self.object_info, self.name = object_info, name
        self.nodes, self.notes, self.groups = [], [], []
        self.asked, self.shown = [], []
        self.entries, self.exits = [], []

    def group(self, title: str, kind: str = "traverse") -> None:
        self.groups.append((title, kind, []))

    def note(self, text):
        """A note in Markdown, in the group begun last."""
        item = Note(len(self.nodes) + len(self.notes) + 1, text)
        self.notes.append(item)
        self.groups[-1][2].append(item)

    def add(self, class_type: str, title: str, /, **inputs: Any) -> Node:
        """Add a node. Inputs not given take the class's default; ``node["output"]`` is a link.

        Raises KeyError for a class or an input that the server does not know.
        """
        node = Node(
            len(self.nodes) + len(self.notes) + 1, class_type, title, self.object_info[class_type], inputs
        )
        self.nodes.append(node)
        self.groups[-1][2].append(node)
        return node

    def ask(self, node: Node, name: str, label: str, hint: str = "", of: str = "") -> None:
        """Have an input of a node in the form, under a label.

        Parameters
        ----------
        node : Node
        name : str
            The input.
        label, hint : str
            What the form says above the input, and below that (one line of 30 characters).
        of : str
            What tells the input from another with the same label, such as the domain.
        """
        if name not in node.values or isinstance(node.values[name], Link):
            raise KeyError(f"{node.class_type} has no value {name} to ask for")
        if len(hint) > 30:
            raise ValueError(f"{hint!r} has {len(hint)} characters; a form shows 30")
        self.asked.append((node, name, label, hint, of))

    def show(self, node: Node) -> None:
        """Have what a node has drawn or saved in the form."""
        self.shown.append(node)

    def form(self):
        """Return ``extra.linearData``: the inputs and the outputs of the form."""
        labels = [label for _, _, label, _, _ in self.asked]
        inputs = []
        for node, name, label, hint, of in self.asked:
            node.labels[name] = f"{of}: {label}" if of and labels.count(label) > 1 else label
            inputs.append([str(node.number), name, *([{"description": hint}] if hint else [])])
        return {"inputs": inputs, "outputs": [str(node.number) for node in self.shown]}

    def enter(self, name: str, class_type: str) -> Link:
        """Return a link from outside a subgraph, for the input of that name of a node class."""
        specs = self.object_info[class_type]["input"]
        kind = {**specs.get("required", {}), **specs.get("optional", {})}[name][0]
        self.entries.append((name, kind))
        return Link(Outside(ENTRY), len(self.entries) - 1, kind)

    def leave(self, link: Link, name: str) -> None:
        """Have an output of a node as an output of the subgraph."""
        self.exits.append((link, name))

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
        form, links, groups = self.form(), self._links(), self._lay_out()
        items = self._items()
        return {
            "id": self._uuid(),
            "revision": 0,
            "last_node_id": len(items),
            "last_link_id": len(links),
            "nodes": [item.ui(order, links) for order, item in enumerate(items)],
            "links": links,
            "groups": groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [140, 230]}, "linearData": form},
            "version": 0.4,
        }

    def blueprint(self, description: str, aliases: Sequence[str] = ()) -> dict[str, Any]:
        """Return the graph as a subgraph blueprint: a workflow of one box, which has the graph inside.

        What is asked for stands on the box.

        Parameters
        ----------
        description : str
            What the node library says of it.
        aliases : sequence of str
            Other words that the node search finds it by.
        """
        self.form()
        links, groups, items = self._links(), self._lay_out(), self._items()
        right = max(group["bounding"][0] + group["bounding"][2] for group in groups)
        inside = {
            "id": self._uuid(),
            "version": 1,
            "state": {
                "lastGroupId": len(groups),
                "lastNodeId": len(items),
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.name,
            "inputNode": {"id": ENTRY, "bounding": [-220, 60, 120, 40 + SLOT * len(self.entries)]},
            "outputNode": {"id": EXIT, "bounding": [right + 100, 60, 120, 40 + SLOT * len(self.exits)]},
            "inputs": [
                {
                    "id": self._uuid(f"input {name}"),
                    "name": name,
                    "type": kind,
                    "linkIds": [link[0] for link in links if link[1:3] == [ENTRY, slot]],
                }
                for slot, (name, kind) in enumerate(self.entries)
            ],
            "outputs": [
                {
                    "id": self._uuid(f"output {name}"),
                    "name": name,
                    "type": link.type,
                    "linkIds": [one[0] for one in links if one[3:5] == [EXIT, slot]],
                }
                for slot, (link, name) in enumerate(self.exits)
            ],
            "widgets": [],
            "nodes": [item.ui(order, links) for order, item in enumerate(items)],
            "groups": groups,
            "links": [
                dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link))
                for link in links
            ],
            "extra": {},
            "category": "MedTraverse",
            "description": description,
        }
        rows = max(len(self.entries), len(self.exits))
        box = {
            "id": 1,
            "type": inside["id"],
            "pos": [0, 0],
            "size": [NODE_WIDTH, rows * SLOT + WIDGET * len(self.asked) + BELOW],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [{"name": name, "type": kind, "link": None} for name, kind in self.entries],
            "outputs": [{"name": name, "type": link.type, "links": []} for link, name in self.exits],
            "title": self.name,
            "properties": {"proxyWidgets": [[str(node.number), name] for node, name, _, _, _ in self.asked]},
            "widgets_values": [],
        }
        return {
            "id": self._uuid("blueprint"),
            "revision": 0,
            "last_node_id": 1,
            "last_link_id": 0,
            "nodes": [box],
            "links": [],
            "groups": [],
            "config": {},
            "definitions": {"subgraphs": [inside]},
            "extra": {"BlueprintDescription": description, "BlueprintSearchAliases": list(aliases)},
            "version": 0.4,
        }

    def _uuid(self, part=""):
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"medtraverse/{self.name}" + (f"/{part}" if part else "")))

    def _items(self):
        return sorted([*self.nodes, *self.notes], key=lambda item: item.number)

    def _links(self):
        """All links, as the UI format has them: number, from node and output, to node and input, type."""
        links = []
        for node in self.nodes:
            for slot, (name, _) in enumerate(node.slots()):
                value = node.values.get(name)
                if isinstance(value, Link):
                    links.append(
                        [len(links) + 1, value.node.number, value.slot, node.number, slot, value.type]
                    )
        for slot, (link, _) in enumerate(self.exits):
            links.append([len(links) + 1, link.node.number, link.slot, EXIT, slot, link.type])
        return links

    def _lay_out(self):
        """Give every item its place and return the groups."""
        groups, left = [], 0
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
        return groups


class Outside:
    """A subgraph's own input or output side."""

    def __init__(self, number):
        self.number = number


class Link:
    """An output of a node."""

    def __init__(self, node, slot, type):
        self.node, self.slot, self.type = node, slot, type


class Note:
    """A MarkdownNote: text on the canvas, no part of the graph that runs."""

    def __init__(self, number, text):
        self.number, self.text = number, text
        lines = sum(1 + len(line) // 55 for line in text.split("\n"))
        self.size = [NOTE_WIDTH, 60 + 16 * lines]

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
        self.labels = {}
        self.ours = info["python_module"].startswith("custom_nodes.")
        # Core's optional inputs differ from one version to the next, and the frontend adds its own.
        specs = {
            name: spec
            for part in ("required", "optional")
            for name, spec in info["input"].get(part, {}).items()
            if part == "required" or self.ours or name in given
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
        outputs = len(info["output"]) if self.ours or not info["output_node"] else 0
        rows = max(sum(1 for _, widget in self.slots() if not widget), outputs)
        widgets = sum(
            TEXT_WIDGET
            if options.get("multiline")
            else LINE_WIDGET
            if kind == "STRING"
            else WIDGET * (2 if self._controlled(name, options) else 1)
            for name, (kind, options) in self.specs.items()
            if kind in PRIMITIVES
        )
        shown = PREVIEW if pictures or info["output_node"] else ADDED.get(class_type, 0)
        view = VIEWS.get(class_type, 0)
        width = FIGURE_WIDTH if pictures else VIEW_WIDTH if view else NODE_WIDTH
        self.size = [width, rows * SLOT + widgets + BELOW + shown + view]

    def __getitem__(self, output: str) -> Link:
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
                    **({"label": self.labels[name]} if name in self.labels else {}),
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
        while not self.ours and outputs and not outputs[-1]["links"]:
            outputs.pop()  # SaveVideo has one in some versions
        values = []
        for name, (kind, options) in self.specs.items():
            if kind in PRIMITIVES:
                value = self.values[name]
                values += [options.get("default") if isinstance(value, Link) else value] + ["fixed"] * bool(
                    self._controlled(name, options)
                )
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
                "cnr_id": "medtraverse" if self.ours else "comfy-core",
            },
            "widgets_values": values,
        }


def _spec(spec):
    """Return (type, options) of an input. A list of choices is a COMBO, with inputs of their own or not."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if str(kind).startswith("COMFY_DYNAMICCOMBO"):
        return "COMBO", {**options, "options": [option["key"] for option in options["options"]]}
    return ("COMBO", {**options, "options": kind}) if isinstance(kind, list) else (kind, options)

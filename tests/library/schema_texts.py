"""The schemas of the nodes, read as text: no ComfyUI is needed."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOOR = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "nodes").glob("*.py"))}
# Functions that return a list of slots, which several nodes share.
SHARED = {
    node.name: node.body[-1].value
    for tree in FLOOR.values()
    for node in tree.body
    if isinstance(node, ast.FunctionDef)
    and isinstance(node.body[-1], ast.Return)
    and isinstance(node.body[-1].value, ast.List)
}


def keyword(call, name):
    """Return the expression given for a keyword of a call, or None."""
    return next((item.value for item in call.keywords if item.arg == name), None)


def slots(listed, constants):
    """Return ``{id: (shown name, tooltip)}`` of a list of inputs or outputs.

    A starred generator runs over a constant of the module; a starred call is of one of `SHARED`.
    """
    found = {}
    for slot in listed.elts:
        starred = isinstance(slot, ast.Starred)
        if starred and isinstance(slot.value, ast.Call):
            found |= slots(SHARED[slot.value.func.id], constants)
            continue
        call = slot.value.elt if starred else slot
        tooltip = keyword(call, "tooltip")
        tooltip = constants[tooltip.id] if isinstance(tooltip, ast.Name) else ast.literal_eval(tooltip)
        if starred:
            assert isinstance(call.args[0], ast.Name)
            names = constants[slot.value.generators[0].iter.id]
        else:
            names = [ast.literal_eval(call.args[0])]
        for name in names:
            found[name] = (ast.literal_eval(keyword(call, "display_name") or ast.Constant(name)), tooltip)
    return found


def schemas():
    """Return ``{node id: {"display_name": …, "description": …, "inputs": …, "outputs": …}}``.

    Inputs and outputs are those of `slots`; outputs have their numbers for ids.
    """
    found = {}
    for tree in FLOOR.values():
        constants = {}
        for node in tree.body:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, (ast.Constant, ast.Tuple, ast.List))
                and isinstance(node.targets[0], ast.Name)
            ) and all(isinstance(part, ast.Constant) for part in getattr(node.value, "elts", [])):
                constants[node.targets[0].id] = ast.literal_eval(node.value)
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and keyword(call, "node_id") is not None:
                outputs = slots(keyword(call, "outputs"), constants)
                found[ast.literal_eval(keyword(call, "node_id"))] = {
                    "display_name": ast.literal_eval(keyword(call, "display_name")),
                    "description": ast.literal_eval(keyword(call, "description")),
                    "inputs": slots(keyword(call, "inputs"), constants),
                    "outputs": dict(zip(map(str, range(len(outputs))), outputs.values())),
                }
    return found

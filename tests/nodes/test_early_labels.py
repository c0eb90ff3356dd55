"""A label that no classifier judges is told by the sampler, from the graph that it stands in."""

import pytest

LOADER = {
    "classifier": "MedTraverse demo CheXpert",
    "second_classifier": "none",
    "labels": "",
    "input_size": 0,
}


@pytest.fixture
def check(pack, node_classes):
    """``check(graph, *names, **options)`` checks attributes of those names behind node 1."""
    prompts = pack.medtraverse.prompts

    def call(graph, *names, aliases=None, **options):
        items = tuple(prompts.PromptedAttribute(name, "#000000", (name,), "", None) for name in names)
        attributes = prompts.AttributeSet(items, aliases=aliases or {})
        pack.nodes.early_labels.check_labels(graph, "1", attributes, **options)

    return call


def graph(*between, **loader):
    """A sampler 1, nodes between, an evaluator 8 and its classifier 9, in API format."""
    nodes, last = {"1": {"class_type": "PromptSwapKSampler", "inputs": {}}}, ["1", 1]
    for number, (kind, inputs) in enumerate(between, 2):
        nodes[str(number)] = {"class_type": kind, "inputs": {**inputs, inputs["from"]: last}}
        last = [str(number), 1]
    nodes["8"] = {
        "class_type": "CFRTEvaluator",
        "inputs": {"trajectory": last, "images": ["7", 0], "image_classifier": ["9", 0], "far_points": ""},
    }
    nodes["9"] = {"class_type": "MedicalClassifierLoader", "inputs": {**LOADER, **loader}}
    return nodes


def select(attributes=""):
    return "TrajectorySelect", {"from": "trajectory", "attributes": attributes, "patients": 0, "points": ""}


CURVE = "BezierLatentInterpolate", {"from": "source"}


@pytest.mark.parametrize(
    "between", [(), (select(),), (CURVE, select("")), (select("Edema, support_devices"),)]
)
def test_a_label_that_is_not_judged_is_told(check, between):
    check(graph(*between), "support devices", "Pleural-Effusion")
    with pytest.raises(ValueError, match="it judges support devices, pleural effusion, not 'edema'"):
        check(graph(*between), "support devices", "edema")


def test_a_label_that_is_left_out_on_the_way_needs_no_classifier(check):
    check(graph(select("support devices")), "support devices", "edema")
    check(graph(CURVE, select("Support_Devices")), "support devices", "edema")


def test_an_alias_is_judged(check):
    renamed = graph(labels="Devices = 0, Effusion = 1")
    with pytest.raises(ValueError, match="it judges Devices, Effusion, not 'pleural effusion'"):
        check(renamed, "pleural effusion")
    check(renamed, "pleural effusion", aliases={"pleural effusion": ("effusion",)})


def test_joined_classifiers_count_together(check):
    joined = graph(labels="hair = 0", others=["10", 0])
    joined["10"] = {"class_type": "MedicalClassifierLoader", "inputs": {**LOADER, "labels": "edema = 1"}}
    check(joined, "hair", "edema")
    with pytest.raises(ValueError, match="it judges hair, edema, not 'ink'"):
        check(joined, "hair", "ink")


def test_a_classifier_that_cannot_be_loaded_is_told_too(check):
    with pytest.raises(ValueError, match="classifier: there is no 'choose one'"):
        check(graph(classifier="choose one"), "hair")


def test_what_the_graph_does_not_show_is_left_to_the_evaluator(check):
    check(graph(labels=["12", 0]), "edema")
    check(graph(("SomebodysNode", {"from": "trajectory"})), "edema")
    check(graph(select(["12", 0])), "edema")
    foreign = graph()
    foreign["9"]["class_type"] = "SomebodysLoader"
    check(foreign, "edema")
    other = graph()
    other["8"]["inputs"]["trajectory"] = ["11", 1]  # another sampler's
    check(other, "edema")
    check({"8": {"class_type": "CFRTEvaluator", "inputs": {}}}, "edema")


def test_an_evaluator_that_is_not_run_asks_for_nothing(check):
    check(graph(), "edema", asked={"3"})
    with pytest.raises(ValueError, match="not 'edema'"):
        check(graph(), "edema", asked={"3", "8"})

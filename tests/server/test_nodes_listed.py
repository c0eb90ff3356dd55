import pytest

NODES = [
    "MedicalCheckpointLoader",
    "MedicalAttributePrompts",
    "PromptSwapKSampler",
    "BezierLatentInterpolate",
    "MedicalClassifierLoader",
    "CFRTEvaluator",
    "LatentTSNE",
    "LatentDirectionCosine",
    "TrajectoryGrid",
    "TrajectoryFilm",
    "IdentityPreservation",
    "AttributeConditioning",
    "TrajectorySelect",
    "SaveTraversalFigure",
    "DistributionDistance",
    "LoadMedicalImage",
    "SaveMedicalImage",
]


@pytest.fixture(scope="module")
def listed(client):
    return client.object_info()


@pytest.mark.parametrize("node", NODES)
def test_is_listed(listed, node):
    assert node in listed
    assert listed[node]["python_module"].startswith("custom_nodes.")
    assert listed[node]["category"].startswith("medical")


@pytest.mark.parametrize("node", NODES)
def test_tells_what_it_is(listed, node):
    description = listed[node]
    assert description["description"] and description["display_name"] != node
    # Output nodes also have "hidden" inputs, which core fills in.
    for kind in ("required", "optional"):
        for name, (_, options) in description["input"].get(kind, {}).items():
            assert options.get("tooltip"), f"input {name} has no tooltip"
    assert len(description["output_tooltips"]) == len(description["output"])
    assert all(description["output_tooltips"])


def test_core_nodes_stay_core(listed):
    assert listed["KSampler"]["python_module"] == "nodes"

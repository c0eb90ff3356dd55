"""The pack's own socket types. Their names are forever: saved workflows carry them."""

from comfy_api.latest import io

Trajectory = io.Custom("MEDTRAVERSE_TRAJECTORY")
Domain = io.Custom("MEDTRAVERSE_DOMAIN")
Attributes = io.Custom("MEDTRAVERSE_ATTRIBUTES")
Classifier = io.Custom("MEDTRAVERSE_CLASSIFIER")
Figure = io.Custom("MEDTRAVERSE_FIGURE")

CATEGORY = "medical/traversal"

"""MedTraverse: language-guided traversal of a medical Stable Diffusion model's latent space.

Implements TehraniNasab, Kumar, Arbel, *Language-Guided Trajectory Traversal in Disentangled Stable
Diffusion Latent Space for Factorized Medical Image Generation*, MIV workshop at CVPR 2025, arXiv
2503.23623. The library never imports ComfyUI.
"""

__version__ = "0.1.0"

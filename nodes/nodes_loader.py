"""MedicalCheckpointLoader: a Stable Diffusion 1.x model of any size, and the domain of its fine-tuning."""

import json
import os
from pathlib import Path, PurePosixPath

import folder_paths
from comfy_api.latest import io

from ..medtraverse.checkpoint import declared_domains, read_checkpoint, weight_files
from ..medtraverse.digest import sha256_of
from ..medtraverse.domain import guess_domain
from . import sources
from .model_building import (
    ORIGIN,
    build_clip,
    build_model,
    build_vae,
    reload_clip,
    reload_model,
    reload_vae,
)
from .rough_colours import fitted_format
from .schema import schema
from .sockets import CATEGORY, Domain

AUTO = "auto"


class MedicalCheckpointLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MedicalCheckpointLoader",
            display_name="Load Medical Checkpoint",
            category=CATEGORY,
            search_aliases=[
                "chest X-ray",
                "dermoscopy",
                "CheXpert",
                "ISIC",
                "medical diffusion",
                "load checkpoint",
            ],
            essentials_category="Medical",
            description="Loads a Stable Diffusion 1.x model of any size that was fine-tuned on medical "
            "images: a diffusers folder (models/diffusers), a single file (models/checkpoints), or a U-Net "
            "alone (models/diffusion_models) laid over one of these.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=list(sources.checkpoint_paths()),
                    default=sources.DEMO_MODEL,
                    tooltip="The model, or the base under the U-Net chosen below. The first one ships with "
                    "MedTraverse.",
                ),
                io.Combo.Input(
                    "unet",
                    options=list(sources.unet_paths()),
                    default=sources.FROM_CHECKPOINT,
                    tooltip="A fine-tuned U-Net alone, as diffusers saves it: a file in "
                    "models/diffusion_models, or the unet folder of a training's checkpoint in "
                    "models/diffusers.",
                ),
                io.Combo.Input(
                    "domain",
                    options=[AUTO, *sources.domain_choices()],
                    default=AUTO,
                    tooltip="Prompts, attributes and colours. 'auto' reads it off the file's name. Own "
                    "domains: JSON files in ComfyUI's user/medtraverse/domains.",
                ),
                io.Int.Input(
                    "heads",
                    default=0,
                    min=0,
                    max=128,
                    optional=True,
                    tooltip="Attention heads of the U-Net; 0 reads them off the files. Asked for where no "
                    "file says it and the U-Net is not 320 wide: weights alone do not show it.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model", display_name="model", tooltip="The U-Net, as core's loaders make it."
                ),
                io.Clip.Output(
                    "clip", display_name="clip", tooltip="The CLIP text encoder, kept in float32."
                ),
                io.Vae.Output("vae", display_name="vae", tooltip="The VAE (×8)."),
                Domain.Output(
                    "medical_domain",
                    display_name="domain",
                    tooltip="Neutral prompts, attributes, colours and image size.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint, unet, domain, heads=0):
        return json.dumps(
            [
                sources.fingerprint(
                    sources.checkpoint_paths().get(checkpoint), sources.unet_paths().get(unet)
                ),
                repr(sources.domains()),
                heads,
            ]
        )

    @classmethod
    def execute(cls, checkpoint, unet, domain, heads=0):
        path = sources.pick(sources.checkpoint_paths(), checkpoint, "checkpoint")
        unet_path = sources.pick(sources.unet_paths(), unet, "unet")
        chosen = cls.choose_domain(domain, checkpoint, unet if unet_path else None, path)
        for name, choice, file in (("checkpoint", checkpoint, path), ("unet", unet, unet_path)):
            if file is not None and not file.exists():
                raise ValueError(f"{name}: {choice!r} is missing at {file}; put it back or choose another.")
        parts, name = read_checkpoint(path, unet_path, heads), "unet" if unet_path else "checkpoint"
        model = build_model(parts.unet, parts.unet_heads, parts.scheduler, name=name)
        context = model.model.model_config.unet_config["context_dim"]
        width = parts.text_encoder["text_model.final_layer_norm.weight"].shape[0]
        if context != width:
            raise ValueError(
                f"{name}: the U-Net attends to text of width {context}, the text encoder gives {width}; lay "
                "it over its own base."
            )
        embeddings = folder_paths.get_folder_paths("embeddings")
        clip = build_clip(parts.text_encoder, parts.text_heads, parts.text_activation, embeddings)
        vae = build_vae(parts.vae)
        model.model.latent_format = fitted_format(model.model.latent_format, vae)
        files = path, unet_path, heads
        model.cached_patcher_init = (reload_model, files)
        clip.patcher.cached_patcher_init = (reload_clip, (*files, embeddings))
        vae.patcher.cached_patcher_init = (reload_vae, files)
        model.set_attachments(
            ORIGIN,
            {
                "checkpoint": checkpoint,
                "unet": unet if unet_path else None,
                "domain": chosen.name,
                "sha256": cls.digests(checkpoint, path, unet, unet_path),
            },
        )
        return io.NodeOutput(model, clip, vae, chosen.with_size(parts.image_size or chosen.size))

    @staticmethod
    def digests(checkpoint, path, unet, unet_path):
        """Return the SHA-256 of every weight file that was read, named by its place under ``models``.

        Bundled ones are named by their choice.
        """
        files: dict[str, Path] = {}
        for kind, choice, place in (("checkpoints", checkpoint, path), ("diffusion_models", unet, unet_path)):
            if place is None:
                continue
            if place.is_dir():
                names = {
                    os.path.normpath(f"{choice}/{name}"): file for name, file in weight_files(place).items()
                }
            elif choice in sources.DEMO_UNETS:
                names = {choice: place}
            else:
                names = {
                    f"{kind}/{PurePosixPath(choice.replace(os.sep, '/')).with_name(name)}": file
                    for name, file in weight_files(place).items()
                }
            files |= names
        if unet_path is not None and any("text_encoder/" in name for name in weight_files(unet_path)):
            # The U-Net's own text encoder was read in place of the checkpoint's.
            files = {name: file for name, file in files.items() if file.parent != path / "text_encoder"}
        return {name.replace(os.sep, "/"): sha256_of(file) for name, file in files.items()}

    @classmethod
    def choose_domain(cls, domain, checkpoint, unet, path):
        """Return the Domain.

        ``auto`` takes it from the U-Net's name, from what the checkpoint's folder declares, or from its name.
        """
        if domain != AUTO:
            return sources.pick_domain(domain)
        known = sources.domains()
        declared = declared_domains(path)
        try:
            return guess_domain(known, unet or ("" if declared else checkpoint))
        except ValueError:
            if not declared:
                raise
            return sources.pick_domain(declared[0], "checkpoint: medtraverse.json")

"""MedicalCheckpointLoader: a Stable Diffusion 1.x or 2.x model of any size, and its fine-tuning's domain."""

import json
import os
from pathlib import Path, PurePosixPath

import folder_paths
from comfy_api.latest import io

from ..medtraverse.checkpoint import (
    PREDICTIONS,
    Parts,
    declared_domains,
    sampling_settings,
    weight_files,
)
from ..medtraverse.digest import sha256_of
from ..medtraverse.domain import guess_domain
from . import sources
from .managed import cancellable
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
FROM_FILES = "from files"


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
            description="Loads a Stable Diffusion 1.x or 2.x model of any size that was fine-tuned on "
            "medical images: a diffusers folder (models/diffusers), a single file (models/checkpoints), or a "
            "U-Net alone (models/diffusion_models) laid over one of these.",
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
                io.Combo.Input(
                    "vae_alone",
                    options=list(sources.vae_paths()),
                    default=sources.FROM_CHECKPOINT,
                    optional=True,
                    tooltip="A VAE alone in place of the checkpoint's, such as sd-vae-ft-mse: a file in "
                    "models/vae, or a folder of diffusers in models/diffusers.",
                ),
                io.Combo.Input(
                    "prediction",
                    options=[FROM_FILES, *PREDICTIONS],
                    default=FROM_FILES,
                    optional=True,
                    tooltip="What the U-Net predicts. Asked for where no file of a Stable Diffusion 2 model "
                    "says it: epsilon for most models of 512 pixels, v_prediction for most of 768.",
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
    def fingerprint_inputs(
        cls, checkpoint, unet, domain, heads=0, vae_alone=sources.FROM_CHECKPOINT, prediction=FROM_FILES
    ):
        return json.dumps(
            [
                sources.fingerprint(
                    sources.checkpoint_paths().get(checkpoint),
                    sources.unet_paths().get(unet),
                    sources.vae_paths().get(vae_alone),
                ),
                repr(sources.domains()),
                heads,
                prediction,
            ]
        )

    @classmethod
    def execute(
        cls, checkpoint, unet, domain, heads=0, vae_alone=sources.FROM_CHECKPOINT, prediction=FROM_FILES
    ):
        path = sources.pick(sources.checkpoint_paths(), checkpoint, "checkpoint")
        unet_path = sources.pick(sources.unet_paths(), unet, "unet")
        vae_path = sources.pick(sources.vae_paths(), vae_alone, "vae_alone")
        predicted = sources.pick(
            {FROM_FILES: "", **{name: name for name in PREDICTIONS}}, prediction, "prediction"
        )
        chosen = cls.choose_domain(domain, checkpoint, unet if unet_path else None, path)
        choices = {
            "checkpoint": (checkpoint, path),
            "unet": (unet, unet_path),
            "vae_alone": (vae_alone, vae_path),
        }
        for name, (choice, file) in choices.items():
            if file is not None and not file.exists():
                raise ValueError(f"{name}: {choice!r} is missing at {file}; put it back or choose another.")
        files, name = (
            Parts(path, unet_path, vae_path, heads, predicted),
            "unet" if unet_path else "checkpoint",
        )
        parts = cancellable(lambda _: files.read())
        model = build_model(parts.unet, parts.unet_heads, parts.scheduler, parts.latent_scale, name=name)
        embeddings = folder_paths.get_folder_paths("embeddings")
        clip = build_clip(parts, embeddings)
        decoder = build_vae(parts.vae, "vae_alone" if vae_path else "checkpoint")
        model.model.latent_format = fitted_format(model.model.latent_format, decoder)
        model.cached_patcher_init = (reload_model, (files,))
        clip.patcher.cached_patcher_init = (reload_clip, (files, embeddings))
        decoder.patcher.cached_patcher_init = (reload_vae, (files,))
        digests = cancellable(lambda _: cls.digests(choices))
        model.set_attachments(
            ORIGIN,
            {
                **{name: choice if file else None for name, (choice, file) in choices.items()},
                "domain": chosen.name,
                "prediction": sampling_settings(parts.scheduler)[0],
                "sha256": digests,
            },
        )
        decoder.patcher.set_attachments(ORIGIN, {"sha256": digests})
        return io.NodeOutput(model, clip, decoder, chosen.with_size(parts.image_size or chosen.size))

    @staticmethod
    def digests(choices):
        """Return the SHA-256 of every weight file that had a part, named by its place under ``models``.

        Bundled ones are named by their choice. ``choices`` is ``{input: (choice, path or None)}``.
        """
        kinds = {"checkpoint": "checkpoints", "unet": "diffusion_models", "vae_alone": "vae"}
        files: dict[str, Path] = {}
        for name, (choice, place) in choices.items():
            if place is None:
                continue
            if place.is_dir():
                names = {
                    os.path.normpath(f"{choice}/{inside}"): file
                    for inside, file in weight_files(place).items()
                }
            elif choice in sources.DEMO_UNETS:
                names = {choice: place}
            else:
                beside = PurePosixPath(choice.replace(os.sep, "/"))
                names = {
                    f"{kinds[name]}/{beside.with_name(inside)}": file
                    for inside, file in weight_files(place).items()
                }
            files |= names
        base, unet_path = choices["checkpoint"][1], choices["unet"][1]
        replaced = {"unet": unet_path, "vae": choices["vae_alone"][1]}
        if unet_path is not None:
            # The U-Net's own text encoder, where it has one, was read in place of the checkpoint's.
            replaced["text_encoder"] = any("text_encoder/" in inside for inside in weight_files(unet_path))
        gone = {base / part for part, other in replaced.items() if other}
        return {
            name.replace(os.sep, "/"): sha256_of(file)
            for name, file in files.items()
            if file.parent not in gone
        }

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

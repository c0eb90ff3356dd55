"""The bundled workflows: each figure and table of the paper as a graph and as a form.

Each is there on the shipped model, and on files to be chosen with the paper's own settings.
"""

from dataclasses import dataclass, replace

from medtraverse.notice import NOTICE

DEMO_MODEL = "MedTraverse demo (phantoms)"
DEMO_CHEST, DEMO_SKIN = "MedTraverse demo chest film (phantom)", "MedTraverse demo skin image (phantom)"
DEMO_CHESTS = "MedTraverse demo chest films (4 phantoms)"
DEMO_TRUTHS = "MedTraverse demo chest films, true counterfactuals (8 phantoms)"
SUFFIX = "-paper"


@dataclass(frozen=True)
class Domain:
    """What a domain's part of a graph needs: neutrals with the first patient's seed, and classifiers.

    ``classifiers`` are the choices (classifier, second_classifier, labels) in the paper's settings; ``unet``
    is the bundled fine-tuned one.
    """

    name: str
    neutrals: dict
    classifiers: tuple
    unet: str


CHEXPERT = Domain(
    "CheXpert",
    {"normal": 1500},
    (
        "choose the classifier of support devices",
        "choose the classifier of pleural effusion",
        "support devices, pleural effusion",
    ),
    "MedTraverse demo CheXpert (phantoms)",
)
ISIC = Domain(
    "ISIC",
    {"MEL": 3000, "NV": 4000},
    ("choose the ISIC classifier", "none", "hair, gel bubble, ruler, ink"),
    "MedTraverse demo ISIC (phantoms)",
)
HUGGING_FACE = Domain("CheXpert", {"normal": 1500}, ("choose your Hugging Face folder", "none", ""), "")
TORCHXRAYVISION = Domain("PRISM", {"normal": 1500}, ("choose your torchxrayvision weights", "none", ""), "")
CONFOUNDED = replace(CHEXPERT, unet="MedTraverse demo CheXpert, confounded (phantoms)")


class Graph:
    """Puts the method's steps on a canvas, on the shipped model or with the paper's settings (``paper``)."""

    def __init__(self, canvas, paper):
        self.canvas, self.paper = canvas, paper
        self.stem = canvas.name
        self.own = self.stem in OWN_FILES

    def about(self, text, cost):
        """The first group: what the workflow shows, what to change, what it costs."""
        change = (
            "**Choose** your Stable Diffusion 1.5 base, the U-Net that you fine-tuned and, where there is "
            "one, your classifier in the blue nodes: "
            "until then a run stops there and says so. All else is the paper's: 512 pixels, DDIM, 50 steps, "
            "guidance 7.5, λ = 45 … 5, and noise drawn on "
            "the GPU, which the authors' seeds need. Without CUDA set *noise* to *cpu*: other patients."
            if self.paper
            else "**Choose** your checkpoint and your classifier in the blue nodes: until then a run stops "
            "there and says so. A U-Net alone goes into *unet*, over its base. All else is the paper's, at "
            "your checkpoint's own size, with noise drawn on the CPU."
            if self.own
            else "Runs as it is, on the small phantom model that ships with the pack. "
            "**For a model of your own** choose it in the blue node"
            + (
                "."
                if self.stem in DEMO_ONLY
                else f", or open **{self.stem}{SUFFIX}**, which has all the paper's settings."
            )
        )
        self.canvas.group("About", "note")
        self.canvas.note(f"{text}\n\n{change}\n\n**Cost**: {cost}\n\n{NOTICE}")

    def load(self, domain, name=""):
        """Checkpoint of a domain, under a ``name`` where a graph has several; returns the loader."""
        name = name or domain.name
        self.canvas.group(f"{name}: model", "model")
        files = {
            "checkpoint": "choose your Stable Diffusion 1.5 base",
            "unet": f"choose the U-Net fine-tuned on {domain.name}",
        }
        demo = {"checkpoint": DEMO_MODEL, "unet": domain.unet}
        own = {"checkpoint": "choose your checkpoint", "unet": "from checkpoint"}
        chosen = files if self.paper else own if self.own else demo
        loader = self.canvas.add("MedicalCheckpointLoader", f"{name} model", **chosen, domain=domain.name)
        if self.own:
            self.canvas.ask(loader, "checkpoint", "Checkpoint", "")
            self.canvas.ask(loader, "unet", "Fine-tuned U-Net", "If it lies alone")
            self.canvas.ask(loader, "domain", "Domain", "Prompts, attributes, colours")
        if self.paper:
            self.canvas.ask(loader, "checkpoint", "Stable Diffusion 1.5", "The base under the U-Net", name)
            self.canvas.ask(loader, "unet", "Fine-tuned U-Net", "", name)
        return loader

    def classifier(self, domain):
        chosen, second, labels = (
            domain.classifiers if self.paper or self.own else (f"MedTraverse demo {domain.name}", "none", "")
        )
        loader = self.canvas.add(
            "MedicalClassifierLoader",
            f"{domain.name} classifier",
            classifier=chosen,
            second_classifier=second,
            labels=labels,
            input_size=512 if self.paper else 0,
        )
        if self.own:
            self.canvas.ask(loader, "labels", "Labels", "Empty takes the file's")
        if self.paper or self.own:
            self.canvas.ask(loader, "classifier", "Classifier", "Judges each image")
            if second != "none":
                self.canvas.ask(loader, "second_classifier", "Second classifier")
        return loader

    def real_images(self, loader, domain, file, choose):
        """Load images from files at the model's size; returns their node."""
        self.canvas.group(f"{domain.name}: image", "model")
        images = self.canvas.add(
            "LoadMedicalImage",
            f"{domain.name} image",
            file=choose if self.paper else file,
            size=512 if self.paper else 0,
            domain=loader["domain"],
        )
        self.canvas.ask(images, "file", "Image", "DICOM, PNG, TIFF or JPEG", domain.name)
        self.canvas.ask(images, "window", "Window", "Which values are shown", domain.name)
        return images

    def prompts(self, loader, neutral, attributes, name):
        return self.canvas.add(
            "MedicalAttributePrompts",
            f"{name} prompts",
            clip=loader["clip"],
            domain=loader["domain"],
            neutral=neutral,
            attributes=attributes,
        )

    def sampler(self, loader, prompts, name, **settings):
        """The sampler at the size, and with the noise, of the paper's settings or of the demo's."""
        size, noise = (512, "gpu") if self.paper else (0, "cpu")
        return self.canvas.add(
            "PromptSwapKSampler",
            f"{name} patients",
            model=loader["model"],
            neutral=prompts["neutral"],
            negative=prompts["negative"],
            attributes=prompts["attributes"],
            width=size,
            height=size,
            noise=noise,
            **settings,
        )

    def project(self, loader, domain, neutral, images, attributes="", **more):
        """Prompts and projection of images; returns both."""
        name = domain.name
        self.canvas.group(f"{name}: projection")
        prompts = self.prompts(loader, neutral, attributes, name)
        start = self.canvas.add(
            "ProjectToLatent",
            f"{name} projection",
            model=loader["model"],
            vae=loader["vae"],
            images=images["images"],
            neutral=prompts["neutral"],
            seed=domain.neutrals[neutral],
            **more,
        )
        self.canvas.ask(prompts, "attributes", "Attributes", "With commas; empty takes all", name)
        self.canvas.ask(start, "seed", "Seed", "Another draws other details", name)
        return prompts, start

    def traverse_images(self, loader, domain, neutral, images):
        """Prompts, projection of images and sampler; returns the sampler."""
        name = domain.name
        prompts, start = self.project(loader, domain, neutral, images)
        sampler = self.sampler(
            loader, prompts, name, seed=domain.neutrals[neutral], patients=1, start=start["start"]
        )
        self.canvas.ask(sampler, "swap_steps", "Swap steps λ", "The lower λ, the more changes", name)
        return sampler

    def export(self, images, source, original, part="", **more):
        """Write synthetic images as DICOM, at the size of their files."""
        stem = self.stem.removesuffix(SUFFIX) + (f"-{part}" if part else "")
        saved = self.canvas.add(
            "SaveMedicalImage",
            f"Save {part or 'counterfactuals as'} DICOM",
            images=images,
            source=source,
            original=original,
            filename_prefix=f"medtraverse/dicom-{stem}",
            size="the file's",
            **more,
        )
        self.canvas.show(saved)

    def traverse(self, loader, domain, neutral, patients, attributes="", name="", **settings):
        """Prompts and sampler; returns the sampler."""
        name = name or (f"{domain.name} {neutral}" if len(domain.neutrals) > 1 else domain.name)
        self.canvas.group(f"{name}: traversal")
        prompts = self.prompts(loader, neutral, attributes, name)
        sampler = self.sampler(
            loader, prompts, name, seed=domain.neutrals[neutral], patients=patients, **settings
        )
        self.canvas.ask(prompts, "attributes", "Attributes", "With commas; empty takes all", name)
        if self.stem == "00-start-here":
            self.canvas.ask(
                prompts, "extra_attributes", "Attributes of your own", "edema = Chest X-ray with edema"
            )
        self.canvas.ask(sampler, "seed", "First patient (seed)", "Each number is another patient", name)
        self.canvas.ask(sampler, "patients", "Number of patients", "Their seeds follow the first's", name)
        self.canvas.ask(sampler, "swap_steps", "Swap steps λ", "The lower λ, the more changes", name)
        return sampler

    def bezier(self, sampler, name):
        return self.canvas.add(
            "BezierLatentInterpolate", f"{name} Bézier curves", source=sampler["trajectory"]
        )

    def select(self, source, title, **kept):
        return self.canvas.add("TrajectorySelect", title, trajectory=source["trajectory"], **kept)

    def decode(self, loader, source, title):
        return self.canvas.add("VAEDecode", title, samples=source["latent"], vae=loader["vae"])["IMAGE"]

    def save(self, figure, part=""):
        """Save a figure with its vector twin and its numbers."""
        stem = self.stem.removesuffix(SUFFIX) + (f"-{part}" if part else "")
        saved = self.canvas.add(
            "SaveTraversalFigure",
            f"Save {figure.title}",
            drawing=figure["drawing"],
            filename_prefix=f"medtraverse/{stem}",
        )
        self.canvas.show(saved)

    def grid(self, source, images, name, part="", /, **options):
        figure = self.canvas.add(
            "TrajectoryGrid", name, trajectory=source["trajectory"], images=images, **options
        )
        if "max_patients" in options:
            self.canvas.ask(figure, "max_patients", "Patients shown", "The first ones", name)
        self.save(figure, part)


def start_here(g):
    g.about(
        "# Start here\nOne synthetic patient. It is denoised under *Normal chest X-ray with no significant "
        "findings*, and once more for every λ with the prompt swapped "
        "to an attribute after step λ. High λ changes little, low λ much: from left to right support devices "
        "or pleural effusion appear, and the patient stays. "
        "Then change the seed, the attribute (*Attributes of your own* takes your words) or the swap steps.",
        "10 seconds on two CPU cores.",
    )
    loader = g.load(CHEXPERT)
    sampler = g.traverse(loader, CHEXPERT, "normal", 1)
    g.canvas.group("Look", "figure")
    images = g.decode(loader, sampler, "Images")
    grid = g.canvas.add(
        "TrajectoryGrid",
        "Trajectory",
        trajectory=sampler["trajectory"],
        images=images,
        title="One patient, two attributes",
    )
    # In a form, the grid itself would show the file of its view beside the figure, as text.
    g.canvas.group("Figure", "figure")
    g.canvas.show(g.canvas.add("PreviewImage", "Figure", images=grid["figure"]))


def fig1(g):
    g.about(
        "# Fig. 1: traversal strip\nOne patient, two attributes: neutral, then the prompt swapped after step "
        "λ = 45, 40, … 5. One attribute changes, the identity is kept.",
        "19 images: 523 U-Net rows under guidance, 10 seconds on two CPU cores for the phantom model.",
    )
    loader = g.load(CHEXPERT)
    sampler = g.traverse(loader, CHEXPERT, "normal", 1)
    g.canvas.group("Fig. 1", "figure")
    g.grid(
        sampler,
        g.decode(loader, sampler, "Images"),
        "Traversal strip",
        title="Language-guided traversal of one patient",
    )


def fig3_chexpert(g):
    g.about(
        "# Fig. 3: swap grid, CheXpert\nThree patients (rows), support devices and pleural effusion, neutral "
        "and λ = 45 … 5 (columns).",
        "25 seconds on two CPU cores for the phantom model.",
    )
    loader = g.load(CHEXPERT)
    sampler = g.traverse(loader, CHEXPERT, "normal", 3)
    g.canvas.group("Fig. 3", "figure")
    g.grid(
        sampler,
        g.decode(loader, sampler, "Images"),
        "Swap grid",
        title="CheXpert: neutral and prompt swaps after step λ",
        max_patients=3,
    )


def fig3_isic(g):
    g.about(
        "# Fig. 3: swap grid, ISIC\nMelanoma (MEL) and melanocytic nevus (NV), each to hair, gel bubbles, "
        "ruler and ink. The prompts keep their brackets: *(MEL)* "
        "is encoded letter by letter.",
        "40 seconds on two CPU cores for the phantom model.",
    )
    loader = g.load(ISIC)
    for neutral in ISIC.neutrals:
        sampler = g.traverse(loader, ISIC, neutral, 1)
        g.canvas.group(f"Fig. 3, {neutral}", "figure")
        g.grid(
            sampler,
            g.decode(loader, sampler, f"{neutral} images"),
            f"{neutral} swap grid",
            neutral.lower(),
            title=f"ISIC, {neutral}: neutral and prompt swaps after step λ",
            max_patients=3,
        )


def fig4(g):
    g.about(
        "# Fig. 4: t-SNE of latents\nFinal latents of several patients, each with its two trajectories, "
        "joined from neutral (black) to λ = 5, thumbnails beside the ends. "
        "Trajectories start at their patient and leave in the attribute's direction. "
        + (
            "Perplexity 2 and random state 500 are the paper's."
            if g.paper
            else "Perplexity 0 chooses it by the number of latents."
        ),
        "35 seconds on two CPU cores for the phantom model.",
    )
    loader = g.load(CHEXPERT)
    sampler = g.traverse(loader, CHEXPERT, "normal", 4)
    g.canvas.group("Fig. 4", "figure")
    images = g.decode(loader, sampler, "Images")
    g.save(
        g.canvas.add(
            "LatentTSNE",
            "t-SNE",
            trajectory=sampler["trajectory"],
            images=images,
            perplexity=2.0 if g.paper else 0.0,
        )
    )


def fig5(g):
    g.about(
        "# Fig. 5: direction cosine\nCosine between z(λ) − z(neutral) and z(45) − z(neutral), mean and "
        "spread over patients, for all attributes of both domains: how far a "
        "trajectory bends. The paper's values are dashed, where it gives them (support devices, pleural "
        "effusion, ink on melanoma).",
        "100 seconds on two CPU cores for the phantom model; nothing is decoded.",
    )
    samplers = []
    for domain, neutral in ((CHEXPERT, "normal"), (ISIC, "MEL")):
        samplers.append(g.traverse(g.load(domain), domain, neutral, 30 if g.paper else 4))
    g.canvas.group("Fig. 5", "figure")
    g.save(
        g.canvas.add(
            "LatentDirectionCosine",
            "Direction cosines",
            trajectory=samplers[0]["trajectory"],
            trajectory_2=samplers[1]["trajectory"],
        )
    )


def fig6(g):
    g.about(
        "# Fig. 6: Bézier interpolation\nNeutral and the nine swaps are the control points of one Bézier "
        "curve of degree 9; its 50 frames are decoded. A strip and a video for "
        "all six attributes of both domains. *method* has other curves.",
        "60 seconds on two CPU cores for the phantom model.",
    )
    for domain, neutral in ((CHEXPERT, "normal"), (ISIC, "MEL")):
        loader = g.load(domain)
        sampler = g.traverse(loader, domain, neutral, 1)
        g.canvas.group(f"{domain.name}: Bézier", "traverse")
        shown = g.select(g.bezier(sampler, domain.name), f"{domain.name} first patient", patients=1)
        images = g.decode(loader, shown, f"{domain.name} frames")
        g.canvas.group(f"Fig. 6, {domain.name}", "figure")
        g.grid(
            shown,
            images,
            f"{domain.name} strip",
            domain.name.lower(),
            title=f"{domain.name}: Bézier interpolation",
        )
        g.canvas.group(f"Fig. 6, {domain.name}: film", "figure")
        film = g.canvas.add(
            "TrajectoryFilm", f"{domain.name} film", trajectory=shown["trajectory"], images=images
        )
        video = g.canvas.add("CreateVideo", f"{domain.name} video", images=film["frames"], fps=15.0)
        saved = g.canvas.add(
            "SaveVideo",
            f"Save {domain.name} video",
            video=video["VIDEO"],
            filename_prefix=f"medtraverse/{g.stem.removesuffix(SUFFIX)}-{domain.name.lower()}",
            format="mp4",
            codec="h264",
        )
        g.canvas.show(saved)


def cfrt(g, domain, patients, paper_patients, cost):
    pool = (
        (
            "\n\nThe paper scores 1,850 to 2,500 CheXpert seeds and 1,000 ISIC seeds. A run of this graph is "
            "one block of them, as its images must fit memory: queue it for "
            "further blocks (first patient + number of patients), and pool the rows of the CSV files."
        )
        if g.paper
        else ""
    )
    g.about(
        f"# CFRT, {domain.name}\nThe share of patients in whom the target attribute rose more than every "
        f"other (strictly), averaged over the far part: λ = 5, 10, 15 of the swaps, frames "
        f"30 to 49 of the Bézier curve. With 95 % intervals (Wilson), beside the published values. Only the "
        f"points that count are decoded.{pool}",
        cost,
    )
    loader = g.load(domain)
    classifier = g.classifier(domain)
    for neutral in domain.neutrals:
        name = domain.name if len(domain.neutrals) == 1 else neutral
        sampler = g.traverse(loader, domain, neutral, paper_patients if g.paper else patients)
        curve = g.bezier(sampler, name)
        for source, points, what in ((sampler, "5,10,15", "swaps"), (curve, "30-49", "Bézier frames")):
            g.canvas.group(f"{name}: far {what}", "measure")
            far = g.select(source, f"{name} far {what}", points=points)
            images = g.decode(loader, far, f"{name} images of {what}")
            table = g.canvas.add(
                "CFRTEvaluator",
                f"{name} CFRT of {what}",
                trajectory=far["trajectory"],
                images=images,
                image_classifier=classifier["classifier"],
            )
            g.save(
                table,
                "-".join(
                    [
                        *([neutral.lower()] if name == neutral else []),
                        what.split()[0].lower().replace("é", "e"),
                    ]
                ),
            )


def cfrt_chexpert(g):
    cfrt(g, CHEXPERT, 8, 50, "90 seconds on two CPU cores for the phantom model.")


def cfrt_isic(g):
    cfrt(g, ISIC, 4, 25, "3 minutes on two CPU cores for the phantom model, 4 patients of each diagnosis.")


def study(g, domain, paper_patients, cost):
    """CFRT of as many patients as the paper has, or of 200 on the demo, and the figures over all of them."""
    g.about(
        f"# CFRT of thousands of patients, {domain.name}\nThe paper's tables rest on 1,850 to 2,500 CheXpert "
        "seeds and 1,000 ISIC seeds. *Traversal Study* makes one patient after another, judges and measures "
        "it, keeps the numbers and lets the rest go: memory does not grow. The table fills while it runs. "
        "**Cancel** keeps what is done, and **Run** goes on from there, also after a crash.\n\nThe study is "
        "a folder in ComfyUI's output folder. `python -m medtraverse pool FOLDER` writes all its tables and "
        "figures. For several GPUs or machines, `python -m medtraverse study "
        f"{g.stem}` works on the same graph.",
        cost,
    )
    loader = g.load(domain)
    classifier = g.classifier(domain)
    for neutral in domain.neutrals:
        name = domain.name if len(domain.neutrals) == 1 else f"{domain.name} {neutral}"
        g.canvas.group(f"{name}: study")
        prompts = g.prompts(loader, neutral, "", name)
        size, noise = (512, "gpu") if g.paper else (0, "cpu")
        made = g.canvas.add(
            "MedicalStudy",
            f"{name} study",
            model=loader["model"],
            neutral=prompts["neutral"],
            negative=prompts["negative"],
            attributes=prompts["attributes"],
            vae=loader["vae"],
            image_classifier=classifier["classifier"],
            folder=f"medtraverse/{g.stem}" + (f"-{neutral.lower()}" if len(domain.neutrals) > 1 else ""),
            first_seed=domain.neutrals[neutral],
            patients=paper_patients if g.paper else 200,
            width=size,
            height=size,
            noise=noise,
        )
        g.canvas.ask(made, "patients", "Number of patients", "Those that are done stay", name)
        g.canvas.ask(made, "folder", "Folder", "Below ComfyUI's output", name)
        g.canvas.group(f"{name}: figures", "figure")
        part = neutral.lower() if len(domain.neutrals) > 1 else ""
        for output, what in (
            ("drawing", "swaps"),
            ("curve_drawing", "curve"),
            ("cosine_drawing", "cosine"),
            ("identity_drawing", "identity"),
        ):
            saved = g.canvas.add(
                "SaveTraversalFigure",
                f"Save {name} {what}",
                drawing=made[output],
                filename_prefix="-".join(
                    filter(None, (f"medtraverse/{g.stem.removesuffix(SUFFIX)}", part, what))
                ),
            )
            g.canvas.show(saved)


def study_chexpert(g):
    study(
        g,
        CHEXPERT,
        2500,
        "18 seconds of one CPU core a patient of the phantom model, an hour for 200 of them.",
    )


def study_isic(g):
    study(
        g,
        ISIC,
        1000,
        "about 35 seconds of one CPU core a patient of the phantom model, two hours for 200 of a diagnosis.",
    )


def combination(g):
    g.about(
        "# Attribute combination\nPleural effusion and support devices alone and together (*Chest X-ray "
        "showing Pleural Effusion, Support Devices*), from the same patients. The identity "
        "figure shows how much further the two together move the image.",
        "30 seconds on two CPU cores for the phantom model.",
    )
    loader = g.load(CHEXPERT)
    sampler = g.traverse(
        loader, CHEXPERT, "normal", 2, "support devices, pleural effusion, pleural effusion + support devices"
    )
    g.canvas.group("Combination", "figure")
    images = g.decode(loader, sampler, "Images")
    g.grid(sampler, images, "Combination grid", title="Two attributes, alone and together")
    g.canvas.group("Distance", "measure")
    g.save(
        g.canvas.add(
            "IdentityPreservation", "Distance to neutral", trajectory=sampler["trajectory"], images=images
        ),
        "distance",
    )


def lpips(g):
    g.about(
        "# Perceptual distance to neutral against λ\nHow far an image has moved from its patient's own "
        "neutral, mean and spread over patients, with the level of *other* patients beside it: "
        "a seed keeps much of a patient by itself. LPIPS where the *lpips* package and its AlexNet are at "
        "hand; ST-LPIPS, or none, otherwise, as the figure says.",
        "2 minutes on two CPU cores for the phantom model.",
    )
    for domain, neutral in ((CHEXPERT, "normal"), (ISIC, "MEL")):
        loader = g.load(domain)
        sampler = g.traverse(loader, domain, neutral, 30 if g.paper else 4)
        g.canvas.group(f"{domain.name}: distance", "figure")
        images = g.decode(loader, sampler, f"{domain.name} images")
        figure = g.canvas.add(
            "IdentityPreservation",
            f"{domain.name} distance to neutral",
            trajectory=sampler["trajectory"],
            images=images,
        )
        g.save(figure, domain.name.lower())


def confounded(g):
    g.about(
        "# Confounded training data\nTwo models of the same base, the same patients, the same prompts. One "
        "was fine-tuned on films where support devices and pleural effusion are independent; the "
        "other on films where they come together, as in hospitals, and where most captions name the effusion "
        "alone. That one has learned devices under the words *Pleural "
        "Effusion*: devices rise as much as the effusion that was asked for, or more, and its CFRT falls. In "
        "the panel a click on the bar lists the patients, and what leaked.\n\n"
        "CFRT asks which attribute changed *most*. A leak that rises less than its target costs nothing: "
        "read the mean Δ of all labels too.",
        "2 minutes on two CPU cores.",
    )
    classifier = None
    for domain, name in ((CHEXPERT, "independent"), (CONFOUNDED, "confounded")):
        loader = g.load(domain, name)
        classifier = classifier or g.classifier(domain)
        sampler = g.traverse(loader, domain, "normal", 8, name=name)
        g.canvas.group(f"Trained on {name} findings", "measure")
        far = g.select(sampler, f"{name} far swaps", points="5,10,15")
        images = g.decode(loader, far, f"{name} images")
        g.grid(
            far, images, f"{name} grid", f"{name}-grid", title=f"Trained on {name} findings", max_patients=3
        )
        g.canvas.group(f"CFRT, trained on {name} findings", "measure")
        table = g.canvas.add(
            "CFRTEvaluator",
            f"{name} CFRT",
            trajectory=far["trajectory"],
            images=images,
            image_classifier=classifier["classifier"],
        )
        g.save(table, name)


def real_image(g):
    g.about(
        "# A real image, one patient\nAn image from a file becomes the patient: the neutral column is the "
        "image itself, as the VAE gives it back, and every other column is the same patient with an "
        "attribute. Fig. 1 of the paper begins so. **Drop** a DICOM file, a PNG or a JPEG on the image node. "
        "What the file says about the patient stays in it.\n\n*Project to Latent* says how well the model "
        "knows the image: what it draws on an image that it calls far means little. At λ = 5 anatomy may "
        "move; look at λ = 10 and higher.\n\nThe image at λ = 15 is written as DICOM, marked as synthetic in "
        "its header and in a corner, and compared with the original. DICOM needs pydicom: "
        '`pip install "medtraverse[dicom]"`.',
        "one minute on two CPU cores for the phantom model.",
    )
    for domain, neutral, file, attribute in (
        (CHEXPERT, "normal", DEMO_CHEST, "pleural effusion"),
        (ISIC, "MEL", DEMO_SKIN, "hair"),
    ):
        name = domain.name
        loader = g.load(domain)
        images = g.real_images(loader, domain, file, f"choose a {name} image")
        sampler = g.traverse_images(loader, domain, neutral, images)
        g.canvas.group(f"{name}: Fig. 1", "figure")
        g.grid(
            sampler,
            g.decode(loader, sampler, f"{name} images"),
            f"{name} strip",
            name.lower(),
            title=f"{name}: traversal of one image",
        )
        g.canvas.group(f"{name}: export", "figure")
        chosen = g.select(sampler, f"{name} export", attributes=attribute, points="15")
        decoded = g.decode(loader, chosen, f"{name} image and λ = 15")
        swapped = g.canvas.add(
            "ImageFromBatch", f"{name} λ = 15 alone", image=decoded, batch_index=1, length=1
        )
        g.export(
            swapped["IMAGE"],
            images["source"],
            images["images"],
            name.lower(),
            trajectory=chosen["trajectory"],
        )


def minimal_counterfactuals(g):
    g.about(
        "# Minimal counterfactuals of a folder\nFor each image of a folder and each attribute the largest λ, "
        "that is the fewest changed steps, at which the classifier finds the attribute and no other label: "
        "what is the least that would have to be different? Each pair stands beside its difference"
        + ("" if g.paper else ", and on these phantoms beside the true counterfactual")
        + ", with its λ, its probabilities and what else moved. The table has all numbers.\n\nPut a folder "
        "of DICOM files or images into ComfyUI's input folder, or drop several files on the image node. "
        "*first* and *count* take a large folder in parts.\n\nTo **remove** a finding, start from images "
        "that have it: wire its prompt as *neutral*, the normal prompt as *attributes*, and set *goal* to "
        "disappear.",
        "3 minutes on two CPU cores for four phantoms and two attributes.",
    )
    domain = CHEXPERT
    loader = g.load(domain)
    classifier = g.classifier(domain)
    images = g.real_images(loader, domain, DEMO_CHESTS, "choose a folder of images")
    prompts, start = g.project(loader, domain, "normal", images, image_classifier=classifier["classifier"])
    g.canvas.group("Minimal counterfactuals", "measure")
    known = {}
    if not g.paper:
        truth = g.canvas.add(
            "LoadMedicalImage", "True counterfactuals", file=DEMO_TRUTHS, domain=loader["domain"]
        )
        known = {"truth": truth["images"]}
    found = g.canvas.add(
        "MinimalCounterfactual",
        "Minimal counterfactuals",
        model=loader["model"],
        neutral=prompts["neutral"],
        negative=prompts["negative"],
        attributes=prompts["attributes"],
        start=start["start"],
        vae=loader["vae"],
        image_classifier=classifier["classifier"],
        **known,
    )
    g.canvas.ask(found, "probability", "Probability to pass", "Of the target label")
    g.canvas.group("Save", "figure")
    g.save(found)
    g.export(found["counterfactuals"], images["source"], found["originals"], derivation=found["table"])


def own_classifier(g, domain, what, attributes=""):
    """CFRT of swaps, with a user's own checkpoint and a classifier of another library."""
    g.about(
        f"# CFRT with {what}\nThe share of patients in whom the target attribute rose more than every other, "
        "averaged over λ = 5, 10 and 15, the only ones that are sampled. A label of the classifier is an "
        "attribute's whatever its case, spaces, hyphens and underscores, or by the domain's other words for "
        "it (*Effusion* is pleural effusion). One that the classifier does not know is told before anything "
        "is sampled. What is doubtful in its answers stands below the table.",
        "50 + 117 U-Net rows for each attribute of a patient, twice under guidance: minutes on a GPU.",
    )
    loader = g.load(domain)
    classifier = g.classifier(domain)
    sampler = g.traverse(loader, domain, "normal", 20, attributes, swap_steps="15,10,5")
    g.canvas.group("CFRT", "measure")
    images = g.decode(loader, sampler, "Images")
    g.grid(sampler, images, "Swap grid", "grid", title="Neutral and far swaps", max_patients=3)
    g.save(
        g.canvas.add(
            "CFRTEvaluator",
            "CFRT of swaps",
            trajectory=sampler["trajectory"],
            images=images,
            image_classifier=classifier["classifier"],
        ),
        "cfrt",
    )


def hugging_face(g):
    own_classifier(g, HUGGING_FACE, "a Hugging Face classifier")


def torchxrayvision(g):
    """torchxrayvision has no Support Devices; PRISM's domain has the paper's template for its labels."""
    own_classifier(
        g, TORCHXRAYVISION, "a torchxrayvision classifier", "pleural effusion, cardiomegaly, edema"
    )


BUILDERS = {
    "00-start-here": start_here,
    "01-fig1-traversal-strip": fig1,
    "02-fig3-swap-grid-chexpert": fig3_chexpert,
    "03-fig3-swap-grid-isic": fig3_isic,
    "04-fig4-latent-tsne": fig4,
    "05-fig5-direction-cosine": fig5,
    "06-fig6-bezier": fig6,
    "07-cfrt-chexpert": cfrt_chexpert,
    "08-cfrt-isic": cfrt_isic,
    "09-attribute-combination": combination,
    "10-distance-to-neutral": lpips,
    "11-confounded-training": confounded,
    "12-real-image": real_image,
    "13-minimal-counterfactuals": minimal_counterfactuals,
    "14-cfrt-huggingface": hugging_face,
    "15-cfrt-torchxrayvision": torchxrayvision,
    "16-study-chexpert": study_chexpert,
    "17-study-isic": study_isic,
}
DEMO_ONLY = ("00-start-here", "11-confounded-training")
# Nothing that ships can stand in for their files; there is no second form of them.
OWN_FILES = ("14-cfrt-huggingface", "15-cfrt-torchxrayvision")


def names():
    """Return all stems, each workflow on the shipped model before its twin with the paper's settings."""
    return [
        name + suffix
        for name in BUILDERS
        for suffix in ("", SUFFIX)
        if not suffix or name not in (*DEMO_ONLY, *OWN_FILES)
    ]


def draw(canvas):
    """Put the workflow of the canvas's name on it."""
    BUILDERS[canvas.name.removesuffix(SUFFIX)](Graph(canvas, canvas.name.endswith(SUFFIX)))
    return canvas

"""Classifiers saved by other libraries, judged as those libraries judge; each file is made by its library."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from medtraverse.classifiers.huggingface import read_huggingface
from medtraverse.classifiers.judge import SIGMOID, SOFTMAX, Settings
from medtraverse.classifiers.timm_folder import read_timm
from medtraverse.classifiers.torchvision_state import read_torchvision
from medtraverse.classifiers.torchxrayvision_state import (
    PATHOLOGIES,
    is_torchxrayvision,
    read_torchxrayvision,
)
from medtraverse.classifiers.zero_shot import parse_prompts, read_clip


@pytest.fixture(scope="module")
def images():
    """Three RGB images [3, 96, 80, 3] in 0..1, of 8 bits as files are."""
    draws = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(draw).resize((80, 96), Image.Resampling.BICUBIC)) for draw in draws]
    return torch.from_numpy(np.stack(large)).float() / 255


def pictures(images):
    return [Image.fromarray((image.numpy() * 255).round().astype(np.uint8)) for image in images]


def judged(judge, images):
    with torch.inference_mode():
        return judge.probabilities(judge.prepare(images))


@pytest.fixture
def vit(tmp_path):
    """Makes a transformers ViT folder with its processor; more keywords go to the config."""

    def make(processor=True, safe=True, **config):
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

        torch.manual_seed(1)
        config = {"num_labels": 3, **config}
        network = ViTForImageClassification(
            ViTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                image_size=64,
                patch_size=16,
                **config,
            )
        )
        network.save_pretrained(tmp_path)
        if processor:
            ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
        return tmp_path, network.eval()

    return make


@pytest.mark.parametrize(
    ("problem", "activation"),
    [("multi_label_classification", SIGMOID), ("single_label_classification", SOFTMAX), (None, SOFTMAX)],
)
def test_huggingface_judges_as_its_own_pipeline(vit, images, problem, activation):
    from transformers import pipeline

    names = {0: "Edema", 1: "Pleural Effusion", 2: "Support Devices"}
    folder, _ = vit(id2label=names, problem_type=problem)
    judge = read_huggingface(folder)
    assert judge.labels == tuple(names.values())
    assert judge.activation == activation
    own = pipeline("image-classification", model=str(folder), top_k=None)(pictures(images))
    wanted = torch.tensor(
        [[next(x["score"] for x in item if x["label"] == name) for name in judge.labels] for item in own]
    )
    assert (judged(judge, images) - wanted).abs().max() <= 1e-5
    assert judge.features(judge.prepare(images)).shape == (3, 32)


def test_huggingface_without_a_processor_says_what_it_takes_instead(vit, images):
    folder, _ = vit(processor=False)
    judge = read_huggingface(folder)
    assert "has no preprocessor_config.json" in judge.notes[0]
    assert judge.prepare(images).shape == (3, 3, 64, 64)
    assert judge.labels is None  # LABEL_0, LABEL_1, LABEL_2 are placeholders


def test_huggingface_refuses_foreign_code_and_untrained_heads(vit):
    folder, network = vit()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling.Model"}}))
    with pytest.raises(ValueError, match="code of its own"):
        read_huggingface(folder)
    (folder / "config.json").write_text(json.dumps(config))
    network.vit.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="weights lack"):
        read_huggingface(folder)


def test_timm_judges_with_its_own_transform(tmp_path, images):
    timm = pytest.importorskip("timm")
    from timm.data import create_transform, resolve_data_config
    from timm.models import save_for_hf

    torch.manual_seed(2)
    network = timm.create_model("resnet10t", num_classes=2, pretrained=False).eval()
    save_for_hf(network, tmp_path, model_config={"label_names": ["hair", "ink"]})
    judge = read_timm(tmp_path, Settings(activation=SIGMOID))
    transform = create_transform(
        **resolve_data_config(pretrained_cfg=network.pretrained_cfg), is_training=False
    )
    with torch.inference_mode():
        wanted = torch.sigmoid(network(torch.stack([transform(picture) for picture in pictures(images)])))
    assert judge.labels == ("hair", "ink")
    assert (judged(judge, images) - wanted).abs().max() <= 1e-5
    assert judge.features(judge.prepare(images)).shape == (3, 512)
    assert "do not say" in read_timm(tmp_path).notes[0]


@pytest.mark.parametrize(
    "architecture",
    [
        "densenet121",
        "resnet18",
        "swin_t",
        "convnext_tiny",
        "vit_b_32",
        "mobilenet_v3_small",
        "efficientnet_v2_s",
    ],
)
def test_a_torchvision_state_dict_tells_its_architecture(tmp_path, images, architecture):
    import torchvision

    torch.manual_seed(3)
    network = torchvision.models.get_model(architecture, weights=None, num_classes=4).eval()
    judge = read_torchvision(
        network.state_dict(), tmp_path / "mine.pth", Settings(sidecar={"labels": ["a", "b", "c", "d"]})
    )
    assert judge.kind == f"torchvision {architecture}"
    inputs = judge.prepare(images)
    assert inputs.shape == (3, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(judged(judge, images), torch.sigmoid(network(inputs)))
        assert judge.features(inputs).ndim == 2


def test_a_head_behind_dropout_is_read(tmp_path, images):
    import torchvision

    network = torchvision.models.resnet18(weights=None).eval()
    network.fc = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(512, 2))
    network.eval()
    judge = read_torchvision(network.state_dict(), tmp_path / "mine.pth")
    with torch.inference_mode():
        assert torch.equal(judged(judge, images), torch.sigmoid(network(judge.prepare(images))))
    assert judge.labels is None


def test_one_channel_needs_its_range(tmp_path, images):
    import torchvision

    network = torchvision.models.resnet18(weights=None, num_classes=2)
    network.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    with pytest.raises(ValueError, match="one channel, and nothing says in which range"):
        read_torchvision(network.state_dict(), tmp_path / "mine.pth")
    sidecar = {"mean": [0.5], "std": [0.25], "image_size": 64, "labels": ["a", "b"]}
    judge = read_torchvision(network.state_dict(), tmp_path / "mine.pth", Settings(sidecar=sidecar))
    assert judge.prepare(images).shape == (3, 1, 64, 64)
    assert judge.labels == ("a", "b")


def test_what_is_no_model_of_torchvision_is_named(tmp_path):
    with pytest.raises(ValueError, match="none of torchvision's"):
        read_torchvision({"stem.weight": torch.zeros(2, 2)}, tmp_path / "mine.pth")


@pytest.mark.parametrize("side", [224, 512, 160])
def test_torchxrayvision_judges_as_torchxrayvision(tmp_path, side):
    xrv = pytest.importorskip("torchxrayvision")
    torch.manual_seed(4)
    network = xrv.models.DenseNet(num_classes=18).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    state = network.state_dict()
    assert is_torchxrayvision(state)
    judge = read_torchxrayvision(state, tmp_path / "densenet121-res224-all.pth")
    assert judge.labels == PATHOLOGIES == tuple(xrv.datasets.default_pathologies)
    smooth = torch.nn.functional.interpolate(
        torch.rand(2, 1, 20, 24), size=(side, side + 32), mode="bicubic"
    ).clamp(0, 1)
    films = smooth[:, 0].unsqueeze(-1).expand(-1, -1, -1, 3)
    crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(224)
    own = [resize(crop(xrv.utils.normalize(film.numpy(), 1)[None])) for film in films[..., 0]]
    inputs = judge.prepare(films)
    assert (inputs - torch.from_numpy(np.stack(own))).abs().max() / 1024 <= 1e-5
    with torch.inference_mode():
        wanted = torch.sigmoid(network.classifier(network.features2(torch.from_numpy(np.stack(own)))))
        assert (judge.probabilities(inputs) - wanted).abs().max() <= 1e-5


def test_torchxrayvision_leaves_out_what_its_weights_do_not_know(tmp_path):
    xrv = pytest.importorskip("torchxrayvision")
    thresholds = torch.full((18,), 0.5)
    thresholds[[2, 5]] = torch.nan
    state = xrv.models.DenseNet(num_classes=18, op_threshs=thresholds).state_dict()
    judge = read_torchxrayvision(state, tmp_path / "densenet121-res224-rsna.pth")
    assert len(judge.labels) == 16
    assert "Infiltration" not in judge.labels
    assert judged(judge, torch.rand(1, 224, 224, 3)).shape == (1, 16)
    assert "Support Devices" in judge.notes[0]


@pytest.fixture
def clip(tmp_path):
    """A small CLIP folder of transformers, its tokenizer made of letters."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    letters = [chr(number) for number in range(33, 127)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(
        json.dumps({token: number for number, token in enumerate(vocabulary)})
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=77)
    torch.manual_seed(5)
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ends = {
        "vocab_size": len(vocabulary),
        "bos_token_id": len(vocabulary) - 2,
        "eos_token_id": len(vocabulary) - 1,
    }
    config = CLIPConfig(
        text_config={**text, **ends},
        vision_config={**text, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    network = CLIPModel(config).eval()
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        tmp_path
    )
    return tmp_path, network, tokenizer


def test_clip_judges_by_prompts_as_transformers_does(clip, images):
    from transformers import CLIPImageProcessor

    folder, network, tokenizer = clip
    prompts = ["effusion in a chest", "a pacemaker", "normal lungs"]
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(folder)(
        images=pictures(images), return_tensors="pt"
    ).pixel_values
    with torch.inference_mode():
        logits = network(**tokens, pixel_values=pixels).logits_per_image
    over_all = read_clip(
        folder,
        Settings(labels=("effusion = effusion in a chest", "devices = a pacemaker", "no = normal lungs")),
    )
    assert over_all.labels == ("effusion", "devices", "no")
    assert (judged(over_all, images) - logits.softmax(1)).abs().max() <= 1e-5
    paired = read_clip(
        folder,
        Settings(
            labels=("effusion = effusion in a chest | normal lungs", "devices = a pacemaker | normal lungs")
        ),
    )
    pairs = torch.stack([logits[:, [0, 2]].softmax(1)[:, 0], logits[:, [1, 2]].softmax(1)[:, 0]], 1)
    assert (judged(paired, images) - pairs).abs().max() <= 1e-5
    assert paired.features(paired.prepare(images)).shape == (3, 16)


@pytest.mark.parametrize(
    "lines", [(), ("effusion",), ("effusion = ",), ("a = b | c", "d = e"), ("a = b",), (" = b | c",)]
)
def test_prompts_of_another_form_are_refused(lines):
    with pytest.raises(ValueError, match="label = prompt"):
        parse_prompts(lines, "CLIP")


def test_open_clip_judges_by_prompts_as_open_clip_does(tmp_path, images):
    open_clip = pytest.importorskip("open_clip")
    towers = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
    torch.manual_seed(6)
    made = open_clip.CLIP(**towers)
    torch.save(made.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    processing = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": towers, "preprocess_cfg": processing})
    )
    judge = read_clip(
        tmp_path, Settings(labels=("effusion = pleural effusion | normal", "ink = ink | clean skin"))
    )
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(
        ["pleural effusion", "normal", "ink", "clean skin"]
    )
    with torch.inference_mode():
        seen = torch.stack([transform(picture) for picture in pictures(images)])
        logits = model.logit_scale.exp() * (
            model.encode_image(seen, normalize=True) @ model.encode_text(tokens, normalize=True).T
        )
    wanted = torch.stack([logits[:, :2].softmax(1)[:, 0], logits[:, 2:].softmax(1)[:, 0]], 1)
    assert (judged(judge, images) - wanted).abs().max() <= 1e-5


@pytest.fixture(scope="module")
def biomedclip(tmp_path_factory):
    """A folder of BiomedCLIP's layout, saved by open_clip: timm's ViT beside a BERT of transformers."""
    open_clip = pytest.importorskip("open_clip")
    from open_clip.push_to_hf_hub import save_for_hf
    from transformers import BertConfig, BertTokenizerFast

    folder, bert = tmp_path_factory.mktemp("biomedclip"), tmp_path_factory.mktemp("bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "pleural",
        "effusion",
        "normal",
        "ink",
        "clean",
        "skin",
    ]
    (bert / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(bert / "vocab.txt")).save_pretrained(bert)
    BertConfig(
        vocab_size=len(words),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=64,
        max_position_embeddings=32,
    ).save_pretrained(bert)
    towers = {
        "embed_dim": 16,
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {
            "hf_model_name": str(bert),
            "hf_tokenizer_name": str(bert),
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "hf_model_pretrained": False,
            "context_length": 16,
        },
    }
    torch.manual_seed(8)
    model = open_clip.CustomTextCLIP(**json.loads(json.dumps(towers)))
    open_clip.factory.set_model_preprocess_cfg(model, {"mean": [0.5] * 3, "std": [0.25] * 3})
    tokenizer = open_clip.tokenizer.HFTokenizer(str(bert), context_length=16)
    save_for_hf(model, tokenizer, towers, folder)
    return folder, bert


def test_biomedclip_judges_offline_as_open_clip_does(biomedclip, images, monkeypatch):
    import open_clip

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder, bert = biomedclip
    with torch.inference_mode():
        model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        model.eval()
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(
            ["pleural effusion", "normal", "ink", "clean skin"]
        )
        seen = torch.stack([transform(picture) for picture in pictures(images)])
        logits = model.logit_scale.exp() * (
            model.encode_image(seen, normalize=True) @ model.encode_text(tokens, normalize=True).T
        )
    wanted = torch.stack([logits[:, :2].softmax(1)[:, 0], logits[:, 2:].softmax(1)[:, 0]], 1)
    # As it is downloaded: the text encoder is a name on the Hub, of which the folder has the config.
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = (
        "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    )
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    settings = Settings(labels=("effusion = pleural effusion | normal", "ink = ink | clean skin"))
    with pytest.raises(ValueError, match="copy config.json of microsoft/BiomedNLP"):
        read_clip(folder, settings)
    (folder / "config.json").write_bytes((bert / "config.json").read_bytes())
    judge = read_clip(folder, settings)
    assert (judged(judge, images) - wanted).abs().max() <= 1e-5
    assert judge.labels == ("effusion", "ink") and judge.input_size == (224, 224)

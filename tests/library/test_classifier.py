"""Loading and prediction of attribute classifiers, in the paper's format and in that of metadata."""

import hashlib
import json
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from medtraverse.classifier import load_classifier

torchvision = pytest.importorskip("torchvision")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def small_network(logits, width=0.25, seed=0):
    """EfficientNet-B0's topology, shallow and narrow."""
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    torch.manual_seed(seed)
    row = partial(MBConvConfig, width_mult=width, depth_mult=0.25)
    rows = [(1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 3)]
    rows += [(6, 5, 1, 80, 112, 3), (6, 5, 2, 112, 192, 4), (6, 3, 1, 192, 320, 1)]
    return unsettle(EfficientNet([row(*r) for r in rows], dropout=0.3, num_classes=logits))


def unsettle(network):
    """Take batch statistics from noise: else a deep random network gives every image the same score."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()((patches(16).permute(0, 3, 1, 2) - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))
    return network.eval()


def patches(count, size=64):
    """Images [N, H, W, 3] that differ in colour and coarse pattern."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(count))
    return (
        torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
        .clamp(0, 1)
        .permute(0, 2, 3, 1)
    )


def prefixed(network):
    return {f"model.{key}": value.contiguous() for key, value in network.state_dict().items()}


def save_small(path, labels=("hair", "ink"), size=64, seed=0, **metadata):
    network = small_network(len(labels), seed=seed)
    save_file(
        prefixed(network),
        str(path),
        metadata={"labels": json.dumps(labels), "image_size": json.dumps(size)} | metadata,
    )
    return network


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "small.safetensors"
    return path, save_small(path)


@pytest.fixture(scope="module")
def images():
    return patches(7)


def test_paper_checkpoint_gives_torchvisions_own_logits(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.efficientnet_b0()
    network.classifier = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(1280, 4))
    unsettle(network)
    torch.save({"model_state_dict": prefixed(network), "epoch": 3}, tmp_path / "best.pth")
    labels = ["hair", "gel bubble", "ruler", "ink"]
    classifier = load_classifier(tmp_path / "best.pth", labels, input_size=96)
    images = patches(3, 96)
    with torch.inference_mode():
        logits = network(((images - MEAN) / STD).permute(0, 3, 1, 2))
    assert logits.std(0).min() > 1e-3, "the images must differ in their logits, or this test has no power"
    torch.testing.assert_close(classifier.predict(images), torch.sigmoid(logits), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        classifier.judges[0](((images - MEAN) / STD).permute(0, 3, 1, 2)), logits, atol=1e-5, rtol=1e-4
    )
    assert classifier.labels == tuple(labels)
    assert classifier.features(images).shape == (3, 1280)


class Wrapped(torch.nn.Module):
    """As many write it: the network without its head as `backbone`, a head of their own, and the loss."""

    def __init__(self, network, name="fc"):
        super().__init__()
        features = torch.nn.Sequential()
        features.features = network.features
        self.backbone = features
        setattr(self, name, network.classifier[-1])
        self.criterion = torch.nn.BCEWithLogitsLoss(pos_weight=torch.ones(2))


FORMS = {
    "Lightning": lambda n: {"state_dict": prefixed(n), "epoch": 1, "hyper_parameters": {"lr": 1e-4}},
    "container model": lambda n: {"model": n.state_dict(), "optimizer": {"state": {}}},
    "DataParallel": lambda n: torch.nn.DataParallel(n).state_dict(),
    "compiled": lambda n: torch.compile(n).state_dict(),
    "DataParallel in Lightning": lambda n: {
        "state_dict": {f"model.{k}": v for k, v in torch.nn.DataParallel(n).state_dict().items()}
    },
    "backbone and fc": lambda n: Wrapped(n).state_dict(),
    "backbone and a sequence": lambda n: {
        k.replace("head.", "head.2."): v for k, v in Wrapped(n, "head").state_dict().items()
    },
    "bare linear head": lambda n: {
        k.replace("classifier.1", "classifier"): v for k, v in n.state_dict().items()
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_trainers_and_wrappers_leave_around_a_network_does_not_matter(tmp_path, images, form):
    network = small_network(2)
    torch.save(form(network), tmp_path / "a.ckpt")
    classifier = load_classifier(tmp_path / "a.ckpt", ["hair", "ink"], 64)
    with torch.inference_mode():
        logits = network(((images - MEAN) / STD).permute(0, 3, 1, 2))
    assert logits.std(0).min() > 1e-3, "the images must differ in their logits, or this test has no power"
    torch.testing.assert_close(classifier.predict(images), torch.sigmoid(logits), atol=1e-5, rtol=0)


def test_a_head_of_several_layers_is_named(tmp_path):
    state = small_network(2).state_dict()
    state = {k: v for k, v in state.items() if not k.startswith("classifier")}
    channels = state["features.8.0.weight"].shape[0]
    state |= {"classifier.1.weight": torch.zeros(8, channels), "classifier.4.weight": torch.zeros(2, 8)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"2 linear layers behind its features .classifier.1.weight, classifier.4"
    ):
        load_classifier(tmp_path / "a.pth", ["hair", "ink"])


def test_paper_input_size_is_the_default(tmp_path):
    torch.save(small_network(1).state_dict(), tmp_path / "bare.pt")
    assert load_classifier(tmp_path / "bare.pt", ["ink"]).input_size == 512


def test_metadata_names_labels_and_size(small):
    path, _network = small
    classifier = load_classifier(path)
    assert (classifier.labels, classifier.input_size) == (("hair", "ink"), 64)
    assert classifier.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(not p.requires_grad for p in classifier.module.parameters()) and not classifier.module.training
    assert load_classifier(path, ["a", "b"], input_size=96).labels == ("a", "b")


def test_prediction_is_independent_of_batch_size_and_order(small, images):
    classifier = load_classifier(small[0])
    whole = classifier.predict(images)
    assert whole.dtype == torch.float32 and whole.shape == (7, 2) and not whole.is_inference()
    assert whole.std(0).min() > 1e-3, "the images must differ in their scores, or this test has no power"
    for size in (1, 3, 7):
        torch.testing.assert_close(classifier.predict(images, batch_size=size), whole, atol=1e-5, rtol=0)
    order = torch.tensor([3, 0, 6, 5, 1, 4, 2])
    torch.testing.assert_close(
        classifier.predict(images[order], batch_size=2), whole[order], atol=1e-5, rtol=0
    )


def test_training_mode_does_not_leak_into_prediction(small, images):
    classifier = load_classifier(small[0])
    before = classifier.predict(images)
    classifier.module.train()
    torch.testing.assert_close(classifier.predict(images), before)


def test_other_sizes_are_resized_with_antialiasing(small):
    classifier = load_classifier(small[0])
    coarse = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(2))
    fine = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)
    shrunk = torch.nn.functional.interpolate(
        fine.permute(0, 3, 1, 2), size=(64, 64), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(
        classifier.predict(fine), classifier.predict(shrunk.permute(0, 2, 3, 1)), atol=1e-5, rtol=0
    )
    assert classifier.predict(torch.rand(1, 80, 120, 3)).shape == (1, 2)


def test_one_logit_files_join_into_one_classifier(tmp_path, images):
    for index, label in enumerate(("support devices", "pleural effusion")):
        save_small(tmp_path / f"{index}.safetensors", [label], seed=index)
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    pair = load_classifier(paths)
    assert pair.labels == ("support devices", "pleural effusion")
    assert pair.sha256 == ",".join(hashlib.sha256(p.read_bytes()).hexdigest() for p in paths)
    single = torch.cat([load_classifier(p).predict(images) for p in paths], 1)
    torch.testing.assert_close(pair.predict(images), single)
    assert pair.features(images).shape[1] == 2 * load_classifier(paths[0]).features(images).shape[1]


def test_progress_counts_images_and_may_cancel(small, images):
    classifier, seen = load_classifier(small[0]), []
    classifier.predict(images, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]

    def cancel(done, total):
        raise InterruptedError("cancelled")

    with pytest.raises(InterruptedError):
        classifier.predict(images, batch_size=3, progress=cancel)


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory."), RuntimeError("MPS backend out of memory")]
)
def test_out_of_memory_halves_the_batch_and_loses_no_image(small, images, error):
    classifier, sizes, seen = load_classifier(small[0]), [], []
    whole = classifier.predict(images)

    def small_card(module, inputs):
        sizes.append(len(inputs[0]))
        if sizes[-1] > 2:
            raise error

    hook = classifier.module.register_forward_pre_hook(small_card)
    scores = classifier.predict(images, progress=lambda done, total: seen.append(done))
    assert sizes == [7, 4, 2, 2, 2, 1] and seen == [2, 4, 6, 7]
    torch.testing.assert_close(scores, whole, atol=1e-5, rtol=0)
    hook.remove()
    classifier.module.register_forward_pre_hook(lambda module, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        classifier.predict(images)


def test_half_precision_files_run_in_float32(tmp_path, images):
    network = small_network(1).half().float()
    state = {
        key: value.half() if value.is_floating_point() else value for key, value in prefixed(network).items()
    }
    save_file(state, str(tmp_path / "half.safetensors"))
    classifier = load_classifier(tmp_path / "half.safetensors", ["ink"], 64)
    assert {p.dtype for p in classifier.module.parameters()} == {torch.float32}
    with torch.inference_mode():
        exact = torch.sigmoid(network(((images - MEAN) / STD).permute(0, 3, 1, 2)))
    torch.testing.assert_close(classifier.predict(images), exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.rand(2, 3, 64, 64), "images: .*2, 3, 64, 64.*height, width, 3"),
        (torch.rand(64, 64, 3), "images: .*64, 64, 3"),
        (torch.zeros(1, 64, 64, 3, dtype=torch.uint8), "images: torch.uint8"),
        (torch.rand(0, 64, 64, 3), "images: the batch is empty"),
        (torch.full((1, 64, 64, 3), float("nan")), "NaN"),
        (torch.full((1, 64, 64, 3), 255.0), "images: they range from 255 to 255"),
        ([[0.5]], "images: list"),
    ],
)
def test_bad_images_are_named(small, bad, message):
    with pytest.raises(ValueError, match=message):
        load_classifier(small[0]).predict(bad)


def test_bad_batch_size_is_named(small, images):
    with pytest.raises(ValueError, match="batch_size: 0 is no"):
        load_classifier(small[0]).predict(images, batch_size=0)


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".safetensors":
        save_file(content, str(path))
    else:
        torch.save(content, path)
    return path


def without(key):
    state = prefixed(small_network(1))
    del state[key]
    return state


BROKEN = {
    "not safetensors": (
        "x.safetensors",
        lambda: b"not a header at all",
        "x.safetensors could not be read as safetensors",
    ),
    "empty file": ("x.safetensors", lambda: b"", "x.safetensors is empty"),
    "not a checkpoint": ("x.pth", lambda: b"junk", "x.pth could not be read as PyTorch weights"),
    "pickled module": (
        "x.pth",
        lambda: torch.nn.Linear(1, 1),
        "x.pth .* holds Python objects .torch.nn.modules.linear.Linear",
    ),
    "other suffix": ("x.onnx", lambda: b"junk", "x.onnx ends in '.onnx'"),
    "no state dict": ("x.pth", lambda: {"epoch": 3}, "x.pth holds the keys 'epoch' and no state dict"),
    "other architecture": (
        "x.pth",
        lambda: torchvision.models.squeezenet1_1().state_dict(),
        "x.pth is none of torchvision.*its keys begin with features.0.weight",
    ),
    "headless": (
        "x.pth",
        lambda: without("model.classifier.1.weight"),
        "is not an EfficientNet .no key 'classifier.1.weight'",
    ),
    "missing key": (
        "x.safetensors",
        lambda: without("model.features.8.1.bias"),
        r"1 keys missing \(features.8.1.bias\)",
    ),
    "unmapped key": (
        "x.safetensors",
        lambda: prefixed(small_network(1)) | {"model.extra": torch.zeros(1)},
        r"1 keys unmapped \(extra\)",
    ),
    "wrong shape": (
        "x.safetensors",
        lambda: prefixed(small_network(1)) | {"model.classifier.1.bias": torch.zeros(5)},
        "classifier.1.bias .5., not .1.",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        load_classifier(write(tmp_path / name, content()), ["ink"])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="classifier: file gone.safetensors is missing"):
        load_classifier(tmp_path / "gone.safetensors")


def test_labels_and_sizes_are_checked(tmp_path, small):
    path = small[0]
    save_file(prefixed(small_network(1)), str(tmp_path / "bare.safetensors"))
    save_small(tmp_path / "large.safetensors", ["ruler"], size=96)
    save_small(tmp_path / "broken.safetensors", labels="[hair")
    for arguments, message in [
        (([],), "classifier: no file is named"),
        ((tmp_path / "bare.safetensors",), "labels: bare.safetensors does not say what its logits mean"),
        ((path, ["ink"]), r"labels: 1 names \(ink\) for 2 logits of small.safetensors"),
        ((path, ["ink", "ink"]), "labels: .*repeats a name"),
        ((path, ["ink", " "]), "labels: .*an empty one"),
        ((path, "ink"), "labels: 'ink' is a text"),
        ((path, None, 16), "input_size: 16 is no side"),
        ((path, None, 64.0), "input_size: 64.0 is no side"),
        (([path, tmp_path / "large.safetensors"],), "input_size: the files name different sizes"),
        ((tmp_path / "broken.safetensors",), "metadata of broken.safetensors has labels = "),
    ]:
        with pytest.raises(ValueError, match=message):
            load_classifier(*arguments)
    assert load_classifier([path, tmp_path / "large.safetensors"], input_size=64).labels == (
        "hair",
        "ink",
        "ruler",
    )

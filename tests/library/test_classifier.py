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
    """Take batch statistics from noise: with the initial ones a deep random network gives every image the same score."""
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
        classifier.module(((images - MEAN) / STD).permute(0, 3, 1, 2)), logits, atol=1e-5, rtol=1e-4
    )
    assert classifier.labels == tuple(labels)
    assert classifier.features(images).shape == (3, 1280)


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
        (torch.rand(2, 3, 64, 64), "images is .*2, 3, 64, 64.*height, width, 3"),
        (torch.rand(64, 64, 3), "images is"),
        (torch.zeros(1, 64, 64, 3, dtype=torch.uint8), "images is torch.uint8"),
        (torch.rand(0, 64, 64, 3), "images is empty"),
        (torch.full((1, 64, 64, 3), float("nan")), "NaN"),
        (torch.full((1, 64, 64, 3), 255.0), "ranges from 255 to 255"),
        ([[0.5]], "images is list"),
    ],
)
def test_bad_images_are_named(small, bad, message):
    with pytest.raises(ValueError, match=message):
        load_classifier(small[0]).predict(bad)


def test_bad_batch_size_is_named(small, images):
    with pytest.raises(ValueError, match="batch_size is 0"):
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
        "x.safetensors is not a safetensors file",
    ),
    "empty file": ("x.safetensors", lambda: b"", "x.safetensors is not a safetensors file"),
    "not a checkpoint": ("x.pth", lambda: b"junk", "x.pth does not load as plain weights"),
    "pickled module": ("x.pth", lambda: torch.nn.Linear(1, 1), "x.pth does not load as plain weights"),
    "other suffix": ("x.bin", lambda: b"junk", "x.bin ends in '.bin'"),
    "no state dict": ("x.pth", lambda: {"epoch": 3}, "x.pth holds no state dict"),
    "other architecture": (
        "x.pth",
        lambda: torchvision.models.squeezenet1_1().state_dict(),
        "x.pth is not an EfficientNet .*first keys features.0.weight",
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
    with pytest.raises(ValueError, match="gone.safetensors does not exist"):
        load_classifier(tmp_path / "gone.safetensors")


def test_labels_and_sizes_are_checked(tmp_path, small):
    path = small[0]
    save_file(prefixed(small_network(1)), str(tmp_path / "bare.safetensors"))
    save_small(tmp_path / "large.safetensors", ["ruler"], size=96)
    save_small(tmp_path / "broken.safetensors", labels="[hair")
    for arguments, message in [
        (([],), "lists no classifier file"),
        ((tmp_path / "bare.safetensors",), "bare.safetensors has no labels in its metadata; pass labels"),
        ((path, ["ink"]), r"small.safetensors: 1 labels \(ink\) for 2 logits"),
        ((path, ["ink", "ink"]), "different, non-empty"),
        ((path, ["ink", " "]), "different, non-empty"),
        ((path, "ink"), "labels is the text 'ink'"),
        ((path, None, 16), "input_size is 16"),
        ((path, None, 64.0), "input_size is 64.0"),
        (([path, tmp_path / "large.safetensors"],), "different image sizes"),
        ((tmp_path / "broken.safetensors",), "metadata labels is"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_classifier(*arguments)
    assert load_classifier([path, tmp_path / "large.safetensors"], input_size=64).labels == (
        "hair",
        "ink",
        "ruler",
    )

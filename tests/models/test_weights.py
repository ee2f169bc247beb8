import pathlib
import sys
import zipfile

import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.support.torch_resnet import randomized_resnet
from tfprune.errors import FileError
from tfprune.models import build_efficientnet_lite0, build_resnet, load_backbone, weights
from tfprune.models.imagenet import efficientnet_lite0_file
from tfprune.sparsity import prune_low_magnitude
from tfprune.text import printable

pytestmark = pytest.mark.slow

# ImageNet's statistics, in pixels.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
RESNET18 = (2, 2, 2, 2)


def tiny(**arguments):
    return build_resnet("resnet18", **{"classes": 5, "image_size": 32, "width": 2, **arguments})


@pytest.fixture(scope="module")
def tensors():
    """A narrow ResNet-18's tensors by torchvision's names; a test may change its copy."""
    state = randomized_resnet(RESNET18, classes=5, width=2).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


@pytest.fixture
def weights_file(tmp_path):
    def write(tensors):
        path = tmp_path / "weights.safetensors"
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path
        )
        return str(path)

    return write


def assert_unchanged_by(model, message, path, error=ValueError, **arguments):
    before = model.get_weights()
    with pytest.raises(error, match=message) as raised:
        load_backbone(model, path, **arguments)
    assert "\n" not in str(raised.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def compare_logits(reference, model, images):
    normalised = ((images - np.array(MEAN)) / STD).astype("float32").transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = reference(torch.tensor(normalised)).numpy()
    logits = model.predict(images, verbose=0)
    return np.max(np.abs(logits - expected)) / np.max(np.abs(expected))


def test_logits_equal_pytorchs_at_224(tmp_path):
    reference = randomized_resnet()
    path = tmp_path / "model.safetensors"
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    safetensors.numpy.save_file(state, path)
    model = build_resnet("resnet34", classes=1000, image_size=224, mean=MEAN, std=STD)
    load_backbone(model, str(path), include_head=True)
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype="uint8")

    assert compare_logits(reference, model, images) < 1e-4


# An odd size is where padding on the wrong side would also show in the last row.
@pytest.mark.parametrize("image_size", [32, 47])
def test_logits_equal_pytorchs_from_a_pth_file(image_size, tmp_path):
    reference = randomized_resnet(RESNET18, classes=5, width=2, seed=1)
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    model = tiny(image_size=image_size, mean=MEAN, std=STD)
    load_backbone(model, str(tmp_path / "weights.pth"), include_head=True)
    images = np.random.default_rng(1).integers(0, 256, (2, image_size, image_size, 3), dtype="uint8")

    assert compare_logits(reference, model, images) < 1e-4


def test_every_variable_is_assigned(tensors, weights_file):
    model = tiny()
    model.set_weights([np.full(weights.shape, np.nan) for weights in model.get_weights()])
    load_backbone(model, weights_file(tensors), include_head=True)

    assert all(np.all(np.isfinite(weights)) for weights in model.get_weights())


@pytest.mark.parametrize("with_fc", [True, False])
def test_without_the_head(with_fc, tensors, weights_file):
    model = tiny(classes=7)
    head = model.get_layer("head").get_weights()
    load_backbone(model, weights_file({k: v for k, v in tensors.items() if with_fc or "fc." not in k}))

    for old, new in zip(head, model.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model.get_layer("stem_bn").get_weights()[3], tensors["bn1.running_var"])


def test_missing_tensors_are_named(tensors, weights_file):
    without = {k: v for k, v in tensors.items() if k not in ("layer2.0.downsample.0.weight", "bn1.bias")}
    path = weights_file(without)

    assert_unchanged_by(
        tiny(), r"weights\.safetensors.*missing: bn1\.bias, layer2\.0\.downsample\.0\.weight; ", path
    )


def test_a_missing_head_is_named(tensors, weights_file):
    path = weights_file({k: v for k, v in tensors.items() if k != "fc.bias"})

    assert_unchanged_by(tiny(), "missing: fc.bias", path, include_head=True)


def test_extra_tensors_are_named(tensors, weights_file):
    path = weights_file({**tensors, "layer5.0.conv1.weight": np.zeros((1, 1, 3, 3), "float32")})

    assert_unchanged_by(tiny(), r"unexpected: layer5\.0\.conv1\.weight; ", path)


def test_misshapen_tensors_are_named_with_both_shapes(tensors, weights_file):
    path = weights_file({**tensors, "layer1.0.conv1.weight": np.zeros((4, 2, 3, 3), "float32")})

    assert_unchanged_by(
        tiny(),
        r"another shape: layer1\.0\.conv1\.weight \(4, 2, 3, 3\) instead of \(2, 2, 3, 3\); ",
        path,
    )


def test_tensors_that_are_not_finite_are_named(tensors, weights_file):
    path = weights_file({**tensors, "bn1.weight": np.array([1.0, np.nan], "float32")})

    assert_unchanged_by(tiny(), "not finite: bn1.weight", path)


def test_another_width_stem_or_number_of_classes_does_not_fit(tensors, weights_file):
    path = weights_file(tensors)

    assert_unchanged_by(tiny(width=3), r"conv1\.weight \(2, 3, 7, 7\) instead of \(3, 3, 7, 7\)", path)
    assert_unchanged_by(tiny(stem="cifar"), r"conv1\.weight \(2, 3, 7, 7\) instead of \(2, 3, 3, 3\); ", path)
    assert_unchanged_by(
        tiny(classes=6), r"fc\.weight \(5, 16\) instead of \(6, 16\)", path, include_head=True
    )


def test_another_architecture_does_not_fit(tensors, weights_file):
    model = build_resnet("resnet34", classes=5, image_size=32, width=2)

    assert_unchanged_by(model, r"missing: layer1\.2\.conv1\.weight, .* and \d+ more; ", weights_file(tensors))


def test_a_model_of_another_kind_is_refused(tensors, weights_file):
    import keras

    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

    assert_unchanged_by(
        other, "must be made by `build_resnet` or `build_efficientnet_lite0`", weights_file(tensors)
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_file_is_named(suffix, damage, tensors, weights_file, tmp_path):
    path = tmp_path / f"damaged{suffix}"
    if suffix == ".pth":
        torch.save({name: torch.tensor(tensor) for name, tensor in tensors.items()}, path)
    else:
        path.write_bytes(pathlib.Path(weights_file(tensors)).read_bytes())
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-100], "empty": b"", "text": b"no weights"}[damage])

    assert_unchanged_by(
        tiny(),
        rf"damaged\{suffix}: not a readable file of weights: .*; pass a file with the tensors",
        str(path),
    )


def test_a_pth_file_of_something_else_is_refused(tmp_path):
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "checkpoint.pth")

    assert_unchanged_by(
        tiny(),
        r"checkpoint\.pth: .*must be a state dict.* Received: 'epoch' with a int",
        str(tmp_path / "checkpoint.pth"),
    )


def test_a_pth_file_without_pytorch(monkeypatch, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)

    assert_unchanged_by(
        tiny(),
        r"torch is not installed: .*\[pretrained\]; or pass a .safetensors file, which does not need it$",
        str(tmp_path / "weights.pth"),
        error=ImportError,
    )


@pytest.mark.parametrize(
    "source, error, message",
    [
        ("imagenet1k", ValueError, "must be 'imagenet' or the path .* Received: source='imagenet1k'"),
        ("no/such.safetensors", OSError, "must be a file that exists. .*'no/such.safetensors'"),
    ],
)
def test_a_source_that_is_not_there(source, error, message):
    assert_unchanged_by(tiny(), message, source, error=error)


def test_imagenet_weights_of_a_resnet_come_from_the_hub(monkeypatch, tensors, weights_file):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *asked: weights_file(tensors))
    model = tiny()
    load_backbone(model, "imagenet")

    np.testing.assert_array_equal(
        model.get_layer("stem_conv").get_weights()[0].transpose(3, 2, 0, 1), tensors["conv1.weight"]
    )


def saved_by_torch(path, change, **how):
    """Writes what `change` makes of a narrow ResNet-18 with PyTorch; returns the path."""
    torch.save(change(randomized_resnet(RESNET18, classes=5, width=2)), path, **how)
    return str(path)


def test_parameters_alone_are_loaded_and_the_statistics_stay(tmp_path, tensors):
    path = saved_by_torch(tmp_path / "parameters.pth", lambda network: dict(network.named_parameters()))
    model = tiny()
    before = model.get_layer("stem_bn").get_weights()
    with pytest.warns(UserWarning, match="parameters alone: BatchNorm's statistics stay the model's own"):
        load_backbone(model, path, include_head=True)
    gamma, beta, mean, variance = model.get_layer("stem_bn").get_weights()
    np.testing.assert_array_equal(gamma, tensors["bn1.weight"])
    np.testing.assert_array_equal(beta, tensors["bn1.bias"])
    np.testing.assert_array_equal([mean, variance], before[2:])
    np.testing.assert_array_equal(model.get_layer("head").get_weights()[1], tensors["fc.bias"])


def test_some_statistics_are_not_enough(tmp_path):
    path = saved_by_torch(
        tmp_path / "some.pth",
        lambda network: {**dict(network.named_parameters()), "bn1.running_mean": network.bn1.running_mean},
    )
    assert_unchanged_by(tiny(), r"some\.pth: .*missing: bn1\.running_var, ", path)


@pytest.mark.parametrize("type_of", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_loaded(tmp_path, tensors, type_of):
    path = saved_by_torch(tmp_path / "other.pth", lambda network: network.to(type_of).state_dict())
    model = tiny()
    load_backbone(model, path)
    kernel = model.get_layer("stem_conv").get_weights()[0].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(kernel, torch.tensor(tensors["conv1.weight"]).to(type_of).float().numpy())


def test_a_file_of_old_pytorch_is_loaded(tmp_path, tensors):
    path = saved_by_torch(
        tmp_path / "old.pth", lambda network: network.state_dict(), _use_new_zipfile_serialization=False
    )
    model = tiny()
    load_backbone(model, path)
    np.testing.assert_array_equal(model.get_layer("stem_bn").get_weights()[0], tensors["bn1.weight"])


VARIANCE = "bn1.running_var"


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (VARIANCE, torch.tensor([-1e-6, 1.0]), "with variances below 0: bn1.running_var"),
        (VARIANCE, torch.tensor([1.0, torch.inf]), "not finite: bn1.running_var"),
        (VARIANCE, torch.tensor([1.0, 1e300], dtype=torch.float64), "not finite: bn1.running_var"),
        (
            VARIANCE,
            torch.ones(2, dtype=torch.complex64),
            "of another kind: bn1.running_var, which is complex64",
        ),
        (VARIANCE, torch.ones(2, dtype=torch.int64), "bn1.running_var, which is int64"),
        (VARIANCE, torch.ones(2, dtype=torch.bool), "bn1.running_var, which is bool"),
        (VARIANCE, torch.ones(2).to_sparse(), "bn1.running_var, which is sparse"),
        (VARIANCE, torch.ones(2, device="meta"), "bn1.running_var, which is without values"),
        (VARIANCE, torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "which is quantized"),
        (VARIANCE, torch.ones(1).expand(10**10), r"bn1.running_var \(10000000000,\) instead of \(2,\)"),
        (VARIANCE, torch.ones(()), r"bn1.running_var \(\) instead of \(2,\)"),
        (VARIANCE, [1.0, 1.0], "must be a state dict.* Received: 'bn1.running_var' with a list"),
        (0, torch.ones(2), "must be a state dict.* Received: 0 with a Tensor"),
        ("x\x1b[2J", torch.ones(2), r"unexpected: x\\x1b\[2J"),
    ],
)
def test_tensors_that_no_network_has(tmp_path, name, tensor, message):
    path = saved_by_torch(tmp_path / "odd.pth", lambda network: {**network.state_dict(), name: tensor})
    assert_unchanged_by(tiny(), rf"odd\.pth: not a readable file of weights: .*{message}", path)


@pytest.mark.parametrize("kind", ["complex64", "int8", "bool"])
def test_arrays_that_no_network_has(tensors, weights_file, kind):
    path = weights_file({**tensors, VARIANCE: np.ones(2, kind)})
    assert_unchanged_by(tiny(), "of another kind: bn1.running_var, which is ", path)


def test_an_archive_that_would_unpack_to_more(tmp_path):
    path = saved_by_torch(tmp_path / "bomb.pth", lambda network: network.state_dict())
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert_unchanged_by(tiny(), "is compressed, and PyTorch compresses none", path)


def test_more_memory_than_there_is(tmp_path, monkeypatch):
    path = saved_by_torch(tmp_path / "large.pth", lambda network: network.state_dict())
    monkeypatch.setattr(weights, "available_bytes", lambda: 1000)
    assert_unchanged_by(tiny(), "it asks for .* of memory, and there are 1.00 kB", path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_no_file(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.mkdir()
    assert_unchanged_by(tiny(), "it is a folder, not a file", str(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_flipped_bytes_are_read_or_named(suffix, tensors, weights_file, tmp_path):
    path = tmp_path / f"flipped{suffix}"
    if suffix == ".pth":
        saved_by_torch(path, lambda network: network.state_dict())
    else:
        path.write_bytes(pathlib.Path(weights_file(tensors)).read_bytes())
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    model, failures = tiny(), 0
    for _ in range(100):
        content = bytearray(whole)
        # Where names, shapes and sizes are: at the start and, of an archive, at the end, too.
        near = generator.integers(0, 4000, 4) * generator.choice([1, -1], 4)
        for position in near:
            content[position] ^= int(generator.integers(1, 256))
        path.write_bytes(content)
        try:
            load_backbone(model, str(path))
        except FileError as error:
            failures += 1
            assert str(error).startswith(f"{path}: not a readable file of weights: ")
            assert printable(str(error)) == str(error)
    assert failures > 50


@pytest.fixture(scope="module")
def efficientnet():
    return build_efficientnet_lite0(classes=5, image_size=32, seed=0)


@pytest.fixture(scope="module")
def published():
    """EfficientNet-Lite0's ImageNet weights; a test may change its copy."""
    state = torch.load(efficientnet_lite0_file(), weights_only=True)
    return {name: tensor.numpy() for name, tensor in state.items()}


def test_each_tensor_of_efficientnet_comes_to_its_layer(published, weights_file):
    model = build_efficientnet_lite0(classes=1000, image_size=32)
    # Each is told from each other by its values, and the depthwise kernel's rows from its columns.
    numbered = {
        name: np.arange(tensor.size, dtype="float32").reshape(tensor.shape) + number
        for number, (name, tensor) in enumerate(published.items())
    }
    load_backbone(model, weights_file(numbered), include_head=True)

    def weights_of(layer, index=0):
        return model.get_layer(layer).get_weights()[index]

    depthwise = weights_of("stage3_block2_depthwise_conv")
    np.testing.assert_array_equal(
        depthwise, numbered["_blocks.4._depthwise_conv.weight"].transpose(2, 3, 0, 1)
    )
    np.testing.assert_array_equal(
        weights_of("stage7_block1_project_conv"),
        numbered["_blocks.15._project_conv.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        weights_of("stage2_block1_expand_bn", 3), numbered["_blocks.1._bn0.running_var"]
    )
    np.testing.assert_array_equal(weights_of("head"), numbered["_fc.weight"].T)


@pytest.mark.parametrize("with_head", [True, False])
def test_the_head_of_efficientnet_stays_with_other_classes(with_head, efficientnet, published, weights_file):
    head = efficientnet.get_layer("head").get_weights()
    kept = {name: tensor for name, tensor in published.items() if with_head or "_fc." not in name}
    load_backbone(efficientnet, weights_file(kept))

    for old, new in zip(head, efficientnet.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(
        efficientnet.get_layer("top_bn").get_weights()[2], published["_bn1.running_mean"]
    )


def test_the_head_of_other_classes_is_refused(efficientnet):
    assert_unchanged_by(
        efficientnet,
        r"another shape: _fc\.weight \(1000, 1280\) instead of \(5, 1280\), _fc\.bias \(1000,\) instead of",
        "imagenet",
        include_head=True,
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_blocks.15._bn2.bias": None}, r"missing: _blocks\.15\._bn2\.bias; "),
        ({"_blocks.16._bn2.bias": np.ones(4, "float32")}, r"unexpected: _blocks\.16\._bn2\.bias; "),
        (
            {"_blocks.0._depthwise_conv.weight": np.ones((1, 32, 3, 3), "float32")},
            r"_blocks\.0\._depthwise_conv\.weight \(1, 32, 3, 3\) instead of \(32, 1, 3, 3\); ",
        ),
    ],
)
def test_tensors_that_do_not_fit_efficientnet(changed, message, efficientnet, published, weights_file):
    tensors = {name: tensor for name, tensor in {**published, **changed}.items() if tensor is not None}
    assert_unchanged_by(
        efficientnet,
        f"{message}pass a file with the tensors of efficientnet-lite-pytorch's efficientnet-lite0$",
        weights_file(tensors),
    )


def test_weights_of_a_resnet_do_not_fit_efficientnet(efficientnet, tensors, weights_file):
    assert_unchanged_by(
        efficientnet,
        r"missing: _conv_stem\.weight, .* and \d+ more; unexpected: bn1\.bias, .* more; pass",
        weights_file(tensors),
    )


def test_a_truncated_file_of_efficientnets_weights(efficientnet, tmp_path):
    whole = efficientnet_lite0_file().read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pth").write_bytes(whole[:size])
        assert_unchanged_by(
            efficientnet, r"cut\.pth: not a readable file of weights: .*", str(tmp_path / "cut.pth")
        )


def test_a_model_with_layers_of_its_own_behind_the_head_is_known(published):
    import keras

    base = build_efficientnet_lite0(classes=5, image_size=32)
    model = keras.Model(base.input, keras.layers.Softmax()(base.output))
    load_backbone(model, "imagenet")
    np.testing.assert_array_equal(base.get_layer("stem_bn").get_weights()[1], published["_bn0.bias"])


def test_a_wrapped_model_is_refused(efficientnet):
    assert_unchanged_by(
        prune_low_magnitude(efficientnet, None),
        "and not be wrapped yet. Received: model 'efficientnet_lite0' without the layers of either",
        "imagenet",
    )

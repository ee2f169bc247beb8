from pathlib import Path

import keras
import matplotlib
import numpy as np
import PIL.Image
import pytest
import torch

from tests.support.torch_efficientnet_lite import EfficientNetLite0
from tfprune.models import build_efficientnet_lite0, load_backbone
from tfprune.models.efficientnet_lite import torch_modules
from tfprune.models.imagenet import efficientnet_lite0_file

pytestmark = pytest.mark.slow

MILITARY_UNIFORM = 652


def pixels(size, n=2, seed=0):
    """Noise, and a darker one that brightens from the top to the bottom."""
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype="uint8")
    images[1:] = images[1:] // 4 + np.linspace(0, 190, size).astype("uint8")[:, None, None]
    return images


@pytest.fixture(scope="module")
def state():
    """PyTorch's own state of the pretrained network."""
    return torch.load(efficientnet_lite0_file(), weights_only=True)


@pytest.fixture(scope="module")
def pretrained():
    """Pixels of any size to logits. The network is filled once: its weights fit images of any size."""
    filled = build_efficientnet_lite0(classes=1000, image_size=224)
    load_backbone(filled, "imagenet", include_head=True)

    def logits(images):
        model = filled
        if images.shape[1] != 224:
            model = build_efficientnet_lite0(classes=1000, image_size=images.shape[1])
            model.set_weights(filled.get_weights())
        return keras.ops.convert_to_numpy(model(images, training=False))

    return logits


def test_sizes_and_names_are_the_published_ones():
    model = build_efficientnet_lite0(classes=1000, image_size=224)
    shapes = {layer.name: layer.output.shape[1:] for layer in model.layers}
    kinds = [type(layer).__name__ for layer in model.layers]

    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == 4_652_008
    assert (kinds.count("Conv2D"), kinds.count("DepthwiseConv2D"), kinds.count("Add")) == (33, 16, 9)
    assert model.name == "efficientnet_lite0"
    assert keras.backend.standardize_dtype(model.input.dtype) == "uint8"
    assert shapes["normalization"] == (224, 224, 3)
    assert shapes["stem_conv"] == (112, 112, 32)
    assert "stage1_block1_expand_conv" not in shapes
    assert shapes["stage2_block1_expand_relu"] == (112, 112, 96)
    assert shapes["stage2_block1_depthwise_conv"] == (56, 56, 96)
    assert shapes["stage3_block2_add"] == shapes["stage3_block1_project_bn"] == (28, 28, 40)
    assert shapes["stage6_block4_drop"] == (7, 7, 192)
    assert shapes["top_relu"] == (7, 7, 1280)
    assert shapes["pool"] == shapes["dropout"] == (1280,)
    assert shapes["head"] == (1000,)
    assert {layer.name for layer in model.layers if layer.weights} == torch_modules().keys()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.epsilon, layer.momentum) == (1e-3, 0.9)


# With an odd size the last row and column are where padding on the wrong side would show, too.
@pytest.mark.parametrize("image_size", [33, 96, 97, 224])
def test_logits_equal_pytorchs(pretrained, state, image_size):
    reference = EfficientNetLite0().eval()
    reference.load_state_dict(state)
    images = pixels(image_size)
    with torch.no_grad():
        expected = reference(torch.tensor(images.astype("float32").transpose(0, 3, 1, 2))).numpy()
    logits = pretrained(images)

    assert np.max(np.abs(logits - expected)) < 1e-4 * np.max(np.abs(expected))


def test_a_photograph_is_recognised(pretrained):
    photograph = PIL.Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    side = min(photograph.size)
    left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
    square = photograph.crop((left, top, left + side, top + side)).resize((224, 224), PIL.Image.BICUBIC)
    (logits,) = pretrained(np.asarray(square)[None])

    assert np.argmax(logits) == MILITARY_UNIFORM
    assert np.exp(logits[MILITARY_UNIFORM]) / np.exp(logits).sum() > 0.3


@pytest.fixture(scope="module")
def small():
    return build_efficientnet_lite0(classes=4, image_size=32, seed=3)


def test_the_first_layer_normalises_pixels(small):
    images = pixels(32)
    normalised = keras.Model(small.input, small.get_layer("normalization").output)(images)

    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(normalised), (images.astype("float32") - 127) / 128
    )


def test_the_start_is_the_authors(small):
    top = small.get_layer("top_conv").get_weights()[0]  # 1, 1, 320, 1280
    depthwise = small.get_layer("stage6_block4_depthwise_conv").get_weights()[0]  # 5, 5, 1152, 1
    head_kernel, head_bias = small.get_layer("head").get_weights()

    assert np.std(top) == pytest.approx(np.sqrt(2 / 1280), rel=0.01)
    assert np.std(depthwise) == pytest.approx(np.sqrt(2 / 25), rel=0.02)
    assert np.max(np.abs(top)) > 4 * np.std(top)  # not truncated
    glorot = np.sqrt(6 / (1280 + 4))  # The head's alone is not the authors'.
    assert 0.99 * glorot < np.max(np.abs(head_kernel)) <= glorot
    assert not np.any(head_bias)


def test_the_seed_decides_the_start(small):
    first = small.get_weights()
    again = build_efficientnet_lite0(classes=4, image_size=32, seed=3).get_weights()
    other = build_efficientnet_lite0(classes=4, image_size=32, seed=4).get_weights()

    kernels = [i for i, weights in enumerate(first) if weights.ndim > 1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(first[i], other[i]) for i in kernels)


def test_blocks_are_left_out_for_images_of_training_alone(small):
    rates = [layer.rate for layer in small.layers if layer.name.endswith("_drop")]
    assert rates == sorted(rates)
    # Block 15 of 0 to 15, that before the last, is the last with a shortcut.
    assert rates[0] == pytest.approx(0.2 * 2 / 16) and rates[-1] == pytest.approx(0.2 * 14 / 16)

    drop = small.get_layer("stage6_block4_drop")
    ones = np.ones((400, 2, 2, 3), "float32")
    dropped = keras.ops.convert_to_numpy(drop(ones, training=True))
    whole = dropped[:, :1, :1, :1]
    np.testing.assert_array_equal(dropped, np.broadcast_to(whole, ones.shape))
    np.testing.assert_allclose(np.unique(whole), [0, 1 / (1 - drop.rate)], rtol=1e-6)
    assert np.mean(whole == 0) == pytest.approx(drop.rate, abs=0.06)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(drop(ones)), ones)


def test_mixed_precision_gives_float32_logits():
    previous = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_efficientnet_lite0(classes=4, image_size=32)
    finally:
        keras.mixed_precision.set_dtype_policy(previous)

    assert model.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert keras.backend.standardize_dtype(model.get_layer("normalization").output.dtype) == "float32"
    assert keras.backend.standardize_dtype(model.output.dtype) == "float32"


def test_a_saved_model_reloads(small, tmp_path):
    small.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")

    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(pixels(32))) for m in (reloaded, small)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"classes": 0}, "`classes` must be at least 1. Received: classes=0"),
        ({"image_size": 0}, "`image_size` must be at least 1. Received: image_size=0"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\). Received: dropout=1.0"),
        (
            {"stochastic_depth": -0.1},
            r"`stochastic_depth` must be in \[0, 1\). Received: stochastic_depth=-0.1",
        ),
        ({"seed": -1}, "`seed` must be at least 0. Received: seed=-1"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_efficientnet_lite0(**{"classes": 4, "image_size": 32, **arguments})

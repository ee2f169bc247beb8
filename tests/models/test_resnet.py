import keras
import numpy as np
import pytest

from tfprune.models import build_resnet
from tfprune.models.resnet import BLOCKS_PER_STAGE, resnet_size

pytestmark = pytest.mark.slow


def count(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def pixels(n=2, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype="uint8")


def tiny(**arguments):
    return build_resnet(
        "resnet18", **{"classes": 4, "image_size": 16, "width": 2, "stem": "cifar", **arguments}
    )


@pytest.mark.parametrize(
    "name, classes, parameters, convolutions",
    [
        ("resnet34", 1000, 21_797_672, 36),
        ("resnet34", 10, 21_289_802, 36),
        ("resnet18", 1000, 11_689_512, 20),
    ],
)
def test_sizes_are_torchvisions(name, classes, parameters, convolutions):
    model = build_resnet(name, classes=classes, image_size=224)

    assert count(model) == parameters
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == convolutions
    assert model.name == name
    assert model.input.name == "image"
    assert keras.backend.standardize_dtype(model.input.dtype) == "uint8"
    assert model.output.shape == (None, classes)


def test_shapes_and_names_with_the_imagenet_stem():
    model = build_resnet("resnet34", classes=10, image_size=224, width=4)
    shapes = {layer.name: layer.output.shape[1:] for layer in model.layers}

    assert shapes["normalization"] == (224, 224, 3)
    assert shapes["stem_conv"] == shapes["stem_bn"] == shapes["stem_relu"] == (112, 112, 4)
    assert shapes["stem_pool"] == (56, 56, 4)
    assert shapes["stage1_block3_relu2"] == (56, 56, 4)
    assert shapes["stage2_block1_conv1"] == shapes["stage2_block1_shortcut_bn"] == (28, 28, 8)
    assert shapes["stage3_block6_add"] == (14, 14, 16)
    assert shapes["stage4_block3_bn2"] == (7, 7, 32)
    assert shapes["pool"] == (32,)
    shortcuts = [name for name in shapes if name.endswith("_shortcut_conv")]
    assert shortcuts == [f"stage{stage}_block1_shortcut_conv" for stage in (2, 3, 4)]
    assert model.get_layer("stem_conv").kernel_size == (7, 7)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            assert not layer.use_bias
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.epsilon, layer.momentum) == (1e-5, 0.9)


def test_the_cifar_stem_keeps_the_size():
    model = build_resnet("resnet34", classes=10, image_size=32, width=1, stem="cifar")
    names = [layer.name for layer in model.layers]

    assert model.get_layer("stem_conv").kernel.shape == (3, 3, 3, 1)
    assert model.get_layer("stage1_block1_conv1").output.shape == (None, 32, 32, 1)
    assert model.get_layer("stage4_block3_relu2").output.shape == (None, 4, 4, 8)
    assert "stem_pool" not in names
    assert len([name for name in names if name.endswith("conv")]) == 4  # stem and 3 shortcuts


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_the_smallest_image(stem):
    model = tiny(image_size=1, stem=stem)

    assert np.all(np.isfinite(model.predict(pixels(size=1), verbose=0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS_PER_STAGE)
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("image_size", [1, 37])
def test_the_size_is_what_is_built(name, stem, image_size):
    arguments = {"classes": 7, "image_size": image_size, "width": 3, "stem": stem}
    model = build_resnet(name, **arguments)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    outputs = sum(np.prod(layer.output.shape[1:]) for layer in convolutions)
    weights = sum(np.prod(weight.shape) for weight in model.trainable_weights)
    assert resnet_size(name, **arguments) == (weights, outputs)


def test_the_first_layer_normalises_pixels():
    mean, std = (120.0, 115.0, 100.0), (60.0, 55.5, 70.0)
    model = tiny(mean=mean, std=std)
    images = pixels()
    normalised = keras.Model(model.input, model.get_layer("normalization").output)(images)

    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(normalised), (images - np.array(mean)) / std, atol=1e-5
    )


def test_a_saved_model_reloads(tmp_path):
    model = tiny(mean=(120.0, 115.0, 100.0), std=(60.0, 55.5, 70.0), seed=1)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")

    assert [layer.name for layer in reloaded.layers] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(reloaded.predict(pixels(), verbose=0), model.predict(pixels(), verbose=0))


def test_the_seed_decides_the_start():
    first, again, other = (tiny(seed=seed).get_weights() for seed in (3, 3, 4))
    free_1, free_2 = tiny().get_weights(), tiny().get_weights()

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    kernels = [i for i, weights in enumerate(first) if weights.ndim > 1]
    assert not any(np.array_equal(first[i], other[i]) for i in kernels)
    assert not any(np.array_equal(free_1[i], free_2[i]) for i in kernels)
    # No two layers of one shape start alike.
    same_shape = [first[i].ravel() for i in kernels if first[i].shape == (3, 3, 2, 2)]
    assert len(same_shape) == 4
    assert len(np.unique(same_shape, axis=0)) == 4


def test_the_start_is_torchvisions():
    model = build_resnet("resnet18", classes=100, image_size=32, seed=0)
    kernel = model.get_layer("stage4_block1_conv1").get_weights()[0]  # 3, 3, 256, 512
    head_kernel, head_bias = model.get_layer("head").get_weights()
    limit = np.sqrt(6 / (512 + 100))

    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (3 * 3 * 512)), rel=0.01)
    assert np.max(np.abs(kernel)) > 4 * np.std(kernel)  # not truncated
    assert limit * 0.99 < np.max(np.abs(head_kernel)) <= limit
    assert not np.any(head_bias)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_gives_float32_logits(policy):
    previous = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        model = tiny(mean=(120.0,) * 3, std=(60.0,) * 3, width=4, seed=0)
    finally:
        keras.mixed_precision.set_dtype_policy(previous)
    full = tiny(mean=(120.0,) * 3, std=(60.0,) * 3, width=4, seed=0)
    full.set_weights(model.get_weights())

    assert model.get_layer("stage1_block1_conv1").compute_dtype == policy.removeprefix("mixed_")
    assert {variable.dtype for variable in model.variables} == {"float32"}
    logits, expected = model.predict(pixels(), verbose=0), full.predict(pixels(), verbose=0)
    assert logits.dtype == "float32"
    assert 0 < np.max(np.abs(logits - expected)) < 0.05 * np.max(np.abs(expected))


def test_fit_lowers_the_loss():
    model = tiny(width=4, mean=(128.0,) * 3, std=(74.0,) * 3, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Eager: at this size tracing takes longer than the steps.
    model.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
    history = model.fit(pixels(8), np.arange(8) % 4, epochs=8, batch_size=8, verbose=0)

    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"stem": "none"}, "`stem` must be one of cifar, imagenet. Received: stem='none'"),
        ({"width": 0}, "`width` must be at least 1. Received: width=0"),
        ({"classes": 0}, "`classes` must be at least 1. Received: classes=0"),
        ({"image_size": 0}, "`image_size` must be at least 1. Received: image_size=0"),
        ({"std": (1.0, 0.0, 1.0)}, r"`std` must be three finite numbers above 0\. .*std=\(1.0, 0"),
        ({"std": (1.0, 1.0)}, "`std` must be three"),
        ({"mean": (0.0, float("nan"), 0.0)}, "`mean` must be three finite numbers"),
        ({"seed": -1}, "`seed` must be at least 0. Received: seed=-1"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match="one of resnet18, resnet34. Received: name='resnet50'"):
        build_resnet("resnet50", classes=10, image_size=32)

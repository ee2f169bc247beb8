"""Whole networks: what the compiled graph computes, and of which nodes it is made."""

import collections
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from tests.support.compiled_models import assert_same, kinds, randomise
from tfprune.channels.shrink import ExactCut
from tfprune.compiler.compile import compile_model
from tfprune.models.resnet import build_resnet
from tfprune.runtime import graph as runtime_graph

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize(("name", "image_size", "convolutions"), [("resnet18", 64, 20), ("resnet34", 32, 36)])
def test_resnet(name, image_size, convolutions, stem):
    model = build_resnet(name, classes=7, image_size=image_size, width=4, stem=stem, mean=MEAN, std=STD)
    graph = compile_model(randomise(model))
    pools = 2 + (stem == "imagenet")  # Two shortcuts have fewer than 16 channels.
    assert kinds(graph) == {"Input": 1, "Conv": convolutions + 1, "GlobalPool": 1, "Pool": pools}
    assert_same(model, graph)


def test_names_and_order_of_a_resnet():
    model = build_resnet("resnet18", classes=5, image_size=32, width=4, stem="imagenet", mean=MEAN, std=STD)
    graph = compile_model(randomise(model))
    nodes = {node.name: node for node in graph.nodes}
    assert [node.name for node in graph.nodes[:5]] == [
        "image",
        "stem_conv",
        "stem_pool",
        "stage1_block1_conv1",
        "stage1_block1_conv2",
    ]
    assert graph.nodes[-1].name == "head" and graph.nodes[-1].activation == "linear"
    np.testing.assert_allclose(nodes["image"].scale, 1 / np.array(STD), rtol=1e-6)
    np.testing.assert_allclose(nodes["image"].shift, -np.array(MEAN) / STD, rtol=1e-6)
    assert nodes["stem_conv"].padding == (3, 3, 3, 3) and nodes["stem_conv"].activation == "relu"
    assert nodes["stem_pool"].padding == (1, 1, 1, 1) and nodes["stem_pool"].padding_counts
    # The sum goes into the last of the two convolutions.
    last = nodes["stage4_block1_shortcut_conv"]
    assert [graph.nodes[i].name for i in last.inputs] == ["stage3_block2_conv2", "stage4_block1_conv2"]
    assert last.activation == "relu"
    assert nodes["stage2_block1_conv2"].activation == "linear"
    assert nodes["stage2_block1_conv1"].padding == (1, 1, 1, 1)


@pytest.mark.slow
def test_removed_weights_stay_zero():
    model = randomise(build_resnet("resnet18", classes=5, image_size=32, width=8, stem="cifar"), sparsity=0.9)
    graph = compile_model(model)
    found = 0
    for node in graph.nodes:
        if isinstance(node, runtime_graph.Conv):
            kernel = keras.ops.convert_to_numpy(model.get_layer(node.name).kernel).reshape(node.kernel.shape)
            np.testing.assert_array_equal(node.kernel == 0, kernel == 0)
            assert not np.signbit(node.kernel[node.kernel == 0]).any()
            found += (kernel == 0).sum()
    assert found > 0.85 * sum(np.prod(w.shape) for w in model.trainable_weights if len(w.shape) > 1)


def test_folding_rounds_once():
    model = build_resnet("resnet18", classes=5, image_size=32, width=4, stem="cifar")
    graph = compile_model(randomise(model))
    conv, bn = model.get_layer("stage1_block1_conv1"), model.get_layer("stage1_block1_bn1")
    gamma, beta, mean, variance = (w.astype(np.float64) for w in bn.get_weights())
    scale = gamma / np.sqrt(variance + 1e-5)
    node = next(node for node in graph.nodes if node.name == "stage1_block1_conv1")
    ulp = np.spacing(np.abs(node.kernel))
    assert (np.abs(node.kernel - conv.get_weights()[0].astype(np.float64) * scale) <= 0.51 * ulp).all()
    np.testing.assert_allclose(node.bias, beta - mean * scale, rtol=1e-6, atol=1e-6)


def test_vgg():
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 127.5, offset=-1)])
    for filters in (8, 12):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization(scale=False))
        model.add(layers.ReLU())
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.BatchNormalization(center=False))
        model.add(layers.MaxPooling2D())
        model.add(layers.Dropout(0.3))
    for layer in [layers.Flatten(), layers.Dense(16), layers.BatchNormalization(), layers.Activation("relu")]:
        model.add(layer)
    for layer in [layers.Dropout(0.5), layers.Dense(10, activation="softmax")]:
        model.add(layer)
    graph = compile_model(randomise(model))
    # Two BatchNorms come after an activation.
    assert kinds(graph) == {"Input": 1, "Conv": 4 + 2 + 2, "Pool": 2, "Flatten": 1}
    assert graph.nodes[-1].activation == "softmax"
    assert_same(model, graph)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "convolutions", "low", "high"),
    [
        (lambda **a: keras.applications.MobileNet(alpha=0.25, **a), 28, -1, 1),
        (lambda **a: keras.applications.MobileNetV2(alpha=0.35, **a), 53, -1, 1),
        # It rescales pixels.
        (lambda **a: keras.applications.MobileNetV3Small(alpha=0.75, **a), 54, 0, 256),
    ],
    ids=["v1", "v2", "v3"],
)
def test_mobilenet(build, convolutions, low, high):
    model = build(input_shape=(64, 64, 3), weights=None, classes=9, classifier_activation=None)
    graph = compile_model(randomise(model))
    count = kinds(graph)
    assert count["Conv"] == convolutions and not count["Add"]
    assert_same(model, graph, 2, low, high)


@pytest.mark.slow
def test_squeeze_and_excitation_is_one_hard_sigmoid():
    model = keras.applications.MobileNetV3Small(input_shape=(32, 32, 3), weights=None, classes=5)
    count = collections.Counter(getattr(node, "activation", None) for node in compile_model(model).nodes)
    assert count["hard_sigmoid"] == 9 and count["relu6"] == 0
    assert count["hard_silu"] > 10


def test_dense_blocks():
    """DenseNet: normalization before the convolution, and concatenation."""
    image = keras.Input((24, 20, 3), dtype="uint8")
    x = layers.Conv2D(8, 3, padding="same")(image / 255.0)
    for _ in range(3):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.Conv2D(12, 1, use_bias=False)(y)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(4, 3, padding="same", use_bias=False)(y)
        x = layers.Concatenate()([x, y])
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.AveragePooling2D(2)(layers.Conv2D(6, 1)(x))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(5)(x))
    graph = compile_model(randomise(model))
    # The normalizations of the first and of the joined values have convolutions of their own.
    assert kinds(graph) == {"Input": 1, "Conv": 12 + 1, "Concatenate": 3, "Pool": 1, "GlobalPool": 1}
    assert_same(model, graph)


def test_mixed_precision_compiles_to_float32():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_resnet("resnet18", classes=5, image_size=32, width=4, stem="cifar")
    finally:
        keras.config.set_dtype_policy(policy)
    single = build_resnet("resnet18", classes=5, image_size=32, width=4, stem="cifar")
    single.set_weights(randomise(model).get_weights())
    assert_same(single, compile_model(model))


@pytest.mark.slow
def test_another_backend(tmp_path):
    pytest.importorskip("jax")
    chain = [layers.Rescaling(0.1), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten()]
    model = keras.Sequential([keras.Input((6, 6, 3), dtype="uint8"), *chain, layers.Dense(3)])
    randomise(model).save(tmp_path / "model.keras")
    code = (
        "import sys, keras, numpy as np\n"
        "from tfprune.compiler.compile import compile_model\n"
        "assert keras.backend.backend() == 'jax'\n"
        "nodes = compile_model(keras.models.load_model(sys.argv[1])).nodes\n"
        "np.savez(sys.argv[2], nodes[0].scale, nodes[1].kernel, nodes[1].bias, nodes[3].kernel)\n"
    )
    paths = [str(tmp_path / "model.keras"), str(tmp_path / "weights.npz")]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    nodes = compile_model(model).nodes
    wanted = [nodes[0].scale, nodes[1].kernel, nodes[1].bias, nodes[3].kernel]
    with np.load(paths[1]) as found:
        for array, other in zip(wanted, found.values(), strict=True):
            np.testing.assert_allclose(other, array, rtol=1e-6)


def with_dead_channels():
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255, dtype="float32")(image)
    x = layers.Conv2D(8, 3, name="first")(x)
    x = layers.Conv2D(6, 3, name="second")(layers.ReLU()(x))
    model = randomise(keras.Model(image, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x))))
    kernel = model.get_layer("first").kernel
    kernel.assign(kernel * (np.arange(8) >= 5))
    return model


def test_dead_channels_are_cut_first():
    model = with_dead_channels()
    for shrink, filters in ((True, 3), (False, 8)):
        graph = compile_model(model, shrink=shrink)
        assert {node.name: node.kernel.shape[-1] for node in graph.nodes if hasattr(node, "kernel")} == {
            "first": filters,
            "second": 6,
            "head": 3,
        }
        assert_same(model, graph)


def test_what_cannot_be_cut_is_compiled_all_the_same(monkeypatch):
    def fails(*args):
        raise TypeError("no configuration")

    model = with_dead_channels()
    monkeypatch.setattr(ExactCut, "smaller", property(fails))
    with pytest.warns(UserWarning, match="with all channels, because they cannot be cut: no configuration"):
        graph = compile_model(model)
    assert_same(model, graph)

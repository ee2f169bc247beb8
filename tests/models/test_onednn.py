"""The gradient in which oneDNN writes behind its workspace, and the networks that keep away from it.

Only a strided 1x1 convolution of fewer than 16 channels is touched: what was trained with more is right.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tfprune.models import build_resnet


def narrow(width):
    return build_resnet("resnet18", classes=5, image_size=16, width=width, stem="cifar", seed=1)


def strided(model):
    """The same network with strided convolutions as shortcuts, as every wider one has them."""
    config = model.get_config()
    pools = {
        layer["name"]: layer for layer in config["layers"] if layer["name"].endswith("_shortcut_conv_pool")
    }
    for layer in config["layers"]:
        pool = pools.get(f"{layer['name']}_pool")
        if pool:
            layer["config"].update(strides=(2, 2), padding="valid")
            layer["inbound_nodes"] = pool["inbound_nodes"]
    config["layers"] = [layer for layer in config["layers"] if layer["name"] not in pools]
    other = keras.Model.from_config(config)
    other.set_weights(model.get_weights())
    return other


@pytest.mark.parametrize("width, pools", [(3, 3), (4, 2), (8, 1), (15, 1), (16, 0)])
def test_no_strided_shortcut_reads_few_channels(width, pools):
    model = narrow(width)
    shortcuts = [layer for layer in model.layers if layer.name.endswith("_shortcut_conv")]
    assert len(shortcuts) == 3
    for layer in shortcuts:
        channels = layer.input.shape[-1]
        assert layer.strides == ((2, 2) if channels >= 16 else (1, 1))
    assert sum(layer.name.endswith("_shortcut_conv_pool") for layer in model.layers) == pools


@pytest.mark.slow
def test_the_logits_are_the_strided_networks():
    model = narrow(5)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    other = strided(model)
    assert len(other.layers) == len(model.layers) - 2
    np.testing.assert_allclose(np.asarray(model(pixels)), np.asarray(other(pixels)), rtol=1e-5, atol=1e-5)


def train():
    """Trains with batches that two threads cannot share without sharing an image."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    model = narrow(4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss)
    for size in (1, 3) * 5:
        model.train_on_batch(pixels[:size], np.arange(size))


@pytest.mark.slow
def test_a_narrow_network_trains_on_odd_batches():
    """In a process of its own: a heap that is overwritten ends it."""
    done = subprocess.run(
        [sys.executable, "-c", "from tests.models.test_onednn import train; train()"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_NUM_INTRAOP_THREADS": "2"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.one_backend
@pytest.mark.parametrize("channels", [16, 20, 32, 64])
@pytest.mark.parametrize("batch", [1, 3, 7, 29])
def test_the_gradient_of_16_channels_and_more_is_right(channels, batch):
    """So is every run of them that has finished: the same bits each time, and the sum over the pixels."""
    import tensorflow as tf

    rng = np.random.default_rng(batch)
    images = rng.normal(size=(batch, 16, 16, channels)).astype(np.float32)
    gradient = rng.normal(size=(batch, 8, 8, 2 * channels)).astype(np.float32)
    expected = np.einsum("nijc,nijd->cd", images[:, ::2, ::2], gradient, dtype=np.float64)
    results = [
        tf.raw_ops.Conv2DBackpropFilter(
            input=images,
            filter_sizes=(1, 1, channels, 2 * channels),
            out_backprop=gradient,
            strides=[1, 2, 2, 1],
            padding="VALID",
        ).numpy()[0, 0]
        for _ in range(20)
    ]
    np.testing.assert_allclose(results[0], expected, atol=1e-3 * batch**0.5)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])

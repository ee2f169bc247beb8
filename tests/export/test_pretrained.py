"""A network with published weights on its way: pruned, stripped, compiled, exported."""

from pathlib import Path

import keras
import matplotlib
import numpy as np
import PIL.Image
import pytest

from tfprune import runtime
from tfprune.compiler.compile import compile_model
from tfprune.export.export import export_model
from tfprune.export.network import keras_logits
from tfprune.models import build_efficientnet_lite0, load_backbone
from tfprune.sparsity import masks_of, prune_low_magnitude, prune_to, strip_pruning

pytestmark = pytest.mark.slow

SIZE = 96


@pytest.fixture(scope="module")
def images():
    """Eight squares of a photograph."""
    photograph = PIL.Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    squares = [photograph.crop((30 * i, 30 * i, 300 + 30 * i, 300 + 30 * i)) for i in range(8)]
    return np.stack([np.asarray(square.resize((SIZE, SIZE))) for square in squares])


@pytest.fixture(scope="module")
def pruned():
    """EfficientNet-Lite0 with ImageNet's weights, the smallest 0.8 of all ordinary convolutions' gone."""
    model = build_efficientnet_lite0(classes=1000, image_size=SIZE)
    load_backbone(model, "imagenet", include_head=True)
    pruned = prune_low_magnitude(model, None, scope="global", layers=keras.layers.Conv2D)
    prune_to(pruned, 0.8)
    return pruned


def test_pointwise_convolutions_are_pruned_and_depthwise_ones_are_not(pruned):
    masks = masks_of(pruned)
    removed = sum(int((~mask).sum()) for mask in masks.values())
    total = sum(mask.size for mask in masks.values())

    assert len(masks) == 33
    assert removed / total == pytest.approx(0.8, abs=1e-4)
    assert {"stem_conv/kernel", "stage2_block1_expand_conv/kernel", "top_conv/kernel"} <= masks.keys()
    assert not any("depthwise" in name for name in masks)
    for layer in pruned.layers:
        if "depthwise_conv" in layer.name:
            assert isinstance(layer, keras.layers.DepthwiseConv2D)
            assert np.mean(layer.get_weights()[0] == 0) < 0.2  # Some of the published ones are zero.


def test_the_sparse_runtime_gives_the_same_logits(pruned, images, tmp_path):
    stripped = strip_pruning(pruned)
    expected = keras_logits(stripped, images)
    runtime.write_file(compile_model(stripped), tmp_path / "model.tfprune", "float32")
    logits = runtime.load(tmp_path / "model.tfprune", 1)(images)

    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))


def test_every_file_passes_the_audit(pruned, images, tmp_path):
    masks = masks_of(pruned)
    audit = export_model(pruned, str(tmp_path), inputs=images, masks=masks, progress=lambda line: None)

    assert audit["passed"] and not audit["left_out"]
    assert audit["sparsity"] == pytest.approx(0.8, abs=1e-4)
    formats = {entry["format"] for entry in audit["artifacts"].values()}
    assert formats == {"keras", "saved_model", "tflite", "sparse"}
    sparse = audit["artifacts"]["model.tfprune"]
    # Of what stays: those of dead channels are cut.
    assert sparse["zeros"]["masked_zero"] == sparse["zeros"]["masked"] > 2_400_000
    assert sparse["bytes_to_dense_weights"] < 0.35

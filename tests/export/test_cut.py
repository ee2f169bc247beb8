"""Channels that change no output are cut out of the exported files, and nothing else changes."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.channels.shrink import ExactCut
from tfprune.export import export_model, format_audit
from tfprune.export.audit import cut_line
from tfprune.export.cut import cut_network
from tfprune.export.network import Deployable, Network
from tfprune.export.signature import Signature
from tfprune.runtime import read_file
from tfprune.runtime.graph import Conv
from tfprune.sparsity import masks_of, prune_low_magnitude, prune_to, set_masks

IMAGES = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3)).astype("uint8")


def quietly(line):
    pass


def network(seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, dtype="float32")(image)
    x = layers.Conv2D(8, 3, padding="same", name="first", bias_initializer="normal")(x)
    x = layers.Conv2D(6, 3, activation="relu", name="second")(layers.ReLU()(x))
    x = layers.Dense(5, name="head")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, x, name="small")


def wrapped():
    """Of `first` the filters 0 to 3 are constants, and `second` takes nothing of 4."""
    model = prune_low_magnitude(network(), None)
    prune_to(model, 0.5)
    masks = masks_of(model)
    masks["first/kernel"][..., :4] = False
    masks["second/kernel"][:, :, 4] = False
    set_masks(model, masks)
    return model


def examined(model):
    """What `cut_network` needs."""
    whole = Deployable(model)
    reference = np.asarray(whole.model(IMAGES))
    return Network(whole.model, whole.masks, "unused"), reference


def shapes(graph):
    return {node.name: node.kernel.shape[-2:] for node in graph.nodes if isinstance(node, Conv)}


@pytest.mark.slow
def test_every_file_is_that_of_the_smaller_network_and_does_what_the_whole_one_does(tmp_path):
    model = wrapped()
    before = [np.array(weight) for weight in model.weights]
    audit = export_model(model, str(tmp_path), inputs=IMAGES, progress=quietly)
    assert audit["passed"] and len(audit["artifacts"]) == 7
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight)

    cut = audit["cut"]
    assert cut["layers"] == [{"layer": "first", "channels": 8, "dead": 5}]
    assert (cut["reason"], cut["channels"], cut["removed"], cut["silent"]) == ("", 19, 5, [])
    assert cut["took_constants"] == ["second/bias"]
    assert 0 <= cut["largest_logit_difference_relative"] <= 1e-5
    kernels, smaller = (27 * 8 + 72 * 6 + 30, 27 * 3 + 27 * 6 + 30)
    assert (audit["parameters"], cut["parameters"]) == (kernels + 19, smaller + 14)
    assert (cut["macs_before"], cut["macs"]) == (
        64 * 27 * 8 + 36 * 72 * 6 + 30,
        64 * 27 * 3 + 36 * 27 * 6 + 30,
    )
    # The shares are of the network that was given; those of what stays are beside it.
    masks = masks_of(model)
    assert audit["sparsity"] == pytest.approx(1 - sum(mask.sum() for mask in masks.values()) / kernels)
    left = [masks["first/kernel"][..., 5:], masks["second/kernel"][:, :, 5:], masks["head/kernel"]]
    assert cut["sparsity"] == pytest.approx(1 - sum(mask.sum() for mask in left) / smaller)
    for entry in audit["artifacts"].values():
        assert {name: counts["masked"] for name, counts in entry["layers"].items()} == {
            name: (~mask).sum() for name, mask in zip(("first", "second", "head"), left, strict=True)
        }
        assert entry["bytes_to_dense_weights"] == entry["bytes"] / (4 * audit["parameters"])

    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.get_layer("first").kernel,
        np.array(model.get_layer("prune_low_magnitude_first").layer.kernel)[..., 5:],
    )
    assert shapes(read_file(tmp_path / "model.tfprune"))["second"] == (3, 6)
    line = format_audit(audit).splitlines()[1]
    assert line.startswith(
        "cut: 5 of 19 channels, which change no output; 287 of 697 parameters and 11,046 of 29,406"
        " multiply-accumulates stay; of these parameters "
    )
    del audit["cut"]  # As in a file of an earlier version.
    assert "cut" not in format_audit(audit)


@pytest.mark.slow
def test_all_shapes_stay_if_nothing_is_to_be_cut(tmp_path):
    formats = ("keras", "sparse")
    audit = export_model(
        wrapped(), str(tmp_path), inputs=IMAGES, formats=formats, shrink=False, progress=quietly
    )
    assert audit["passed"] and audit["cut"] is None
    assert keras.saving.load_model(tmp_path / "model.keras").get_layer("first").filters == 8
    assert shapes(read_file(tmp_path / "model.tfprune"))["second"] == (8, 6)


def test_of_constants_that_are_padded_one_is_left_and_its_mask_is_theirs():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="first", activation="sigmoid", bias_initializer="normal")(
        image
    )
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="second")(x)
    model = prune_low_magnitude(keras.Model(image, layers.Dense(5)(layers.Flatten()(x))), None)
    prune_to(model, 0.5)
    masks = masks_of(model)
    masks["first/kernel"][..., :4] = False
    set_masks(model, masks)
    whole = Deployable(model)
    images = IMAGES.astype("float32") / 255
    smaller, cut = cut_network(
        Network(whole.model, whole.masks, "unused"), images, np.asarray(whole.model(images))
    )
    assert (cut.reason, cut.removed, cut.took_constants) == ("", 3, ["second/kernel"])
    np.testing.assert_array_equal(
        smaller.masks["second"][:, :, 0], np.asarray(masks["second/kernel"])[:, :, :4].any(2)
    )


def stream():
    """Of `conv` on a stream of 40 channels the weights take 5 and make 6."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(40, 3, padding="same", name="stem", activation="relu")(image)
    y = layers.Conv2D(40, 3, padding="same", name="conv", bias_initializer="normal")(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([x, y])))
    model = keras.Model(image, layers.Dense(5, name="head")(x))
    kernel = np.array(model.get_layer("conv").kernel)
    kernel[:, :, 5:] = kernel[..., 6:] = 0
    model.get_layer("conv").kernel.assign(kernel)
    return model


@pytest.mark.slow
def test_a_narrowed_convolution_is_in_all_files_but_the_sparse_runtimes(tmp_path):
    images = IMAGES.astype("float32") / 255
    audit = export_model(
        stream(), str(tmp_path), inputs=images, formats=("keras", "sparse"), progress=quietly
    )
    assert audit["passed"]
    assert audit["cut"]["narrowed"] == [
        {"layer": "conv", "takes": 5, "of_taken": 40, "makes": 6, "of_made": 40}
    ]
    assert audit["cut"]["took_constants"] == ["conv_scatter/bias"]
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.name for layer in loaded.layers[2:5]] == ["conv_select", "conv", "conv_scatter"]
    assert shapes(read_file(tmp_path / "model.tfprune"))["conv"] == (40, 40)
    assert {name: entry["layers"]["conv"]["masked"] for name, entry in audit["artifacts"].items()} == {
        "model.keras": 0,
        "model.tfprune": 9 * (40 * 40 - 5 * 6),
    }
    line = format_audit(audit).splitlines()[1]
    assert line.startswith("cut: 0 of 85 channels, which change no output; 1 convolution narrowed; 2,")


def test_a_selection_that_is_none_is_not_made(monkeypatch):
    build = ExactCut.smaller.func

    def wrong(cut):
        model = build(cut)
        kernel = model.get_layer("conv_select").kernel
        kernel.assign(2 * kernel)
        return model

    monkeypatch.setattr(ExactCut, "smaller", property(wrong))
    model, images = stream(), IMAGES.astype("float32") / 255
    whole = Network(model, {}, "unused", Signature(model, images))
    smaller, cut = cut_network(whole, images, np.asarray(model(images)))
    assert smaller is whole and not cut.narrowed
    assert cut.reason == "weight 'conv_select/kernel' of the smaller network is not a part of what it was"


@pytest.mark.slow
def test_channels_go_where_the_proof_fails_of_narrowed_convolutions_alone(monkeypatch):
    """As it may where a device rounds what convolutions take: what is placed is rounded once more."""
    build = ExactCut.smaller.func

    def rounding(cut):
        model = build(cut)
        for layer in cut.inserted:
            if layer.bias is not None:
                layer.bias.assign(layer.bias + 1e-2)
        return model

    monkeypatch.setattr(ExactCut, "smaller", property(rounding))
    model, images = stream(), IMAGES.astype("float32") / 255
    head = np.array(model.get_layer("head").kernel)
    head[7] = 0
    model.get_layer("head").kernel.assign(head)
    for name in ("stem", "conv"):
        kernel = np.array(model.get_layer(name).kernel)
        kernel[..., 7] = 0
        model.get_layer(name).kernel.assign(kernel)
    whole = Network(model, {}, "unused", Signature(model, images))
    smaller, cut = cut_network(whole, images, np.asarray(model(images)))
    assert cut.removed and not cut.reason and not cut.narrowed and smaller.wide is smaller is not whole
    assert cut.not_narrowed.startswith("the outputs of the smaller network differ by ")
    audit = {
        "cut": cut.record() | {"parameters": 1, "sparsity": 0, "sparsity_all_weights": 0},
        "parameters": 2,
    }
    assert cut_line(audit)[1:] == [f"no convolution narrowed: {cut.not_narrowed}"]


def test_a_network_without_dead_channels_is_exported_itself():
    whole, reference = examined(network())
    smaller, cut = cut_network(whole, IMAGES, reference)
    assert smaller is whole and (cut.reason, cut.channels, cut.removed) == ("", 19, 0)


def test_open_sizes_are_those_of_the_examples():
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same", name="first", activation="relu")(image)
    model = keras.Model(image, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))
    model.get_layer("first").kernel.assign(np.ones((3, 3, 3, 4)) * [0, 0, 0, 1])
    examples = np.ones((2, 5, 7, 3), "float32")
    whole = Network(model, {}, "unused", Signature(model, examples))
    _, cut = cut_network(whole, examples, np.asarray(model(examples)))
    assert (cut.macs_before, cut.macs) == (35 * 27 * 4 + 8, 35 * 27 + 2)


@pytest.mark.parametrize(
    ("weight", "change", "reason"),
    [
        (
            ("first", "kernel"),
            1e-9,
            "weight 'first/kernel' of the smaller network is not a part of what it was",
        ),
        (
            ("second", "bias"),
            0.1,
            "the outputs of the smaller network differ by .* of the largest, the rule is 1e-05",
        ),
    ],
)
def test_a_cut_that_is_not_exact_is_not_made_and_said(monkeypatch, weight, change, reason):
    build = ExactCut.smaller.func

    def wrong(cut):
        model = build(cut)
        variable = getattr(model.get_layer(weight[0]), weight[1])
        variable.assign(variable + change)
        return model

    monkeypatch.setattr(ExactCut, "smaller", property(wrong))
    whole, reference = examined(wrapped())
    smaller, cut = cut_network(whole, IMAGES, reference)
    assert smaller is whole and cut.removed == 0
    assert re.fullmatch(reason, cut.reason)


def test_a_model_with_a_call_of_its_own_is_left_as_it_is():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model, examples = Own(), np.ones((2, 3), "float32")
    reference = np.asarray(model(examples))
    whole = Network(model, {}, "unused", Signature(model, examples))
    smaller, cut = cut_network(whole, examples, reference)
    assert smaller is whole
    assert cut.reason == "it has a `call` of its own, in which channels cannot be followed"

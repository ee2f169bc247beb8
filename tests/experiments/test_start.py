"""The network of round 0: what is taken from the other run and what is new."""

import dataclasses

import numpy as np
import pytest

from tfprune import sparsity
from tfprune.experiments.batches import load_dataset
from tfprune.experiments.networks import load_model
from tfprune.experiments.pruning import masks_sparsity
from tfprune.experiments.start import build_network, build_start, find_start


def weights(model, name):
    return [
        np.asarray(variable)
        for layer in model.layers
        if getattr(getattr(layer, "layer", layer), "name", "") == name
        for variable in getattr(layer, "layer", layer).weights
    ]


def start_of(config, dataset=None):
    return build_start(config, dataset or load_dataset(config), find_start(config))


def same(ours, theirs):
    assert ours and len(ours) == len(theirs)
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_another_run_on_the_same_data_keeps_its_head(runs):
    source = load_model(runs.one_shot.round(1))
    config = runs.config("start", init_from="one_shot")
    network = start_of(config)
    for name in ("stem_conv", "stem_bn", "head"):
        assert same(weights(network, name), weights(source, name))


@pytest.mark.slow
def test_another_dataset_gets_a_new_head(runs):
    source = load_model(runs.one_shot.round(1))
    config = runs.config("start", init_from="one_shot")
    # Digits by another name, so that even the head's shape would fit.
    config = dataclasses.replace(config, dataset="image_folder")
    dataset = load_dataset(runs.config("data"))
    network = start_of(config, dataset)
    assert same(weights(network, "stem_conv"), weights(source, "stem_conv"))
    assert not same(weights(network, "head"), weights(source, "head"))
    assert same(weights(network, "head"), weights(build_network(config, dataset), "head"))
    kernel, bias = weights(network, "head")
    assert np.abs(kernel).max() <= np.sqrt(6 / sum(kernel.shape))  # Glorot uniform
    assert np.all(bias == 0)


@pytest.mark.slow
def test_dense_from_a_dense_run_has_no_masks(runs):
    assert runs.dense.round(0).finished
    config = runs.config("start", init_from="dense")
    assert not sparsity.pruned_layers(start_of(config))


@pytest.mark.slow
def test_a_pruning_run_takes_up_the_masks(runs):
    config = runs.config("start", init_from="one_shot", regime="one_shot", target_sparsity=0.95)
    assert runs.one_shot.round(1).finished
    network = start_of(config)
    expected = runs.one_shot.round(1).read_result().sparsity
    assert masks_sparsity(network) == pytest.approx(expected, abs=1e-12)
    assert masks_sparsity(network) > 0.89


@pytest.mark.parametrize(
    "prune_layers, names",
    [
        ("stage2_.*", {"stage2_block1_conv1", "stage2_block1_conv2", "stage2_block1_shortcut_conv"}),
        ("stem_conv|head", {"stem_conv", "head"}),
    ],
)
def test_prune_layers_matches_whole_names(runs, prune_layers, names):
    config = runs.config("start", regime="one_shot", target_sparsity=0.5, prune_layers=prune_layers)
    network = start_of(config)
    assert {wrapper.layer.name for wrapper in sparsity.pruned_layers(network)} == names


def test_the_first_layer_normalises_by_the_train_split(runs):
    config = runs.config("start")
    dataset = load_dataset(config)
    layer = start_of(config, dataset).get_layer("normalization")
    images = dataset.train.inputs
    normalised = np.asarray(layer(images))
    assert normalised.mean(axis=(0, 1, 2)) == pytest.approx([0, 0, 0], abs=1e-4)
    assert normalised.std(axis=(0, 1, 2)) == pytest.approx([1, 1, 1], abs=1e-4)

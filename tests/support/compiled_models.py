"""Compares a Keras model with random weights and the graph compiled from it; for the compiler's tests."""

import collections

import keras
import numpy as np
from keras import layers

from tests.support import reference
from tfprune import runtime
from tfprune.network.graph import input_structure

_NORMALIZATIONS = (layers.LayerNormalization, layers.GroupNormalization, layers.RMSNormalization)
# A layer of each kind of cell, by the number of units.
CELLS = {
    "LSTM": layers.LSTM,
    "GRU": layers.GRU,
    "GRU that resets before": lambda units, **options: layers.GRU(units, reset_after=False, **options),
    "SimpleRNN": layers.SimpleRNN,
}


def randomise(model, sparsity=0.0, seed=0):
    """Gives every weight a value that shows if it is lost, and BatchNorm statistics of both signs."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            n = layer.moving_mean.shape[0]
            if layer.scale:
                layer.gamma.assign(rng.choice([-1.0, 1.0], n) * rng.uniform(0.5, 1.5, n))
            if layer.center:
                layer.beta.assign(rng.normal(size=n))
            layer.moving_mean.assign(rng.normal(size=n))
            layer.moving_variance.assign(rng.uniform(0.5, 2.0, n))
        elif isinstance(layer, _NORMALIZATIONS):
            for weight in layer.weights:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        else:
            for weight in layer._trainable_variables:  # its own, not those of layers inside
                value = rng.normal(size=weight.shape) * 0.3
                if len(weight.shape) > 1:
                    one_channel = "Depthwise" in type(layer).__name__ or "depthwise" in weight.path
                    fan_in = np.prod(weight.shape[: -2 if one_channel else -1])
                    if isinstance(layer, layers.Embedding):
                        fan_in = 1  # a word takes one row
                    kept = rng.random(weight.shape) >= sparsity
                    value = rng.normal(size=weight.shape) * kept * np.sqrt(2 / fan_in)
                weight.assign(value)
    return model


def random_inputs(model, count=3, low=0, high=256):
    """An array for each of a model's inputs, in the order of its tensors."""
    rng = np.random.default_rng(1)
    return [
        rng.uniform(low, high, (count, *tensor.shape[1:])).astype(tensor.dtype) for tensor in model.inputs
    ]


def outputs_of(model, inputs):
    """A model's outputs in a list, in the order of its tensors."""
    packed = keras.tree.pack_sequence_as(input_structure(model), list(inputs))
    made = keras.tree.flatten(model(packed, training=False))
    return [keras.ops.convert_to_numpy(output) for output in made]


def assert_same(model, graph, count=3, low=0, high=256, run=reference.run_all, tolerance=1e-4):
    """The graph and the model give the same outputs for random images."""
    inputs = random_inputs(model, count, low, high)
    expected = outputs_of(model, inputs)
    assert max(output.std(axis=0).max() for output in expected) > 1e-3, "it must tell the images apart"
    found = list(run(graph, inputs).values())
    assert [array.shape for array in found] == [array.shape for array in expected]
    for array, wanted in zip(found, expected, strict=True):
        atol = tolerance * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(array, wanted, rtol=0, atol=atol)


def run_in_runtime(graph, inputs):
    """The outputs of a compiled graph, by name, from the kernels."""
    model = runtime.Model(graph, 1)
    made = model(inputs if len(inputs) > 1 else inputs[0])
    return made if isinstance(made, dict) else {next(iter(model.outputs)): made}


def kinds(graph):
    return collections.Counter(type(node).__name__ for node in graph.nodes)

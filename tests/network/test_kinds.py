"""The table of the kernels of Keras's layers: complete, and true of each layer."""

import inspect
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from keras import layers

from tests.support.layer_kinds import CELLS, HOLDERS, NEVER_PRUNED, PRUNED, call, inputs_of
from tfprune.network import kinds
from tfprune.network.graph import all_layers

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {**PRUNED, **NEVER_PRUNED}
PUBLIC = {
    cls: name
    for name, cls in sorted(vars(layers).items(), reverse=True)  # "Conv1D" after "Convolution1D".
    if inspect.isclass(cls) and issubclass(cls, layers.Layer) and cls is not layers.Layer
}


def has_weights(cls):
    """Whether a class of Keras makes weights, or layers that have some, or wraps a layer."""
    makes = re.compile(
        r"add_weight\(|add_variable\(|Variable\(|\b(Dense|EinsumDense|Embedding|Conv\w*|\w*Cell)\("
    )
    own = [c for c in cls.__mro__ if c.__module__.startswith("keras.src.layers.") and c is not layers.Layer]
    sources = {inspect.getsource(sys.modules[c.__module__]) for c in own}
    code = "".join(re.sub(r'"""[\s\S]*?"""', "", source) for source in sources)
    return bool(makes.search(code)) or layers.Wrapper in own[1:]


def built(name):
    example = EXAMPLES[name]
    layer = example.make()
    call(layer, inputs_of(example))
    return layer


def test_every_layer_of_keras_that_has_weights_is_an_example():
    """Fails when a new release of Keras brings a layer that nobody has decided upon."""
    found = {name for cls, name in PUBLIC.items() if has_weights(cls)}
    assert len(found) > 35
    # Tables of strings, not variables.
    known = {*EXAMPLES, *CELLS, *HOLDERS, "IntegerLookup", "StringLookup"}
    assert found - known == set()
    assert known - set(PUBLIC.values()) == set()


def test_every_example_has_an_entry_and_every_entry_a_class():
    of_keras = {cls.__name__: name for cls, name in PUBLIC.items()}
    named = {of_keras.get(name, name) for name in kinds.KINDS}
    assert named == {*EXAMPLES, *CELLS, *HOLDERS, "ConvLSTMCell"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_matrix_is_forgotten(name):
    """Each trainable variable with two axes is a kernel, a bias, or one of a layer that only scales."""
    layer = built(name)
    assert layer.weights
    parts = all_layers(layer)
    entries = {id(kernel.variable) for part in parts for kernel in kinds.kernels(part)}
    scales = {id(v) for part in parts if (kind := kinds.kind_of(part)) and kind.scales for v in part.weights}
    matrices = {id(v) for v in layer.trainable_variables if len(v.shape) > 1 and v.name != "bias"}
    assert matrices <= entries | scales
    assert not entries & scales
    assert all(kinds.kind_of(part) is not None for part in parts if part.weights)


@pytest.mark.parametrize("name", EXAMPLES)
def test_pruned_is_what_is_not_left_alone(name):
    layer = built(name)
    assert [variable.name for variable in kinds.prunable_variables(layer)] == EXAMPLES[name].pruned
    assert (
        kinds.may_be_prunable(layer)
        == kinds.may_be_prunable(EXAMPLES[name].make())
        == bool(EXAMPLES[name].pruned)
    )
    assert bool(kinds.left_alone(layer)) == ("Depthwise" in name or "Separable" in name)


@pytest.mark.parametrize(
    "layer, shape, name, inputs, outputs, groups",
    [
        (layers.Dense(5), (6,), "kernel", 6, 5, 1),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (4, 6), "kernel", 6, 6, 1),
        (layers.EinsumDense("abcd,cde->abe", (None, 5)), (4, 2, 3), "kernel", 3, 5, 1),
        (layers.Conv1D(4, 3), (8, 2), "kernel", 2, 4, 1),
        (layers.Conv2D(6, 3, groups=2), (5, 5, 4), "kernel", 4, 6, 2),
        (layers.Conv3D(5, 2), (4, 4, 4, 2), "kernel", 2, 5, 1),
        (layers.Conv1DTranspose(5, 3), (8, 2), "kernel", 2, 5, 1),
        (layers.Conv2DTranspose(5, 3), (5, 5, 2), "kernel", 2, 5, 1),
        (layers.Conv3DTranspose(5, 2), (4, 4, 4, 2), "kernel", 2, 5, 1),
        (layers.DepthwiseConv1D(3, depth_multiplier=2), (8, 3), "kernel", 3, 6, 3),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 3), "kernel", 3, 6, 3),
        (layers.SeparableConv1D(5, 3, depth_multiplier=2), (8, 3), "depthwise_kernel", 3, 6, 3),
        (layers.SeparableConv2D(5, 3, depth_multiplier=2), (8, 8, 3), "depthwise_kernel", 3, 6, 3),
        (layers.SeparableConv2D(5, 3, depth_multiplier=2), (8, 8, 3), "pointwise_kernel", 6, 5, 1),
        (layers.Embedding(9, 4), (5,), "embeddings", None, 4, 1),
        (layers.ReversibleEmbedding(9, 4, tie_weights=False), (5,), "embeddings", None, 4, 1),
        (layers.ReversibleEmbedding(9, 4, tie_weights=False), (5,), "reverse_embeddings", 4, 9, 1),
        # The columns of a gate are no channels.
        (layers.SimpleRNNCell(5), None, "kernel", 4, None, 1),
        (layers.GRUCell(5), None, "kernel", 4, None, 1),
        (layers.LSTMCell(5), None, "recurrent_kernel", 5, None, 1),
        (layers.ConvLSTM1D(5, 2), (3, 6, 2), "recurrent_kernel", 5, None, 1),
        (layers.ConvLSTM2D(5, 2), (3, 6, 6, 2), "kernel", 2, None, 1),
        (layers.ConvLSTM3D(5, 2), (3, 4, 4, 4, 2), "kernel", 2, None, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else "",
)
def test_axes(layer, shape, name, inputs, outputs, groups):
    if shape is None:
        layer.build((None, 4))
    else:
        layer.build((None, *shape))
    own = {kernel.name: kernel for part in all_layers(layer) for kernel in kinds.kernels(part)}
    kernel = own[name]
    sizes = kernel.variable.shape
    assert kernel.groups == groups
    if inputs is None:
        assert kernel.input_axis is None
    else:
        depthwise = kernel.input_axis in kernel.output_axes
        assert sizes[kernel.input_axis] == (inputs if depthwise else inputs // groups)
    if outputs is None:
        assert kernel.output_axes == ()
    else:
        assert math.prod(sizes[axis] for axis in kernel.output_axes) == outputs
    assert kernel.layer in all_layers(layer) and getattr(kernel.layer, name) is kernel.variable


def test_subclasses_inherit_and_namesakes_do_not():
    class Own(layers.Conv2D):
        pass

    class Dense(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 2))

    own, namesake = Own(2, 3), Dense()
    own.build((None, 5, 5, 1))
    namesake.build((None, 3))
    assert [kernel.name for kernel in kinds.kernels(own)] == ["kernel"]
    assert kinds.kind_of(namesake) is None and kinds.kernels(namesake) == []
    assert kinds.possible_kernels(namesake) == [namesake.kernel]
    assert kinds.builtin_layer(own) is None and kinds.builtin_layer(layers.Dense(1)) == "Dense"


def test_a_custom_layer_says_what_is_prunable():
    class Custom(layers.Dense):
        def get_prunable_weights(self):
            return [self.bias]

    layer = Custom(3)
    layer.build((None, 4))
    assert kinds.prunable_variables(layer) == [layer.bias]


@pytest.mark.parametrize("told", ["a value", "another layer's", "an array"])
def test_what_a_custom_layer_says_must_be_its_weights(told):
    other = layers.Dense(3)
    other.build((None, 4))

    class Custom(layers.Dense):
        def get_prunable_weights(self):
            answers = {"a value": self.kernel.value, "another layer's": other.kernel, "an array": [[1.0]]}
            return [self.bias, answers[told]]

    layer = Custom(3, name="mine")
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"must return Keras variables of the layer.*layer 'mine'"):
        kinds.prunable_variables(layer)


def test_lora_leaves_nothing_to_prune():
    layer = layers.Dense(3)
    layer.build((None, 4))
    layer.enable_lora(2)
    assert kinds.kernels(layer) == []


@pytest.mark.slow
def test_a_class_that_the_installed_keras_does_not_have_is_skipped():
    """Keras without its newest classes, and with an entry for one that is not there yet."""
    code = """
import keras
from keras import layers
for name in ("GroupQueryAttention", "ReversibleEmbedding", "RMSNormalization", "DepthwiseConv1D",
             "STFTSpectrogram", "ConvLSTM3D", "TFSMLayer", "JaxLayer", "FlaxLayer", "SpectralNormalization"):
    delattr(layers, name)
from tfprune.network import kinds
import tfprune.network.macs, tfprune.compiler.compile, tfprune.sparsity as sparsity
kinds.KINDS["LayerOfTomorrow"] = kinds.KINDS["Dense"]
model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.PReLU(), layers.Dense(2)])
wrapped = sparsity.prune_low_magnitude(model, None)
sparsity.prune_to(wrapped, 0.5)
print(sparsity.summarize(wrapped).macs)
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["18"]

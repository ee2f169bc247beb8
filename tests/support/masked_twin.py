"""The masked twin of a model: the whole model, in which channels that were removed reach nobody.

It is computed from the labels alone, never from what is cut: after each call of a layer or an operation, the
values whose labels do not stay are zero. A channel that a layer makes for itself, of an attention's head
or a recurrent layer's unit, is zero for the layer's own kernel that takes it.

Normalisation over channels is that of the channels that stay, as in a network that is built without the
others: no mask of a whole network computes that.
"""

import contextlib

import keras
import numpy as np
from keras import ops

from tfprune.channels.cut import build_smaller
from tfprune.channels.groups import Traced
from tfprune.channels.trace import INSIDE
from tfprune.network.graph import computed_graph, evaluate


def twin_outputs(traced, stays, inputs):
    """Returns what the model computes for a list of inputs when channels are zero, as arrays."""
    calls = iter(traced.trace.calls)

    def call(step):
        graph = computed_graph(step.operation)
        if graph is not None:
            return evaluate(graph, step.inputs, call)
        noted = next(calls)
        assert noted.operation is step.operation
        over = _normalized(noted, stays, traced)
        if over is not None:
            values = [_normalize_what_stays(noted.layer, step.inputs[0], *over)]
        else:
            values = keras.tree.flatten(step.operation(*step.args, **step.kwargs))
        return [
            _masked(value, stays[traced.sets[channels.labels]])
            for value, channels in zip(values, noted.outputs, strict=True)
        ]

    def twin(*given):
        return evaluate(computed_graph(traced.model), given, call)

    with _zero_inside(traced, stays):
        outputs = _compiled(twin)(*map(ops.convert_to_tensor, inputs))
    return [ops.convert_to_numpy(value) for value in outputs]


def random_stays(traced, rng, share=0.5):
    """Returns booleans over sets, about a share of them true: one at least in each tensor, and not all."""
    stays = np.ones(traced.count, bool)
    for number, one in enumerate(rng.permutation(np.arange(1, traced.count))):
        stays[one] = number > 0 and rng.random() < share
        if not all(stays[sets].any() for sets in traced.together):
            stays[one] = True
    return stays


def cut(traced, stays):
    """Returns the model without the sets that do not stay."""
    return build_smaller(traced.model, traced.trace.cuts, lambda labels: stays[traced.sets[labels]])


def check_cut(model, inputs, seed=0, share=0.5, tolerance=1e-5, reloaded=True):
    """Checks that a model cut at random computes what its masked twin does.

    Args:
        model: The model, which must be the same afterwards.
        inputs: A list of its inputs.
        seed, share: Of `random_stays`.
        tolerance: The largest difference, as a share of the largest output.
        reloaded: Whether the cut model is made anew from its JSON.

    Returns:
        The traced model and the smaller one.
    """
    traced = Traced(model)
    before = [np.array(one) for one in model.get_weights()]
    stays = random_stays(traced, np.random.default_rng(seed), share)
    small = cut(traced, stays)
    expected = twin_outputs(traced, stays, inputs)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    made = small
    if reloaded:
        made = keras.models.model_from_json(small.to_json(), custom_objects(model))
        made.set_weights(small.get_weights())
    for one, other in zip(outputs_of(made, inputs), expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())
    return traced, small


def outputs_of(model, inputs):
    """Returns what a model computes for a list of inputs, as arrays."""

    def call(*given):
        return keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, list(given))))

    return [ops.convert_to_numpy(one) for one in _compiled(call)(*map(ops.convert_to_tensor, inputs))]


def _compiled(function):
    """Returns a function of tensors as one program on JAX, which else compiles one for each operation."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def custom_objects(model):
    """Returns the classes of a model's layers that are not Keras's own."""
    layers = model._flatten_layers()
    return {type(one).__name__: type(one) for one in layers if not type(one).__module__.startswith("keras.")}


def randomize(model, seed=0):
    """Gives a model's weights values of which no effect vanishes: offsets, scales and moments too."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = variable.shape
        if "seed" in variable.path:
            continue
        if "variance" in variable.path:
            values = rng.uniform(0.5, 2, shape)
        elif len(shape) > 1:
            values = rng.normal(0, 1.5 / np.sqrt(np.prod(shape[:-1])), shape)
        else:
            values = rng.normal(0.5, 0.5, shape)
        variable.assign(values.astype(variable.dtype))


def random_inputs(model, seed=0, batch=13):
    """Returns a list of random inputs of a model: whole numbers below 5 where it takes such.

    The batch is of no other axis's size: where it is, Keras's addition on TensorFlow takes one value for each
    example, of shape [batch, 1, 1, 1], for a bias.
    """
    rng = np.random.default_rng(seed)
    made = []
    for tensor in model.inputs:
        shape = (batch, *(5 if size is None else size for size in tensor.shape[1:]))
        whole = "int" in tensor.dtype
        made.append((rng.integers(0, 5, shape) if whole else rng.normal(size=shape)).astype(tensor.dtype))
    return made


def _masked(value, stays):
    if stays.all():
        return value
    masked = ops.where(stays[None], value, ops.zeros_like(value))
    mask = getattr(value, "_keras_mask", None)
    if mask is not None:
        masked._keras_mask = mask
    return masked


@contextlib.contextmanager
def _zero_inside(traced, stays):
    """Zeroes the rows of kernels that take channels which their layer makes and drops."""
    before = []
    for one in traced.slices:
        if one.role == "takes" and one.input == INSIDE:
            values = np.array(ops.convert_to_numpy(one.variable))
            before.append((one.variable, values.copy()))
            np.moveaxis(values, one.axis, 0)[~stays[traced.sets[one.labels]]] = 0
            one.variable.assign(values)
    yield
    for variable, values in reversed(before):
        variable.assign(values)


_OVER_CHANNELS = {"LayerNormalization", "RMSNormalization", "UnitNormalization"}


def _normalized(call, stays, traced):
    """Returns the axes that a layer normalises over and what stays of it; None where all does."""
    if type(call.layer).__name__ not in _OVER_CHANNELS:
        return None
    kept = stays[traced.sets[call.inputs[0].labels]]
    axes = call.layer.axis
    return None if kept.all() else (axes if isinstance(axes, (list, tuple)) else (axes,), kept)


def _normalize_what_stays(layer, x, axes, kept):
    """Computes a normalisation over the channels that stay, from its definition."""
    axes = tuple(axes)
    kept = ops.convert_to_tensor(np.broadcast_to(kept, x.shape[1:])[None].astype("float32"))
    count = ops.maximum(ops.sum(ops.broadcast_to(kept, x.shape), axes, keepdims=True), 1.0)
    x = x * kept
    square = ops.sum(ops.square(x), axes, keepdims=True)
    sizes = [size if axis in [a % len(x.shape) for a in axes] else 1 for axis, size in enumerate(x.shape)]
    if type(layer).__name__ == "UnitNormalization":
        return x / ops.sqrt(ops.maximum(square, 1e-12))
    if type(layer).__name__ == "RMSNormalization":
        return x / ops.sqrt(square / count + layer.epsilon) * ops.reshape(layer.scale, sizes)
    mean = ops.sum(x, axes, keepdims=True) / count
    variance = ops.sum(ops.square(x - mean) * kept, axes, keepdims=True) / count
    out = (x - mean) / ops.sqrt(variance + layer.epsilon)
    out = out if layer.gamma is None else out * ops.reshape(layer.gamma, sizes)
    return out if layer.beta is None else out + ops.reshape(layer.beta, sizes)

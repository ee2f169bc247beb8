"""Our masks against those of `torch.nn.utils.prune` on the same tensors; on every backend."""

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch.nn.utils import prune

from tfprune.sparsity import prune_low_magnitude, prune_to, pruned_layers

# No product with a size below ends in a half, where PyTorch rounds as we do but is not asked to.
SPARSITIES = [0.1, 0.33, 0.62, 0.9, 0.99]


class Pair:
    """A Keras layer and a PyTorch module with the same kernel.

    Args:
        layer: The Keras layer.
        input_shape: Of one example.
        axes: Puts the axes of the Keras kernel in PyTorch's order.
        output_axis: The output channels' axis in PyTorch.
    """

    def __init__(self, layer, input_shape, axes, output_axis=0):
        self.layer, self.input_shape, self.axes, self.output_axis = layer, input_shape, axes, output_axis

    def build(self):
        inputs = keras.Input(self.input_shape)
        model = prune_low_magnitude(keras.Model(inputs, self.layer(inputs)), None)
        return model, self.variable(model)

    @staticmethod
    def variable(model):
        """Sets the one prunable variable to normal, well separated numbers, and returns these."""
        ((variable,),) = [wrapper.prunable_variables for wrapper in pruned_layers(model)]
        return fill(variable)

    def module(self, kernel):
        return module_with(kernel.transpose(self.axes))

    def to_torch(self, mask):
        return mask.transpose(self.axes)


def fill(variable):
    values = np.random.default_rng(tuple(variable.shape)).normal(size=variable.shape).astype("float32")
    assert np.unique(np.abs(values)).size == values.size
    variable.assign(values)
    return values


def module_with(weight):
    """A PyTorch module that has nothing but this weight."""
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(weight)))
    return module


# Values are assigned later; on JAX each shape of random ones would be compiled first.
ZEROS = {"kernel_initializer": "zeros"}
PAIRS = {
    "dense": lambda: Pair(layers.Dense(17, **ZEROS), (23,), (1, 0)),
    "conv1d": lambda: Pair(layers.Conv1D(9, 5, **ZEROS), (8, 7), (2, 1, 0)),
    "conv2d": lambda: Pair(layers.Conv2D(12, (3, 2), **ZEROS), (8, 8, 7), (3, 2, 0, 1)),
    "conv2d_grouped": lambda: Pair(layers.Conv2D(12, 3, groups=2, **ZEROS), (8, 8, 6), (3, 2, 0, 1)),
    "conv3d": lambda: Pair(layers.Conv3D(6, (2, 3, 2), **ZEROS), (4, 4, 4, 5), (4, 3, 0, 1, 2)),
    # PyTorch's transposed convolutions have the input channels first.
    "conv1d_transpose": lambda: Pair(
        layers.Conv1DTranspose(11, 4, **ZEROS), (8, 7), (2, 1, 0), output_axis=1
    ),
    "conv2d_transpose": lambda: Pair(
        layers.Conv2DTranspose(13, (3, 2), **ZEROS), (6, 6, 5), (3, 2, 0, 1), output_axis=1
    ),
    "embedding": lambda: Pair(
        layers.Embedding(31, 13, embeddings_initializer="zeros"), (4,), (0, 1), output_axis=1
    ),
}


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", PAIRS)
def test_one_layer_as_l1_unstructured(name, sparsity, masks_of):
    pair = PAIRS[name]()
    model, kernel = pair.build()
    module = pair.module(kernel)
    prune.l1_unstructured(module, "weight", amount=sparsity)
    prune_to(model, sparsity)
    (mask,) = masks_of(model)
    assert 0 < np.count_nonzero(~mask) < mask.size
    np.testing.assert_array_equal(pair.to_torch(mask), module.weight_mask.numpy().astype(bool))


@pytest.mark.parametrize("name", ["dense", "conv2d"])
def test_three_rounds_as_l1_unstructured_of_what_is_left(name, masks_of, kernels_of):
    pair = PAIRS[name]()
    model, kernel = pair.build()
    module = pair.module(kernel)
    removed = 0
    for sparsity in (0.4, 0.7, 0.95):
        total = round(sparsity * kernel.size)
        prune.l1_unstructured(module, "weight", amount=total - removed)
        prune_to(model, sparsity)
        removed = total
        np.testing.assert_array_equal(pair.to_torch(masks_of(model)[0]), module.weight_mask.numpy())
    np.testing.assert_array_equal(pair.to_torch(kernels_of(model)[0]), module.weight.detach().numpy())


def convnet_and_modules(scope, scales=(0.6, 1.0, 0.8)):
    """A model whose kernels have different sizes and scales, and a PyTorch module for each."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, name="stem", **ZEROS),
            layers.Conv2D(9, (1, 2), name="middle", **ZEROS),
            layers.Flatten(name="flatten"),
            layers.Dense(5, name="head", **ZEROS),
        ]
    )
    model = prune_low_magnitude(model, None, scope=scope)
    modules = []
    variables = [v for wrapper in pruned_layers(model) for v in wrapper.prunable_variables]
    for variable, scale in zip(variables, scales, strict=True):
        kernel = fill(variable) * np.float32(scale)
        variable.assign(kernel)
        modules.append(module_with(output_first(kernel)))
    return model, modules


def output_first(kernel):
    return kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)


@pytest.mark.parametrize("sparsity", SPARSITIES[:-1])
def test_a_model_in_global_scope_as_global_unstructured(sparsity, masks_of):
    model, modules = convnet_and_modules("global")
    parameters = [(module, "weight") for module in modules]
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=sparsity)
    prune_to(model, sparsity)
    shares = [np.mean(~mask) for mask in masks_of(model)]
    assert np.ptp(shares) > 0.005  # Not what layer scope would give.
    for mask, module in zip(masks_of(model), modules, strict=True):
        np.testing.assert_array_equal(output_first(mask), module.weight_mask.numpy().astype(bool))


def test_global_rounds_as_global_unstructured_of_what_is_left(masks_of):
    model, modules = convnet_and_modules("global")
    parameters = [(module, "weight") for module in modules]
    size, removed = sum(mask.size for mask in masks_of(model)), 0
    for sparsity in (0.3, 0.6, 0.9):
        total = round(sparsity * size)
        prune.global_unstructured(parameters, prune.L1Unstructured, amount=total - removed)
        prune_to(model, sparsity)
        removed = total
        for mask, module in zip(masks_of(model), modules, strict=True):
            np.testing.assert_array_equal(output_first(mask), module.weight_mask.numpy().astype(bool))


def test_no_layer_is_emptied_and_in_pytorch_one_is(masks_of):
    """The difference: each of our tensors keeps its largest weight, and the ranking's last goes for it."""
    model, modules = convnet_and_modules("global", scales=(0.001, 1.0, 0.8))
    prune.global_unstructured([(m, "weight") for m in modules], prune.L1Unstructured, amount=0.6)
    prune_to(model, 0.6)
    ours = [output_first(mask) for mask in masks_of(model)]
    theirs = [module.weight_mask.numpy().astype(bool) for module in modules]
    assert not theirs[0].any()
    largest = np.abs(modules[0].weight_orig.detach().numpy()).argmax()
    assert np.flatnonzero(ours[0]).tolist() == [largest]
    assert sum(map(np.count_nonzero, ours)) == sum(map(np.count_nonzero, theirs))
    assert sum(np.count_nonzero(our != their) for our, their in zip(ours, theirs, strict=True)) == 2


def test_a_model_in_layer_scope_as_l1_unstructured_of_each(masks_of):
    model, modules = convnet_and_modules("layer")
    prune_to(model, 0.71)
    for mask, module in zip(masks_of(model), modules, strict=True):
        prune.l1_unstructured(module, "weight", amount=0.71)
        np.testing.assert_array_equal(output_first(mask), module.weight_mask.numpy().astype(bool))


@pytest.mark.parametrize("sparsity", [0.2, 0.63, 0.85])
@pytest.mark.parametrize("name", PAIRS)
def test_whole_channels_as_ln_structured(name, sparsity, masks_of):
    pair = PAIRS[name]()
    inputs = keras.Input(pair.input_shape)
    model = prune_low_magnitude(keras.Model(inputs, pair.layer(inputs)), None, granularity="channel")
    module = pair.module(pair.variable(model))
    prune.ln_structured(module, "weight", amount=sparsity, n=2, dim=pair.output_axis)
    prune_to(model, sparsity)
    (mask,) = masks_of(model)
    assert 0 < np.count_nonzero(~mask) < mask.size
    np.testing.assert_array_equal(pair.to_torch(mask), module.weight_mask.numpy().astype(bool))

"""`quantize_aware`: a pruned network trained on with weights of 8 bits."""

import functools

import keras

from tfprune.network.graph import is_built
from tfprune.network.rebuild import rebuild
from tfprune.sparsity.apply import hand_on_masks, pruned_layers
from tfprune.sparsity.own_class import take_up_class
from tfprune.sparsity.rounding import rounded_kernels
from tfprune.sparsity.wrapper import PruneLowMagnitude, one_mask_a_variable


def quantize_aware(model: keras.Model) -> keras.Model:
    """Returns a model that computes with weights of 8 bits, to be trained on so, under its masks.

    Every kernel, and every table of embeddings, is rounded in the forward pass, after its mask, to 127 steps
    of the largest weight of each output channel, above zero and below. Gradients pass the rounding and reach
    the exact weights. Zeros stay zeros. Layers that have no masks are wrapped without; biases,
    normalizations and the values between layers are not rounded.

    ```python
    model = quantize_aware(model)
    model.compile(...)
    model.fit(...)  # With `UpdatePruningStep()`, if there is a schedule.
    model = strip_pruning(model)
    ```

    `strip_pruning` writes the rounded weights: the stripped model, its `model.tfprune` with `weights="int8"`
    and TFLite's int8 file hold the weights that were trained. The result shares its variables with `model`,
    and is compiled if that was, with a fresh optimizer. A model of a class of its own is changed in place,
    and returned.

    Args:
        model: A built model, wrapped by `prune_low_magnitude` or not. Layers that are wrapped keep their
            masks and their schedules; masks that are still learned are fixed as they stand.

    Raises:
        ValueError: If `model` is no built model, or has no kernels.
    """
    if not isinstance(model, keras.Model) or not is_built(model):
        raise ValueError(f"`model` must be a built Keras 3 model. Received: model={model!r}")
    found: list[keras.layers.Layer] = []
    again: list[tuple[PruneLowMagnitude, PruneLowMagnitude]] = []

    @functools.cache  # A layer met twice gets one wrapper.
    def rounding(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, PruneLowMagnitude):
            wrapper = layer.around(layer.layer)
            again.append((layer, wrapper))
        elif inside := pruned_layers(layer):  # Such as `TimeDistributed(prune_low_magnitude(...))`.
            found.extend(inside)
            return layer
        elif any(rounded_kernels(layer)):
            wrapper = PruneLowMagnitude(layer, None, kernels=())
        else:
            return layer
        found.append(wrapper)
        return wrapper

    with one_mask_a_variable():
        result = rebuild(model, rounding, take_up_class)
    if not found:
        raise ValueError(f"`model` must have a kernel to round. Received: model={model!r}")
    hand_on_masks(again)
    for wrapper in found:
        wrapper.in_8_bits = True
    return result

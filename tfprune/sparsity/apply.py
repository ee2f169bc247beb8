"""Brings masks to a model's weights: finds the wrappers, updates their masks, zeroes what they remove."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.sparsity import masks as mask_rules
from tfprune.sparsity import scores
from tfprune.sparsity.wrapper import PruneLowMagnitude


def pruned_layers(model: keras.layers.Layer) -> list[PruneLowMagnitude]:
    """Returns the `PruneLowMagnitude` layers of a model, nested ones too, each once, in order."""
    # Keras walks nested layers depth first, but siblings in an order of its own.
    found: dict[int, PruneLowMagnitude] = {}

    def visit(layer: keras.layers.Layer) -> None:
        if isinstance(layer, PruneLowMagnitude):
            found.setdefault(id(layer), layer)
        else:
            for child in layer._layers:
                visit(child)

    visit(model)
    return list(found.values())


def set_sparsity(
    layers: Sequence[PruneLowMagnitude], sparsity: float, scope: str, optimizer: Any = None
) -> None:
    """Updates the masks of `layers` to `sparsity` and zeroes what they remove.

    Args:
        layers: Built wrappers; with `scope="global"` they reach the sparsity together.
        sparsity: In [0, 1).
        scope: "layer" or "global".
        optimizer: Its slots for removed weights become zero too, lest momentum move them.

    Raises:
        ValueError: On weights that are NaN or infinite; the message names the layer.
    """
    masks, ranks, names = [], [], []
    for layer in layers:
        score = scores.get(layer.score)
        for variable, mask in zip(layer.prunable_variables, layer.masks, strict=True):
            masks.append(mask)
            weights = np.asarray(ops.convert_to_numpy(variable), np.float32)
            ranks.append(score(weights))
            names.append(f"layer {layer.layer.name!r}, variable {variable.name!r}")
    old = [np.asarray(ops.convert_to_numpy(mask)) for mask in masks]
    new = mask_rules.update_masks(ranks, old, sparsity, scope, names)
    for mask, value in zip(masks, new, strict=True):
        mask.assign(value)
    apply_masks(layers, optimizer)


def apply_masks(layers: Sequence[PruneLowMagnitude], optimizer: Any = None) -> None:
    """Writes exact zeros to removed weights, and to the optimizer's slots for them."""
    slots: dict[int, list[keras.Variable]] = {}
    for key, kept in _slots(optimizer):
        slots.setdefault(key, []).extend(kept)
    for layer in layers:
        for variable, mask in zip(layer.prunable_variables, layer.masks, strict=True):
            for target in [variable, *slots.get(id(variable), [])]:
                value = ops.convert_to_tensor(target)
                target.assign(ops.where(mask.value, value, ops.zeros_like(value)))


def _slots(optimizer: Any) -> Iterator[tuple[int, list[keras.Variable]]]:
    """Yields (id of a trainable variable, the optimizer's variables of its shape kept for it).

    Keras optimizers keep each kind of slot as a list parallel to their trainable variables.
    """
    for inner in getattr(optimizer, "optimizers", []):  # MultiOptimizer
        yield from _slots(inner)
    if hasattr(optimizer, "inner_optimizer"):  # LossScaleOptimizer
        yield from _slots(optimizer.inner_optimizer)
    if not getattr(optimizer, "built", False):
        return
    trainable = list(optimizer._trainable_variables)
    kinds = [
        value
        for name, value in vars(optimizer).items()
        if isinstance(value, list) and len(value) == len(trainable) and name not in _NOT_SLOTS
    ]
    for i, variable in enumerate(trainable):
        yield (
            id(variable),
            [
                kind[i]
                for kind in kinds
                if isinstance(kind[i], keras.Variable) and kind[i].shape == variable.shape
            ],
        )


# "_accumulators" (Adagrad, Ftrl) are sums of squares: they move nothing, and Ftrl divides by them.
_NOT_SLOTS = ("_trainable_variables", "_variables", "_accumulators")

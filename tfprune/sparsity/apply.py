"""Brings masks to a model's weights: finds the wrappers, updates their masks, zeroes what they remove."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network.graph import walk
from tfprune.network.optimizers import slots as slots_of
from tfprune.sparsity import masks as mask_rules
from tfprune.sparsity import scores
from tfprune.sparsity.patterns import Pattern
from tfprune.sparsity.regrowth import drop_and_grow
from tfprune.sparsity.scores import Gradients, Tensor
from tfprune.sparsity.wrapper import PruneLowMagnitude


def pruned_layers(model: keras.layers.Layer) -> list[PruneLowMagnitude]:
    """Returns the `PruneLowMagnitude` layers of a model, nested ones too, each once, in order."""
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"A Keras 3 model or layer is needed. Received: {model!r} of type {type(model)}")
    layers = walk(model, lambda layer: not isinstance(layer, PruneLowMagnitude))
    return [layer for layer in layers if isinstance(layer, PruneLowMagnitude)]


def set_sparsity(
    layers: Sequence[PruneLowMagnitude],
    sparsity: float,
    scope: str,
    optimizer: Any = None,
    gradients: Mapping[int, Gradients] | None = None,
) -> None:
    """Updates the masks of `layers` to `sparsity` and zeroes what they remove.

    Args:
        layers: Built wrappers; with `scope` "global" or "erk" they reach the sparsity together.
        sparsity: In [0, 1).
        scope: "layer", "global" or "erk".
        optimizer: Its slots for removed weights become zero too, lest momentum move them.
        gradients: Where a score needs them: id of a prunable variable -> its gradients.

    Raises:
        ValueError: On weights that are NaN or infinite; the message names the layer.
    """
    parts = [part for layer in layers for part in _parts(layer, gradients, layer.rule.score_needs_gradients)]
    new = mask_rules.update_masks(
        [part.scores() for part in parts],
        [part.mask_values for part in parts],
        sparsity,
        scope,
        [part.tensor.name for part in parts],
        [part.pattern for part in parts],
    )
    for part, mask in zip(parts, new, strict=True):
        part.mask.assign(mask)
    apply_masks(layers, optimizer)


def regrow(
    layers: Sequence[PruneLowMagnitude],
    sparsity: float,
    scope: str,
    step: int,
    optimizer: Any = None,
    gradients: Mapping[int, Gradients] | None = None,
) -> None:
    """Gives `layers` their random masks at `sparsity`, or, where they have masks, drops and grows weights.

    Args:
        layers: Built wrappers that have the same `Rule` with a `regrowth`.
        sparsity, scope, optimizer, gradients: As for `set_sparsity`.
        step: The training step, which decides how many weights move.

    Raises:
        ValueError: On weights or gradients that are NaN or infinite; the message names the layer.
    """
    rule = layers[0].rule
    parts = [part for layer in layers for part in _parts(layer, gradients, rule.needs_gradients)]
    names = [part.tensor.name for part in parts]
    masks = [part.mask_values for part in parts]
    start = mask_rules.update_masks(
        [scores.random(part.tensor) for part in parts], masks, sparsity, scope, names
    )
    if any(not np.array_equal(new, old) for new, old in zip(start, masks, strict=True)):
        new_masks = start
    else:
        schedule = rule.pruning_schedule
        share = rule.regrowth.share(step, schedule.begin_step, schedule.end_step)
        new_masks = []
        for part, mask, name in zip(parts, masks, names, strict=True):
            growth = np.asarray(rule.regrowth.growth_scores(part.tensor, step), np.float32)
            ranks = part.scores()
            if not (np.isfinite(growth).all() and np.isfinite(ranks).all()):
                raise ValueError(f"Weights and gradients must be finite. Received: NaN or infinity in {name}")
            count = round(share * np.count_nonzero(mask))
            new_masks.append(drop_and_grow(ranks, growth, mask, count))
    for part, mask in zip(parts, new_masks, strict=True):
        part.mask.assign(mask)
    apply_masks(layers, optimizer)


@dataclass(frozen=True)
class _Part:
    """One prunable variable of a wrapper, as NumPy arrays."""

    layer: PruneLowMagnitude
    tensor: Tensor
    mask: keras.Variable
    mask_values: np.ndarray
    pattern: Pattern

    def scores(self) -> np.ndarray:
        values = np.asarray(scores.get(self.layer.rule.score)(self.tensor))
        if values.shape != self.mask_values.shape:
            raise ValueError(
                f"`score` must return an array of the weights' shape {self.mask_values.shape}. Received: "
                f"shape {values.shape} from {self.layer.rule.score!r} for {self.tensor.name}"
            )
        return values


def _parts(
    layer: PruneLowMagnitude, gradients: Mapping[int, Gradients] | None, needed: bool
) -> Iterator[_Part]:
    for variable, mask, pattern in zip(layer.prunable_variables, layer.masks, layer.patterns, strict=True):
        tensor = Tensor(
            name=f"layer {layer.layer.name!r}, variable {variable.name!r}",
            weights=np.asarray(ops.convert_to_numpy(variable), np.float32),
            gradients=_gradients_of(layer, variable, gradients) if needed else None,
            seed=layer.seed,
        )
        if not np.isfinite(tensor.weights).all():
            raise ValueError(f"Weights must be finite. Received: NaN or infinity in {tensor.name}")
        yield _Part(layer, tensor, mask, np.asarray(ops.convert_to_numpy(mask)), pattern)


def _gradients_of(
    layer: PruneLowMagnitude, variable: keras.Variable, gradients: Mapping[int, Gradients] | None
) -> Gradients:
    """Looks up the gradients of a variable.

    Raises:
        ValueError: If there are none.
    """
    if gradients is None:
        raise ValueError(
            f"Layer {layer.layer.name!r} is ranked by gradients: give batches to measure them, "
            "`gradient_data`. Received: gradient_data=None"
        )
    if id(variable) not in gradients:
        raise ValueError(
            f"Layer {layer.layer.name!r} is ranked by gradients, so it must be trainable. "
            f"Received: variable {variable.name!r} with trainable=False"
        )
    return gradients[id(variable)]


def apply_masks(layers: Sequence[PruneLowMagnitude], optimizer: Any = None) -> None:
    """Writes exact zeros to removed weights, and to the optimizer's slots for them."""
    slots: dict[int, list[keras.Variable]] = {}
    for key, kept in slots_of(optimizer):
        slots.setdefault(key, []).extend(kept)
    for layer in layers:
        for variable, mask in zip(layer.prunable_variables, layer.masks, strict=True):
            for target in [variable, *slots.get(id(variable), [])]:
                value = ops.convert_to_tensor(target)
                target.assign(ops.where(mask.value, value, ops.zeros_like(value)))

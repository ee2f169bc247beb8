"""Brings masks to a model's weights: finds the wrappers, updates their masks, zeroes what they remove."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network import optimizers
from tfprune.network.graph import walk
from tfprune.sparsity import masks as mask_rules
from tfprune.sparsity import scores
from tfprune.sparsity.patterns import Pattern
from tfprune.sparsity.regrowth import drop_and_grow
from tfprune.sparsity.scores import Gradients, Score, Tensor
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

    All weights and scores are checked before the first mask changes. Each mask is assigned as it is made, so
    that beside the model there are only a few arrays of the size of one variable.

    Args:
        layers: Built wrappers; with `scope` "global" or "erk" they reach the sparsity together.
        sparsity: In [0, 1).
        scope: "layer", "global" or "erk".
        optimizer: Its slots for removed weights become zero too, lest momentum move them.
        gradients: Where a score needs them: id of a prunable variable -> its gradients.

    Raises:
        ValueError: On weights or scores that are NaN or infinite; the message names the layer.
    """
    parts = _parts(layers, gradients)
    _change(parts, mask_rules.new_masks(parts, sparsity, scope), optimizer)


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
    start = _parts(layers, gradients, scores.random)
    masks = mask_rules.new_masks(start, sparsity, scope)
    if any(not np.array_equal(new, part.mask()) for new, part in zip(masks, start, strict=True)):
        _change(start, mask_rules.new_masks(start, sparsity, scope), optimizer)
        return
    schedule = rule.pruning_schedule
    share = rule.regrowth.share(step, schedule.begin_step, schedule.end_step)
    parts = _parts(layers, gradients)
    for part in parts:
        part.scores()
        part.growth_scores(step)
    _change(parts, (_moved(part, share, step) for part in parts), optimizer)


def apply_masks(layers: Sequence[PruneLowMagnitude], optimizer: Any = None) -> None:
    """Writes exact zeros to removed weights, and to the optimizer's slots for them."""
    slots = slots_of(optimizer)
    for layer in layers:
        for variable, mask in zip(layer.prunable_variables, layer.masks, strict=True):
            zero_removed(mask, [variable, *slots.get(id(variable), [])])


def zero_removed(mask: keras.Variable, variables: Iterable[keras.Variable]) -> None:
    """Writes exact zeros to `variables`, each of the mask's shape, where the mask is False."""
    for variable in variables:
        value = ops.convert_to_tensor(variable)
        variable.assign(ops.where(mask.value, value, ops.zeros((), value.dtype)))


def _change(parts: Sequence["_Part"], masks: Iterable[np.ndarray], optimizer: Any) -> None:
    """Assigns a mask to each part and zeroes what the mask removes."""
    slots = slots_of(optimizer)
    for part, new in zip(parts, masks, strict=True):
        changed = not np.array_equal(new, part.mask())
        if changed:
            part.mask_variable.assign(new)
        if changed or np.any(part.weights(), where=~new):
            zero_removed(part.mask_variable, [part.variable, *slots.get(id(part.variable), [])])


def _moved(part: "_Part", share: float, step: int) -> np.ndarray:
    """Returns the mask of a part after a share of its weights moved."""
    mask = part.mask()
    count = round(share * np.count_nonzero(mask))
    return drop_and_grow(part.scores(), part.growth_scores(step), mask, count)


# Up to so many weights together, scores are kept rather than computed for each pass.
_FEW_WEIGHTS = 1 << 22


def _parts(
    layers: Sequence[PruneLowMagnitude],
    gradients: Mapping[int, Gradients] | None,
    score: Score | None = None,
) -> list["_Part"]:
    """Returns what may be pruned in `layers`, ranked by `score` or else by the layers' own."""
    parts = [
        _Part(layer, variable, mask, pattern, gradients, score)
        for layer in layers
        for variable, mask, pattern in zip(layer.prunable_variables, layer.masks, layer.patterns, strict=True)
    ]
    if sum(math.prod(part.shape) for part in parts) <= _FEW_WEIGHTS:
        for part in parts:
            part.scores = functools.cache(part.scores)
    return parts


class _Part(mask_rules.Ranked):
    """One prunable variable of a wrapper; values are read from the model whenever they are asked for."""

    def __init__(
        self,
        layer: PruneLowMagnitude,
        variable: keras.Variable,
        mask: keras.Variable,
        pattern: Pattern,
        gradients: Mapping[int, Gradients] | None,
        score: Score | None,
    ) -> None:
        self.name = f"layer {layer.layer.name!r}, variable {variable.name!r}"
        self.shape = tuple(variable.shape)
        self.pattern = pattern
        self.variable, self.mask_variable = variable, mask
        self._layer, self._gradients = layer, gradients
        self._score = score or scores.get(layer.rule.score)

    def mask(self) -> np.ndarray:
        return read(self.mask_variable)

    def weights(self) -> np.ndarray:
        """Returns the variable's values as float32."""
        return np.asarray(read(self.variable), np.float32)

    def scores(self) -> np.ndarray:
        values = np.asarray(self._score(self._tensor(getattr(self._score, "needs_gradients", False))))
        if values.shape != self.shape:
            raise ValueError(
                f"`score` must return an array of the weights' shape {self.shape}. Received: "
                f"shape {values.shape} from {self._layer.rule.score!r} for {self.name}"
            )
        return mask_rules.check_scores(values, self.name)

    def growth_scores(self, step: int) -> np.ndarray:
        """Returns the scores by which removed weights grow, checked."""
        regrowth = self._layer.rule.regrowth
        growth = np.asarray(regrowth.growth_scores(self._tensor(regrowth.needs_gradients), step), np.float32)
        if not mask_rules.all_finite(growth):
            raise ValueError(f"Gradients must be finite. Received: NaN or infinity in {self.name}")
        return growth

    def _tensor(self, needs_gradients: bool) -> Tensor:
        weights = self.weights()
        if not mask_rules.all_finite(weights):
            raise ValueError(f"Weights must be finite. Received: NaN or infinity in {self.name}")
        gradients = _gradients_of(self._layer, self.variable, self._gradients) if needs_gradients else None
        return Tensor(self.name, weights, gradients, self._layer.seed)


def read(variable: keras.Variable) -> np.ndarray:
    """Returns a variable's values, read-only, without a copy where they lie in this machine's memory."""
    value = ops.convert_to_tensor(variable)
    if hasattr(value, "detach"):  # PyTorch hands out no values that have gradients.
        value = value.detach()
    try:
        values = np.asarray(value)
    except (TypeError, RuntimeError):  # PyTorch on another device, or in bfloat16.
        values = ops.convert_to_numpy(value)
    values.flags.writeable = False
    return values


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


def slots_of(optimizer: Any) -> dict[int, list[keras.Variable]]:
    """Returns the optimizer's variables that move a weight: id of the weight's variable -> its slots."""
    found: dict[int, list[keras.Variable]] = {}
    for key, kept in optimizers.slots(optimizer):
        found.setdefault(key, []).extend(kept)
    return found

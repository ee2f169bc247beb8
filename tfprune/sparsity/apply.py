"""Brings masks to a model's weights: finds the wrappers, updates their masks, zeroes what they remove."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network import kinds, optimizers, tensorflow_variables
from tfprune.network.wrapping import wrapping_layers
from tfprune.sparsity import scores
from tfprune.sparsity.learned import Learned, excess_of
from tfprune.sparsity.masks import Ranked, all_finite, check_scores, erk_sparsities, new_masks
from tfprune.sparsity.patterns import Pattern
from tfprune.sparsity.regrowth import drop_and_grow
from tfprune.sparsity.rule import Rule
from tfprune.sparsity.scores import Gradients, Score, Tensor
from tfprune.sparsity.selection import keep_largest, kept_count
from tfprune.sparsity.standing import channel_standing
from tfprune.sparsity.wrapper import PruneLowMagnitude, description


def pruned_layers(model: keras.layers.Layer) -> list[PruneLowMagnitude]:
    """Returns the `PruneLowMagnitude` layers of a model, nested ones too, each once, in order."""
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"A Keras 3 model or layer is needed. Received: {model!r} of type {type(model)}")
    return [layer for layer in wrapping_layers(model) if isinstance(layer, PruneLowMagnitude)]


@dataclass(frozen=True)
class Part:
    """One prunable variable of a wrapper.

    Attributes:
        layer: The wrapper.
        variable: The variable.
        mask: Its mask.
        rule: The arguments by which it is pruned.
        pattern: The groups in which its weights go.
        name: Its name, for errors.
        paths: The names that it can be chosen by: its layer's, and paths inside that layer.
        learned: How its mask is learned, or None.
    """

    layer: PruneLowMagnitude
    variable: keras.Variable
    mask: keras.Variable
    rule: Rule
    pattern: Pattern
    name: str
    paths: tuple[str, ...]
    learned: Learned | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the variable."""
        return tuple(self.variable.shape)


def parts_of(layers: Iterable[PruneLowMagnitude]) -> list[Part]:
    """Returns the prunable variables of built wrappers, in order; one that wrappers share once."""
    found: dict[int, Part] = {}
    for layer in layers:
        paths = kinds.paths(layer.layer)
        each = zip(layer.pruned, layer.rule_of_each, layer.learned, strict=True)
        for (kernel, mask), rule, learned in each:
            own = paths[id(kernel.variable)]
            name = description(layer.layer, own)
            pattern = rule.pattern_of(kernel, name)
            part = Part(layer, kernel.variable, mask, rule, pattern, name, own, learned)
            found.setdefault(id(mask), part)
    return list(found.values())


def masks_by_variable(model: keras.layers.Layer) -> dict[int, keras.Variable]:
    """Returns the masks of a model: the id of the variable -> its mask."""
    return {id(kernel.variable): mask for wrapper in pruned_layers(model) for kernel, mask in wrapper.pruned}


def pruned_together(layers: Iterable[PruneLowMagnitude]) -> dict[str, list[Part]]:
    """Returns the variables that have a schedule, those of equal rules together, by the rule's key."""
    groups: dict[str, list[Part]] = {}
    keys: dict[int, str] = {}
    for part in parts_of(layer for layer in layers if layer.masks):
        if part.rule.pruning_schedule is not None:
            if id(part.rule) not in keys:
                keys[id(part.rule)] = part.rule.key
            groups.setdefault(keys[id(part.rule)], []).append(part)
    return groups


def set_sparsity(
    parts: Sequence[Part],
    sparsity: float,
    scope: str,
    optimizer: Any = None,
    gradients: Mapping[int, Gradients] | None = None,
    *,
    model: keras.layers.Layer,
    moved: bool = False,
) -> None:
    """Updates masks to `sparsity` and zeroes what they remove. Where masks are learned, that ends.

    Weights whose masks are learned are ranked by what was learned, and with them those of the same call
    whose masks were learned before. All weights and scores are checked before the first mask changes. Each
    mask is assigned as it is made, so that beside the model there are only a few arrays of the size of one
    variable.

    Args:
        parts: The variables; with `scope` "global" or "erk" they reach the sparsity together.
        sparsity: In [0, 1).
        scope: "layer", "global" or "erk".
        optimizer: Its slots for removed weights become zero too, lest momentum move them.
        gradients: Where a score needs them: id of a prunable variable -> its gradients.
        model: The model that the variables are in, where channels go from layer to layer.
        moved: Whether weights that were removed before may have moved since, as when a checkpoint was loaded:
            they become zero where the mask stays as it is, too.

    Raises:
        ValueError: On weights or scores that are NaN or infinite, of a variable whose mask changes; the
            message names the layer. If a score needs the channels of a model that is subclassed.
    """
    standing = None
    if any(part.rule.needs_channels for part in parts):
        by_magnitude = _ranked(parts, None, scores.magnitude)
        masks = new_masks(by_magnitude, sparsity, scope)
        kept = (
            (ranked.part.variable, ranked.weights() * mask)
            for ranked, mask in zip(by_magnitude, masks, strict=True)
        )
        standing = channel_standing(model, kept)
    ranked = _ranked(parts, gradients, standing=standing)
    if learns(parts):
        ranked = [
            each if part.learned is None else _LearnedRanked(part, None, scores.magnitude, 1.0)
            for part, each in zip(parts, ranked, strict=True)
        ]
    _change(ranked, new_masks(ranked, sparsity, scope), optimizer, moved)
    _fix(parts, optimizer)


def prune_by_magnitude(parts: Sequence[Part], sparsity: float, scope: str) -> None:
    """Updates masks to `sparsity` as `set_sparsity`, but by magnitude, whatever the layers' scores."""
    ranked = _ranked(parts, None, scores.magnitude)
    _change(ranked, new_masks(ranked, sparsity, scope), None)


def regrow(
    parts: Sequence[Part],
    sparsity: float,
    scope: str,
    step: int,
    optimizer: Any = None,
    gradients: Mapping[int, Gradients] | None = None,
) -> None:
    """Gives variables their random masks at `sparsity`, or, where they have masks, drops and grows weights.

    Args:
        parts: The variables, of layers that have the same `Rule` with a `regrowth`.
        sparsity, scope, optimizer, gradients: As for `set_sparsity`.
        step: The training step, which decides how many weights move.

    Raises:
        ValueError: On weights or gradients that are NaN or infinite; the message names the layer.
    """
    start = _ranked(parts, gradients, scores.random)
    masks = new_masks(start, sparsity, scope)
    if any(not np.array_equal(new, ranked.mask()) for new, ranked in zip(masks, start, strict=True)):
        _change(start, new_masks(start, sparsity, scope), optimizer)
        return
    rule = parts[0].rule
    schedule = rule.pruning_schedule
    share = rule.regrowth.share(step, schedule.begin_step, schedule.end_step)
    moving = _ranked(parts, gradients)
    for ranked in moving:
        ranked.scores()
        ranked.growth_scores(step)
    _change(moving, (_moved(ranked, share, step) for ranked in moving), optimizer)


def let_return(parts: Sequence[Part], sparsity: float) -> None:
    """Lets all removed weights return, as zeros, where the masks remove more than a sparsity.

    Args:
        parts: The variables, of layers that are pruned together.
        sparsity: In [0, 1).
    """
    masks = [read(part.mask) for part in parts]
    size = sum(mask.size for mask in masks)
    if sum(map(np.count_nonzero, masks)) < kept_count(size, sparsity):
        for part in parts:
            _write(part.mask, np.ones(part.shape, bool))


def learn(parts: Sequence[Part], sparsity: float, scope: str, progress: float) -> None:
    """Steers the learning of masks towards a sparsity; no mask changes.

    Args:
        parts: The variables, of layers that have the same `Rule` with a `learning`; some masks may be fixed.
        sparsity, scope: As for `set_sparsity`.
        progress: The fraction of the schedule that is over, in [0, 1].
    """
    kept = [kept_weights(part) for part in parts]
    sizes = [math.prod(part.shape) for part in parts]
    if scope == "global":
        excess = [excess_of(sum(kept), sum(sizes), sparsity)] * len(parts)
    else:
        shapes = [part.shape for part in parts]
        targets = erk_sparsities(shapes, sparsity) if scope == "erk" else [sparsity] * len(parts)
        excess = [excess_of(*each) for each in zip(kept, sizes, targets, strict=True)]
    for part, value in zip(parts, excess, strict=True):
        if learns([part]):
            part.learned.steer(value, progress)


def learns(parts: Iterable[Part]) -> bool:
    """Returns whether a mask is still learned."""
    return any(part.learned is not None and part.learned.is_open() for part in parts)


def kept_weights(part: Part) -> int:
    """Returns how many weights of a variable stay: in its mask or, while that is learned, at present."""
    if learns([part]):
        return part.learned.kept(part.variable, part.mask)
    return int(np.count_nonzero(read(part.mask)))


def settle_learned(layers: Iterable[PruneLowMagnitude]) -> None:
    """Ends the learning of masks before its time: what stays at present by what was learned, stays."""
    for part in parts_of(layer for layer in layers if layer.masks):
        if learns([part]):
            if part.learned.has_begun():
                ranked = _LearnedRanked(part, None, scores.magnitude, 1.0)
                kept = max(kept_weights(part), 1)
                mask = keep_largest(ranked.scores().ravel(), kept, ranked.mask().ravel())
                _change([ranked], [mask.reshape(part.shape)], None)
            _fix([part], None)


def hand_on_masks(again: Iterable[tuple[PruneLowMagnitude, PruneLowMagnitude]]) -> None:
    """Gives wrappers the masks and the step of built ones whose layers they wrap anew.

    Masks that are still learned are fixed as they stand.

    Args:
        again: The wrappers that were there, each with the new one, which has its kernels and perhaps more.
    """
    again = list(again)
    settle_learned(old for old, _ in again)
    for old, new in again:
        masks = {id(kernel.variable): mask for kernel, mask in new.pruned}
        for kernel, mask in old.pruned:
            masks[id(kernel.variable)].assign(mask)
        new.store_step(old.steps_taken)


def _fix(parts: Iterable[Part], optimizer: Any) -> None:
    for part in parts:
        if part.learned is not None:
            part.learned.fix(part.variable, optimizers.averages(optimizer, part.variable))


def _moved(ranked: "_Ranked", share: float, step: int) -> np.ndarray:
    """Returns the mask of a variable after a share of its weights moved."""
    mask = ranked.mask()
    count = round(share * np.count_nonzero(mask))
    return drop_and_grow(ranked.scores(), ranked.growth_scores(step), mask, count)


def apply_masks(layers: Iterable[PruneLowMagnitude], optimizer: Any = None) -> None:
    """Writes exact zeros to removed weights, and to the optimizer's slots for them."""
    for layer in layers:
        for kernel, mask in layer.pruned:
            _zero_removed(mask, read(mask), [kernel.variable, *optimizers.slots(optimizer, kernel.variable)])


def assign_mask(
    mask: keras.Variable, new: np.ndarray, variable: keras.Variable, slots: Iterable[keras.Variable] = ()
) -> None:
    """Assigns a mask, then writes exact zeros to what it removes.

    Args:
        mask: The mask's variable.
        new: Booleans of its shape; a mask may also become denser.
        variable: The variable that it masks.
        slots: The optimizer's variables for that variable.
    """
    _write(mask, new)
    _zero_removed(mask, new, [variable, *slots])


# A TensorFlow variable of so few weights is masked here: to start an operation takes TensorFlow longer.
_SMALL = 1 << 18


def _zero_removed(mask: keras.Variable, kept: np.ndarray, variables: Iterable[keras.Variable]) -> None:
    """Writes zeros where the mask removes; `kept` has the mask's values."""
    if _is_tensorflow(mask) and kept.size <= _SMALL:
        bits = -kept.view(np.int8)
        for variable in variables:
            values = read(variable)
            # No branch for each weight; and NaN becomes zero too.
            _write(variable, (values.view(f"i{values.itemsize}") & bits).view(values.dtype))
    else:
        for variable in variables:
            variable.assign(ops.where(mask.value, variable.value, 0.0))


def _write(variable: keras.Variable, values: np.ndarray) -> None:
    """Assigns an array of the variable's shape and type."""
    if _is_tensorflow(variable):
        tensorflow_variables.write(variable.value, values)
    else:
        variable.assign(values)


def _is_tensorflow(variable: keras.Variable) -> bool:
    return hasattr(variable.value, "read_value")


def _change(
    ranked: Sequence["_Ranked"], masks: Iterable[np.ndarray], optimizer: Any, moved: bool = False
) -> None:
    """Assigns each variable its mask, as it comes."""
    for tensor, new in zip(ranked, masks, strict=True):
        part = tensor.part
        slots = optimizers.slots(optimizer, part.variable)
        if not np.array_equal(new, tensor.mask()):
            assign_mask(part.mask, new, part.variable, slots)
        elif moved:
            _zero_removed(part.mask, new, [part.variable, *slots])


# Up to so many weights together, what was read or computed is kept for the whole update.
_FEW_WEIGHTS = 1 << 22


def _ranked(
    parts: Sequence[Part],
    gradients: Mapping[int, Gradients] | None,
    score: Score | None = None,
    standing: Mapping[int, np.ndarray] | None = None,
) -> list["_Ranked"]:
    """Returns variables ranked by `score`, or else by that of each layer."""
    few = sum(math.prod(part.shape) for part in parts) <= _FEW_WEIGHTS
    return [
        (_KeptRanked if few else _Ranked)(
            part,
            gradients,
            score or scores.get(part.rule.score),
            (standing or {}).get(id(part.variable), 1.0),
        )
        for part in parts
    ]


class _Ranked(Ranked):
    """The values of a prunable variable, read from the model whenever they are asked for."""

    def __init__(
        self,
        part: Part,
        gradients: Mapping[int, Gradients] | None,
        score: Score,
        standing: np.ndarray | float,
    ) -> None:
        self.part, self.name, self.shape, self.pattern = part, part.name, part.shape, part.pattern
        self.min_density = part.rule.min_density
        self._gradients, self._score, self._standing = gradients, score, standing
        self.watches = score not in scores.SCORES.values()

    def mask(self) -> np.ndarray:
        return read(self.part.mask)

    def weights(self) -> np.ndarray:
        """Returns the variable's values as float32."""
        return np.asarray(read(self.part.variable), np.float32)

    def scores(self) -> np.ndarray:
        values = np.asarray(self._score(self._tensor(getattr(self._score, "needs_gradients", False))))
        if values.shape != self.shape:
            raise ValueError(
                f"`score` must return an array of the weights' shape {self.shape}. Received: "
                f"shape {values.shape} from {self.part.rule.score!r} for {self.name}"
            )
        return check_scores(values, self.name)

    def growth_scores(self, step: int) -> np.ndarray:
        """Returns the scores by which removed weights grow, checked."""
        regrowth = self.part.rule.regrowth
        growth = np.asarray(regrowth.growth_scores(self._tensor(regrowth.needs_gradients), step), np.float32)
        if not all_finite(growth):
            raise ValueError(f"Gradients must be finite. Received: NaN or infinity in {self.name}")
        return growth

    def _tensor(self, needs_gradients: bool) -> Tensor:
        weights = self.weights()
        if not all_finite(weights):
            raise ValueError(f"Weights must be finite. Received: NaN or infinity in {self.name}")
        gradients = _gradients_of(self.part, self._gradients) if needs_gradients else None
        return Tensor(self.name, weights, gradients, self.part.layer.seed, self._standing)


class _KeptRanked(_Ranked):
    """The same, each read or computed once."""

    _mask = _weights = _scores = None

    def mask(self) -> np.ndarray:
        if self._mask is None:
            self._mask = super().mask()
        return self._mask

    def weights(self) -> np.ndarray:
        if self._weights is None:
            self._weights = super().weights()
        return self._weights

    def scores(self) -> np.ndarray:
        if self._scores is None:
            self._scores = super().scores()
        return self._scores


class _LearnedRanked(_Ranked):
    """The same, ranked by what was learned."""

    def scores(self) -> np.ndarray:
        learned, weights = self.part.learned, self._tensor(False).weights
        return check_scores(learned.method.margin(weights, read(learned.parameter)), self.name)


def read(variable: keras.Variable) -> np.ndarray:
    """Returns a variable's values, read-only, without a copy where they lie in this machine's memory."""
    value = variable.value
    if _is_tensorflow(variable):
        value = tensorflow_variables.read(value)
    elif hasattr(value, "detach"):  # PyTorch hands out no values that have gradients.
        value = value.detach()
    try:
        values = np.asarray(value)
    except (TypeError, RuntimeError):  # PyTorch on another device, or in bfloat16.
        values = ops.convert_to_numpy(value)
    values.flags.writeable = False
    return values


def _gradients_of(part: Part, gradients: Mapping[int, Gradients] | None) -> Gradients:
    """Looks up the gradients of a variable.

    Raises:
        ValueError: If there are none.
    """
    name = part.layer.layer.name
    if gradients is None:
        raise ValueError(
            f"Layer {name!r} is ranked by gradients: give batches to measure them, "
            "`gradient_data`. Received: gradient_data=None"
        )
    if id(part.variable) not in gradients:
        raise ValueError(
            f"Layer {name!r} is ranked by gradients, so it must be trainable. "
            f"Received: variable {part.variable.name!r} with trainable=False"
        )
    return gradients[id(part.variable)]

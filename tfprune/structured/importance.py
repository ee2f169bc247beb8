"""Scores sets of channels: what a set loses at most stays longest."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.groups import Traced
from tfprune.channels.trace import Slice
from tfprune.network.calibration import layer_statistics
from tfprune.network.kinds import all_kernels, builtin_layer
from tfprune.sparsity import Gradients, Tensor, pruned_layers, scores
from tfprune.sparsity.gradients import GradientData, GradientMeter, first_batches

ChannelScore = str | scores.Score

_BATCH = 64


def l1(tensor: Tensor) -> np.ndarray:
    """Returns the absolute values of the weights."""
    return np.abs(tensor.weights)


# Names of this package's own, and those of `sparsity`, whose scores of single weights are pooled.
_OF_WEIGHTS: dict[str, scores.Score] = {"l1": l1, "l2": scores.magnitude}
_OF_CHANNELS = ("batchnorm", "variance")


class Importance:
    """A number for each set of channels; of those of a group the largest stay longest.

    A score of single weights is pooled over the kernels of all layers of a group: what makes a channel and
    what takes it; biases and normalisations do not count. Sums are compared, or Euclidean norms where a score
    says `group_norm = 2`. Removed weights of wrapped layers count as zeros.

    Args:
        traced: The channels of a model.
        score: As in `plan`.
        data: As in `plan`.

    Attributes:
        values: float64, one for each set.
        missing: Why a set has none, for readers; empty for one that has.
        comparable: Whether those of different groups are estimates of the same thing. Others are compared
            after division by the mean of their group.

    Raises:
        ValueError: If there is no such score, or data that it needs, or if scores are not finite.
    """

    def __init__(self, traced: Traced, score: ChannelScore, data: GradientData) -> None:
        self._traced = traced
        self.values = np.zeros(traced.count)
        self.missing = ""
        rule = _rule(score)
        needs_data = rule == "variance" or getattr(rule, "needs_gradients", False)
        if needs_data and data is None:
            raise ValueError(
                f"`data` must be given for a score that is measured. Received: score={score!r}, data=None"
            )
        if data is not None and not needs_data:
            raise ValueError(
                "`data` must be None with a score that is not measured. "
                f"Received: score={score!r}, data of type {type(data).__name__}"
            )
        if rule == "batchnorm":
            self.comparable, self.missing = True, "no BatchNormalization scales it"
            parts = self._gammas()
        elif rule == "variance":
            self.comparable, self.missing = (
                False,
                "no layer with a kernel takes it where it can be seen",
            )
            parts = self._variances(data)
        else:
            self.comparable, self.missing = bool(getattr(rule, "needs_gradients", False)), "it has no kernel"
            if self.comparable:
                self.missing = "it has no kernel that trains"
            parts = self._pooled(rule, data)
        norm = getattr(rule, "group_norm", 1)
        mean = rule == "variance"
        counts = np.zeros(traced.count, int)
        for sets, values in parts:
            if not np.isfinite(values).all():
                raise ValueError(f"Scores must be finite. Received: NaN or infinity from score={score!r}")
            self.values += np.bincount(sets, values**norm, traced.count)
            counts += np.bincount(sets, minlength=traced.count)
        if mean:
            self.values /= np.maximum(counts, 1)
        self.values **= 1 / norm
        self.scored = counts > 0

    def _pooled(self, rule: scores.Score, data: GradientData) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Returns, for each axis of a kernel that numbers channels, its sets and the norms along it."""
        kernels = {id(kernel.variable) for kernel in all_kernels(self._traced.model)}
        slices: dict[int, list[Slice]] = {}
        for one in self._traced.slices:
            if id(one.variable) in kernels and one.role != "masks":
                slices.setdefault(id(one.variable), []).append(one)
        gradients = None
        if getattr(rule, "needs_gradients", False):
            variables = [each[0].variable for each in slices.values()]
            meter = GradientMeter(self._traced.model, pruned_layers(self._traced.model), variables)
            gradients = meter.measure(first_batches(data, 0, None))
        norm = getattr(rule, "group_norm", 1)
        for key, each in slices.items():
            variable = each[0].variable
            if gradients is not None and key not in gradients:
                continue
            values = self._scores_of(rule, variable, None if gradients is None else gradients[key])
            for one in each:
                others = tuple(axis for axis in range(values.ndim) if axis != one.axis % values.ndim)
                yield self._traced.sets[one.labels], (values**norm).sum(others, np.float64) ** (1 / norm)

    def _scores_of(
        self, rule: scores.Score, variable: keras.Variable, gradients: Gradients | None
    ) -> np.ndarray:
        weights = np.array(ops.convert_to_numpy(variable), np.float32)
        mask = self._traced.trace.masks.get(id(variable))
        if mask is not None:
            weights *= ops.convert_to_numpy(mask)
        values = np.asarray(rule(Tensor(variable.path, weights, gradients)))
        if values.shape != weights.shape:
            raise ValueError(
                f"`score` must return numbers of shape {weights.shape}. Received: shape {values.shape}"
            )
        return values

    def _gammas(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for one in self._traced.slices:
            if builtin_layer(one.layer) == "BatchNormalization" and one.variable is one.layer.gamma:
                yield self._traced.sets[one.labels], np.abs(ops.convert_to_numpy(one.variable)).astype(float)

    def _variances(self, data: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Returns the variances of what layers with kernels take, over examples and positions."""
        takers = [one for one in self._traced.slices if one.role == "takes" and one.input == 0]
        layers = list({id(one.layer): one.layer for one in takers}.values())
        found = layer_statistics(self._traced.model, _batches(data), layers)
        for one in takers:
            if one.layer in found and found[one.layer].inputs:
                variance = found[one.layer].inputs[0].variance
                if len(variance) == len(one.labels):
                    yield self._traced.sets[one.labels], variance


def _rule(score: ChannelScore) -> Callable[[Tensor], np.ndarray] | str:
    """Returns the function of a score of weights; the name of one of channels.

    Raises:
        ValueError: If there is none; the message lists the valid names.
    """
    known: Mapping[str, Any] = {**scores.SCORES, **_OF_WEIGHTS, **{name: name for name in _OF_CHANNELS}}
    # How strong its channels are ranks a weight among others, but no channel: there is nothing to compare.
    known = {name: rule for name, rule in known.items() if not getattr(rule, "needs_channels", False)}
    if callable(score) and not getattr(score, "needs_channels", False):
        return score
    if not isinstance(score, str) or score not in known:
        raise ValueError(
            f"`score` must be one of {sorted(known)} or a function of a tensor. Received: score={score!r}"
        )
    return known[score]


def _batches(data: Any) -> Iterable[Any]:
    """Returns batches of an array of inputs, or of arrays by their names, or batches as they are.

    Raises:
        ValueError: If the arrays have no example.
    """
    arrays = list(data.values()) if isinstance(data, Mapping) else [data]
    if not all(hasattr(array, "shape") for array in arrays):
        return first_batches(data, 0, None)
    count = min(len(array) for array in arrays)
    if not count:
        shapes = [tuple(array.shape) for array in arrays]
        raise ValueError(f"`data` must have at least one example. Received: arrays of shape {shapes}")
    parts = [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]
    return [keras.tree.map_structure(operator.itemgetter(part), data) for part in parts]

"""Moves what is cut out of a network into what stays of it, by its values on a few unlabelled images.

A layer that took a removed channel can take a guess of it from the channels that stay. A constant guess goes
into the bias (Thimm and Fiesler, "Evaluating pruning methods", 1995); one channel times a factor into that
channel's weights; a least squares fit of all channels into the whole kernel (GRAIL, arXiv:2602.23795).
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.cut import Builder
from tfprune.channels.groups import Traced
from tfprune.network.calibration import Moments, checked_inputs
from tfprune.network.calls import replaced_calls, tensors
from tfprune.network.graph import Step, computed_graph, evaluate
from tfprune.network.kinds import builtin_layer
from tfprune.network.replay import Invocation, Values, filled, uses
from tfprune.network.wrapping import unwrapped
from tfprune.structured.regression import CHANNELS_A_SAMPLE, METHODS, Regression
from tfprune.structured.takers import Taker, takers

_BATCH = 32


def repaired(traced: Traced, stays: np.ndarray, images: Any, method: str) -> keras.Model:
    """Returns the smaller model that computes as the whole one, as far as it can.

    Layer by layer, in the order of the graph, each that takes a removed channel x (in a convolution at all
    positions together, behind a Flatten with a mean for each position) is given in its place:

    - "constant": the mean of x.
    - "merge": `factor * y + constant` by least squares, y the one channel that stays that correlates most
      with x.
    - "ridge": the sum of all channels that stay, each times a factor, and a constant, by ridge regression
      with a penalty of `RIDGE` times their mean variance, and more where samples are few. The channels that
      stay are brought back to what they were in the whole model likewise.

    x has its values of the whole model, the channels that stay those of the smaller one, whose earlier layers
    are repaired. Both models are run side by side, layer by layer, on all images: memory for the values
    between two layers is needed.

    Factors go into the layer's kernel, constants into its bias, and the mean and the variance of a BatchNorm
    change as those of its inputs do: what no channel that stays explains is missing in the variance. A layer
    without a bias is given one, unless a BatchNorm is all that takes its outputs. Where a layer can be given
    none (`EinsumDense`, attention's projections, recurrent layers with `use_bias=False`) the constant is left
    out. Recurrent, depthwise and grouped kernels, and those of custom layers, stay as they are; in a wrapped
    layer removed weights stay removed. A layer that is called several times is repaired for its first call.

    Exact, but for rounding, the penalty and the borders that a convolution pads: channels that are constant
    (all methods), a multiple of another ("merge", "ridge"), a sum of others ("ridge").

    Args:
        traced: The channels of the model, which is run in inference and not changed.
        stays: For each set of channels whether it stays.
        images: Inputs of the model: an array, the model's structure of them, or an iterable of batches of
            either, or of tuples `(inputs, ...)` as for `fit`; at least two examples.
        method: One of `METHODS`.

    Raises:
        ValueError: If the method is none of these; if the images are none, do not fit the model's inputs, or
            give values that are not finite; if for "merge" or "ridge" a layer has less than a sample (an
            image, at a position) for each `CHANNELS_A_SAMPLE` channels that stay.
    """
    if method not in METHODS:
        raise ValueError(f"`repair` must be None or one of {', '.join(METHODS)}. Received: repair={method!r}")
    if images is None:
        raise ValueError("`images` must be inputs of the model, for a repair. Received: images=None")
    return _Repair(traced, stays, method).run(checked_inputs(traced.model, images))


class _Pair:
    """A taker of the whole model, and the one in its place in the smaller model, which is repaired.

    Args:
        traced: The channels of the whole model.
        stays: For each set of channels whether it stays.
        whole, small: The takers.
        method: One of `METHODS`.
    """

    def __init__(
        self,
        traced: Traced,
        stays: np.ndarray,
        whole: Taker,
        small: Taker,
        method: str,
    ) -> None:
        self.whole, self.small = whole, small
        self._kernel = traced.values(whole.kernel).astype(np.float64)
        made = {one.axis: one.labels for one in traced.slices if one.variable is whole.kernel}
        for axis in made.keys() - set(whole.axes):
            self._kernel = self._kernel.compress(stays[traced.sets[made[axis]]], axis)
        kept = stays[traced.sets[whole.labels]]
        place = np.cumsum(kept) - 1  # Of a feature that stays, among those.
        self._kept = kept
        self._blocks = [
            (block, place[block[:, kept[block[0]]]], Regression(kept[block[0]], len(block), method))
            for block in whole.blocks
            if not kept[block[0]].all()
        ]

    @property
    def differ(self) -> bool:
        """Whether a channel is removed that the layer took."""
        return bool(self._blocks)

    def add(self, whole: np.ndarray, small: np.ndarray) -> None:
        """Adds the features of a batch."""
        for block, staying, regression in self._blocks:
            regression.add(whole[:, block], small[:, staying])

    def check(self, images: int, method: str) -> None:
        """Raises an error if there are too few samples, or values that are not finite."""
        for _, _, regression in self._blocks:
            if regression.samples < regression.wanted:
                raise ValueError(
                    f"`images` must give a sample for each {CHANNELS_A_SAMPLE} channels that stay, for "
                    f"repair={method!r}: {regression.wanted} at layer {self.whole.layer.name!r}. "
                    f"Received: {images} images that give {regression.samples} (images times positions)"
                )
            if not regression.finite:
                raise ValueError(
                    "`images` must give finite values. "
                    f"Received: images that give others at layer {self.whole.layer.name!r}"
                )

    def write(self) -> None:
        """Repairs the layer."""
        axes = self.whole.axes
        rows = np.moveaxis(self._kernel, axes, range(len(axes)))
        rest = rows.shape[len(axes) :]
        rows = rows.reshape(len(self._kept), -1)
        made, added = rows[self._kept], np.zeros(rows.shape[1])
        for block, staying, regression in self._blocks:
            factors, constants = regression.solve()
            for here, there, constant in zip(block, staying, constants, strict=True):
                made[there] = factors.T @ rows[here]
                added += constant @ rows[here]
        made = made.reshape(*(self.small.kernel.shape[axis] for axis in axes), *rest)
        self.small.kernel.assign(np.moveaxis(made, range(len(axes)), axes))
        bias = getattr(self.small.owner, "bias", None)
        if bias is not None:
            bias.assign(ops.convert_to_numpy(bias) + self.small.constant(added.reshape(rest)))


class _Repair:
    """Runs a model and the smaller one side by side, and repairs each layer before it is run."""

    def __init__(self, traced: Traced, stays: np.ndarray, method: str) -> None:
        self._traced, self._method = traced, method
        cuts, norms = traced.trace.cuts, traced.norms
        whole = {number: takers(traced, cut.operation) for number, cut in cuts.items()}
        biases = {
            id(one.owner): np.zeros(one.constant(np.zeros(one.rest)).shape)
            for one in (one for those in whole.values() for one in those)
            if one.gains_bias and id(one.owner) not in norms and not stays[traced.sets[one.labels]].all()
        }
        self._builder = Builder(cuts, lambda labels: stays[traced.sets[labels]], {}, biases)
        self._small = self._builder.model(traced.model)
        smaller = Traced(self._small)
        # id of a layer or operation -> what is to be repaired in it.
        self._pairs: dict[int, list[_Pair]] = {}
        self._repaired: set[int] = set()  # Kernels: a layer may be called in a wrapper and without it.
        called = {id(call.operation) for call in traced.trace.calls}
        for number, those in whole.items():
            if number in called:
                made = takers(smaller, self._builder.made[number])
                pairs = [
                    _Pair(traced, stays, one, other, method) for one, other in zip(those, made, strict=True)
                ]
                self._pairs[number] = [pair for pair in pairs if pair.differ]
        # id of a BatchNorm -> for each of its channels whether it stays.
        self._norms = {
            id(one.layer): stays[traced.sets[one.labels]]
            for one in traced.slices
            if builtin_layer(one.layer) == "BatchNormalization" and one.variable is one.layer.moving_mean
        }

    def run(self, images: list[np.ndarray]) -> keras.Model:
        """Returns the smaller model, repaired."""
        graph = computed_graph(self._traced.model)
        self._images, self._uses = len(images[0]), iter(uses(graph))
        inputs = []
        for tensor, array in zip(graph.inputs, images, strict=True):
            values = Values(next(self._uses))
            for start in range(0, len(array), _BATCH):
                batch = ops.convert_to_tensor(array[start : start + _BATCH], tensor.dtype)
                values.batches.append((batch, batch))
            inputs.append(values)
        evaluate(graph, inputs, self._call)
        return self._small

    def _call(self, step: Step) -> Sequence[Values]:
        graph = computed_graph(step.operation)
        if graph is not None:
            return evaluate(graph, step.inputs, self._call)
        outputs = [Values(next(self._uses)) for _ in step.outputs]
        if not any(self._pairs.values()) and not self._norms:
            return outputs  # All is repaired.
        calls = list(self._calls(step))
        pairs = [
            pair
            for pair in self._pairs.pop(id(step.operation), [])
            if id(pair.whole.kernel) not in self._repaired
        ]
        self._repaired |= {id(pair.whole.kernel) for pair in pairs}
        # What the layer itself makes of what it takes is repaired when that is.
        for some in ([one for one in pairs if one.whole.within == within] for within in (False, True)):
            if some:
                self._repair(some, calls)
        if id(step.operation) in self._norms:
            self._normalize(step, self._norms.pop(id(step.operation)))
        for whole, small in calls:
            for values, *made in zip(outputs, whole(), small(), strict=True):
                values.batches.append(tuple(made))
        for values in step.inputs:
            values.take()
        return outputs

    def _calls(self, step: Step) -> Any:
        """Yields for each batch the call of the whole model and the one in its place."""
        made = self._builder.made[id(step.operation)]
        arguments = (step.args, step.kwargs), self._builder.arguments(step)
        for number in range(len(step.inputs[0].batches)):
            yield tuple(
                _Invocation(operation, *filled(arguments[which], number, which))
                for which, operation in enumerate((step.operation, made))
            )

    def _repair(self, pairs: list[_Pair], calls: list[tuple["_Invocation", "_Invocation"]]) -> None:
        for whole, small in calls:
            features = zip(
                whole.features([pair.whole for pair in pairs]),
                small.features([pair.small for pair in pairs]),
                strict=True,
            )
            for pair, both in zip(pairs, features, strict=True):
                pair.add(*both)
        for pair in pairs:
            pair.check(self._images, self._method)
            pair.write()

    def _normalize(self, step: Step, kept: np.ndarray) -> None:
        """Changes the statistics of a BatchNorm as those of its inputs have changed."""
        norm = self._builder.made[id(step.operation)]
        whole, small = (
            reduce(Moments.merged, [_moments(pair[which], norm.axis) for pair in step.inputs[0].batches])
            for which in (0, 1)
        )
        mean, variance = whole.mean[kept], whole.variance[kept]
        norm.moving_mean.assign(ops.convert_to_numpy(norm.moving_mean) + small.mean - mean)
        varies = (variance > 0) & (small.variance > 0)
        ratio = np.divide(small.variance, variance, out=np.ones_like(variance), where=varies)
        norm.moving_variance.assign(ops.convert_to_numpy(norm.moving_variance) * ratio)


def _moments(tensor: Any, axis: int) -> Moments:
    array = np.moveaxis(np.asarray(ops.convert_to_numpy(tensor)), axis, -1)
    array = array.reshape(-1, array.shape[-1]).astype(np.float64)
    return Moments(len(array), array.mean(0), array.var(0))


class _Invocation(Invocation):
    """A call whose takers' features can be seen."""

    def features(self, wanted: list[Taker]) -> list[np.ndarray]:
        """Returns the features that takers in it are given."""
        found: dict[int, Any] = {id(unwrapped(self.operation)): self.first}

        def seen(layer: keras.layers.Layer, call: Callable) -> Callable:
            def run(*args: Any, **kwargs: Any) -> Any:
                found.setdefault(id(layer), tensors((args, kwargs))[0])
                return call(*args, **kwargs)

            return run

        hidden = {id(one.layer): one.layer for one in wanted if id(one.layer) not in found}
        if hidden:
            with replaced_calls(hidden.values(), seen):
                self()
        return [one.features(found[id(one.layer)]) for one in wanted]

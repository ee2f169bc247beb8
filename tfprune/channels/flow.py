"""Channels whose values do not depend on the model's inputs, found in one call of the model."""

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfprune.channels.groups import Traced
from tfprune.channels.labels import FIXED, Channels
from tfprune.channels.rules.kernels import BIASED
from tfprune.channels.trace import INSIDE, Call, Slice
from tfprune.network.graph import Step, computed_graph, evaluate
from tfprune.network.kinds import builtin_layer, builtin_operation

# For sizes that a model leaves open: the smallest with which it can be called.
_OPEN_SIZES = (32, 96, 256)
# Of one value at several positions, relative to it: an activation is computed for some positions at a time.
_ROUNDING = 5e-7
# Layers whose made channels depend on the channels that their kernel's weights take, and on no others.
_LINEAR = {*BIASED, "EinsumDense"}
_JOINING = {"Concatenate"}


class Constants(NamedTuple):
    """The constants that a call takes along an axis of a weight.

    Attributes:
        values: For each place the channel's value, if it is the same for all inputs and positions; else NaN.
        varies: For each place whether the value is the same for all inputs, but not for all positions.
    """

    values: np.ndarray
    varies: np.ndarray


class Flow:
    """The calls of a traced model, with what is known of the values between them.

    Args:
        traced: The model's channels.

    Attributes:
        constants: (number of the call, id of the weight, axis) -> what it takes there.
        operands: (number of a call in which tensors meet value by value, number of one of them) -> for each
            of its channels the value, if it is the same for all inputs and positions; else NaN.
        failure: Why no constants are known, if the call of the model failed; else empty.
    """

    def __init__(self, traced: Traced) -> None:
        self._traced = traced
        self.constants: dict[tuple[int, int, int], Constants] = {}
        self.operands: dict[tuple[int, int], np.ndarray] = {}
        self.failure = ""
        if any(self._starts(call) for call in traced.trace.calls):
            self._run()

    def _starts(self, call: Call) -> bool:
        """Returns whether channels may be constant after a call that were not before: something is zero."""
        return any(
            (~any_along(self._traced.values(one.variable), one.axis)).any()
            for one in call.slices
            if (one.role == "makes" and is_kernel(one)) or _silences(call, one)
        )

    def _run(self) -> None:
        graph = computed_graph(self._traced.model)
        sizes = _OPEN_SIZES if any(None in tensor.shape[1:] for tensor in graph.inputs) else _OPEN_SIZES[:1]
        for size in sizes:
            self._forget()
            self._numbers = itertools.count()
            inputs = [_Value.unknown(tensor, size) for tensor in graph.inputs]
            try:
                evaluate(graph, inputs, self._call)
            except Exception as error:  # Of Keras, of its backend, or of a layer of the user's.
                self.failure = " ".join(str(error).split()) or type(error).__name__
                continue
            self.failure = ""
            return
        self._forget()
        warnings.warn(
            f"Constant channels are not looked for, because a call of the model failed: {self.failure}",
            stacklevel=2,
        )

    def _forget(self) -> None:
        self.constants.clear()
        self.operands.clear()

    def _call(self, step: Step) -> Sequence["_Value"]:
        graph = computed_graph(step.operation)
        if graph is not None:
            return evaluate(graph, step.inputs, self._call)
        number = next(self._numbers)
        call = self._traced.trace.calls[number]
        for one in call.slices:
            if one.role == "takes" and one.input != INSIDE:
                self.constants[number, id(one.variable), one.axis] = step.inputs[one.input].constants(
                    call.inputs[one.input], one.labels
                )
        if call.by_place:
            for at, channels in enumerate(call.inputs):
                if len(channels.axes()) == 1:
                    found = step.inputs[at].constants(channels, channels.labels.ravel())
                    self.operands[number, at] = found.values
        args, kwargs = keras.tree.map_structure(
            lambda value: value.tensor if isinstance(value, _Value) else value, (step.args, step.kwargs)
        )
        tensors = keras.tree.flatten(step.operation(*args, **kwargs))
        known = self._known(call, step.inputs, tensors)
        return [_Value.of(tensor, each) for tensor, each in zip(tensors, known, strict=True)]

    def _known(self, call: Call, inputs: list["_Value"], tensors: list[Any]) -> list[np.ndarray]:
        """Returns for each output which values are known, in the shape of its labels."""
        name = builtin_layer(call.layer) or builtin_operation(call.layer)
        nothing = [np.zeros_like(made.labels, bool) for made in call.outputs]
        if call.mixes or name is None or call.kwargs.get("training"):
            return nothing
        if any(one.role == "makes" for one in call.slices):
            known = self._made(call, inputs, name in _LINEAR)
            found = [known[made.labels] for made in call.outputs]
            if name in _LINEAR:
                return found
            # Without a weight they are zero, if the layer makes zero of nothing.
            return [
                one & _reduced(ops.convert_to_numpy(tensor)[0] == 0, one.shape)
                for one, tensor in zip(found, tensors, strict=True)
            ]
        if call.by_place:
            return [_by_place(inputs, name == "Multiply")] * len(call.outputs)
        if len(inputs) > 1 and name not in _JOINING:
            return nothing
        known = self._passed(call, inputs) | self._silenced(call)
        return [known[self._traced.sets[made.labels]] for made in call.outputs]

    def _made(self, call: Call, inputs: list["_Value"], linear: bool) -> np.ndarray:
        """Returns for each label whether the call makes it of known values, or of none if not linear."""
        known = np.zeros(len(self._traced.sets), bool)
        makes = [one for one in call.slices if one.role == "makes"]
        labels = np.unique(np.concatenate([one.labels for one in makes]))
        known[labels] = True
        passed = self._passed(call, inputs)
        for one in makes:
            if linear and not is_kernel(one):
                continue
            from_ = next(
                (
                    other
                    for other in call.slices
                    if other.variable is one.variable and other.role in ("takes", "scales")
                ),
                None,
            )
            weight = self._traced.values(one.variable)
            if from_ is None or not linear:
                known[one.labels[any_along(weight, one.axis)]] = False
                continue
            used = connections(weight, from_.axis, one.axis)
            if from_.role == "takes":
                rows = inputs[from_.input].along(call.inputs[from_.input], from_.labels)
            else:
                rows = passed[self._traced.sets[from_.labels]]
            known[one.labels[used[~rows].any(0)]] = False
        return known

    def _passed(self, call: Call, inputs: list["_Value"]) -> np.ndarray:
        """Returns for each set of channels whether it is among the inputs, and known wherever it is."""
        known = np.zeros(self._traced.count, bool)
        unknown = np.zeros(self._traced.count, bool)
        for channels, value in zip(call.inputs, inputs, strict=True):
            sets, each = np.broadcast_arrays(self._traced.sets[channels.labels], value.known)
            known[sets[each]] = True
            unknown[sets[~each]] = True
        known[FIXED] = False
        return known & ~unknown

    def _silenced(self, call: Call) -> np.ndarray:
        """Returns for each set of channels whether a scale of zero makes it known."""
        silent = np.zeros(self._traced.count, bool)
        for one in call.slices:
            if _silences(call, one):
                sets = self._traced.sets[one.labels]
                silent[sets] = True
                silent[sets[any_along(self._traced.values(one.variable), one.axis)]] = False
        silent[FIXED] = False
        return silent


class _Value:
    """A tensor of one example; values that are not known are zeros.

    Attributes:
        tensor: The numbers, with a batch's axis of size 1.
        known: Whether they are the same for all inputs of the model: booleans without the batch's axis, of
            size 1 along axes that do not matter.
    """

    def __init__(self, tensor: Any, known: np.ndarray) -> None:
        self.tensor, self.known = tensor, known

    @classmethod
    def unknown(cls, tensor: keras.KerasTensor, size: int) -> "_Value":
        """Returns an input of the model; sizes that are left open become `size`."""
        shape = [size if each is None else each for each in tensor.shape[1:]]
        # No zeros: they may mean that a time step is masked.
        value = 0.5 if "float" in tensor.dtype else 1
        return cls(ops.full((1, *shape), value, tensor.dtype), np.zeros([1] * len(shape), bool))

    @classmethod
    def of(cls, tensor: Any, known: np.ndarray) -> "_Value":
        """Returns a tensor with zeros where it is not known, so that no NaN goes on from there."""
        if not known.all():
            tensor = ops.where(known[None], tensor, ops.zeros_like(tensor))
        return cls(tensor, known)

    def along(self, channels: Channels, labels: np.ndarray) -> np.ndarray:
        """Returns whether the places of the axis that carries `labels` are known."""
        return _to_places(self.known, channels, labels, np.all)

    def constants(self, channels: Channels, labels: np.ndarray) -> Constants:
        """Returns what is the same for all inputs along the axis that carries `labels`."""
        known = self.along(channels, labels)
        values = np.full(len(labels), np.nan)
        if not known.any():
            return Constants(values, known)
        numbers = np.asarray(ops.convert_to_numpy(self.tensor), np.float64)[0]
        low = _to_places(numbers, channels, labels, np.min)
        high = _to_places(numbers, channels, labels, np.max)
        same = known & (high - low <= _ROUNDING * np.abs(low))
        values[same] = low[same]
        return Constants(values, known & ~same)


def connections(weight: np.ndarray, taken: int, made: int) -> np.ndarray:
    """Returns which of the taken places (rows) a weight connects with which of the made ones (columns)."""
    taken, made = taken % weight.ndim, made % weight.ndim
    others = tuple(axis for axis in range(weight.ndim) if axis not in (taken, made))
    used = (weight != 0).any(others)
    return used if taken < made else used.T


def is_kernel(one: Slice) -> bool:
    """Returns whether the values of a weight multiply channels, and are not added to them."""
    return len(one.variable.shape) > 1


def _silences(call: Call, one: Slice) -> bool:
    """Returns whether a channel is constant where a weight is zero, whatever comes in."""
    name = builtin_layer(call.layer) or ""
    if name == "BatchNormalization":
        return one.variable is call.layer.gamma
    return name.startswith("Depthwise") and is_kernel(one)


def any_along(weight: np.ndarray, axis: int) -> np.ndarray:
    """Returns for each place along an axis whether a value there is not zero."""
    return np.moveaxis(weight != 0, axis, 0).reshape(weight.shape[axis], -1).any(1)


def _axis_of(channels: Channels, count: int) -> int:
    """Returns the axis along which a layer takes channels: the labels' own, or the last of that size."""
    axes = channels.axes()
    if axes:
        return axes[0]
    return max(axis for axis, size in enumerate(channels.shape) if size == count)


def _to_places(values: np.ndarray, channels: Channels, labels: np.ndarray, reduce: Any) -> np.ndarray:
    axis = _axis_of(channels, len(labels))
    over = tuple(other for other in range(values.ndim) if other != axis)
    return np.broadcast_to(reduce(values, axis=over), (len(labels),))


def _reduced(flags: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns whether all flags are true along the axes that have size 1 in `shape`."""
    return flags.all(axis=tuple(axis for axis, size in enumerate(shape) if size == 1), keepdims=True)


def _by_place(inputs: list[_Value], multiplies: bool) -> np.ndarray:
    """Returns which values are known where those of several tensors meet."""
    known = np.ones(1, bool)
    for value in inputs:
        known = known & value.known
    if multiplies:
        for value in inputs:
            numbers = ops.convert_to_numpy(value.tensor)[0]
            known = known | (value.known & _reduced(numbers == 0, value.known.shape))
    return known

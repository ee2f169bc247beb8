"""Narrows convolutions to the channels that their weights take and make, exactly.

The stream of a residual network keeps every channel that any block takes or makes, and each convolution on
it takes and makes all of them. Of a sparse one most weights along both axes are zero. A 1x1 convolution of
ones before it selects what it takes; one behind it puts what it makes in its place, with the constants of the
other channels as its bias. Each sum has one term, so that both are exact.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.flow import any_along
from tfprune.channels.groups import Traced
from tfprune.channels.rules.axes import mixing
from tfprune.channels.trace import Call
from tfprune.network.graph import Step, all_layers, computed_graph, is_masked, taken_by
from tfprune.network.kinds import builtin_layer

_CONVOLUTIONS = {"Conv1D", "Conv2D", "Conv3D"}
# Measured in TFLite float32 (XNNPACK, one thread of an x86 core): what a value that is read or written costs
# beside the multiply-accumulates, and how many channels that are made cost as much as one of them.
_MOVED = 6
_LANES = 16
# What is inserted must save as many times what it costs: runtimes differ.
_INSERTED = 1.5


@dataclass(frozen=True)
class NarrowedLayer:
    """A convolution that takes or makes fewer channels than the layers around it.

    Attributes:
        layer: Its name.
        takes: The number of channels that it takes.
        of_taken: The number of those that the layer before it makes.
        makes: The number of channels that it makes.
        of_made: The number of those that the layers behind it take.
    """

    layer: str
    takes: int
    of_taken: int
    makes: int
    of_made: int


@dataclass(frozen=True, eq=False)
class _Convolution:
    """A convolution that may be narrowed.

    Attributes:
        layer: The convolution.
        norm: The BatchNorm that alone takes what it makes; None without one.
        source: The symbolic tensor that it takes.
        taken: For each channel that stays of it whether a weight takes it.
        made: For each channel that stays of what it makes whether a weight makes it.
        sizes: Positions of its input and of its output; of sizes that are not known their ratio.
    """

    layer: Any
    norm: Any
    source: keras.KerasTensor
    taken: np.ndarray
    made: np.ndarray
    sizes: tuple[int, int]

    @property
    def form(self) -> tuple:
        """Returns what convolutions have in common that can take one selection of channels."""
        layer = self.layer
        return id(self.source), self.taken.tobytes(), layer.data_format, layer.dtype_policy.name

    @property
    def last(self) -> Any:
        """Returns the layer behind which its channels are put in their places."""
        return self.norm or self.layer

    def cost(self, selects: bool, places: bool) -> float:
        """Returns what the convolution costs, and the one that puts its channels in their places."""
        before, after = self.sizes
        taken = self.taken.sum() if selects else len(self.taken)
        made = self.made.sum() if places else len(self.made)
        cost = _cost(after, math.prod(self.layer.kernel_size), taken, made)
        return cost + places * _INSERTED * _cost(after, 1, made, len(self.made))

    @property
    def selection(self) -> float:
        """Returns what the convolution costs that selects what it takes."""
        return _INSERTED * _cost(self.sizes[0], 1, len(self.taken), self.taken.sum())


class Narrowing:
    """The convolutions of a smaller model that are narrowed, and the layers that are put around them.

    Args:
        traced: The channels of the whole model.
        needed: Ids of the tensors that are made in the smaller one; None for all.
        values: Returns what a weight becomes in the smaller model.
        bias: Returns what the bias of a layer becomes there; None of a layer without one.

    Attributes:
        layers: The convolutions.
        stays: id of a weight -> for axes of it, those places along it that stay of what the smaller model
            would have.
        inserted: Those of the layers around them that were made.
    """

    def __init__(
        self,
        traced: Traced,
        needed: Collection[int] | None,
        values: Callable[[keras.Variable], np.ndarray],
        bias: Callable[[Any], np.ndarray | None],
    ) -> None:
        self._values, self._bias = values, bias
        self.layers: list[NarrowedLayer] = []
        self.stays: dict[int, dict[int, np.ndarray]] = {}
        self.inserted: list[keras.layers.Layer] = []
        # id of a convolution -> the channels that it takes.
        self._selects: dict[int, np.ndarray] = {}
        # id of the layer behind which channels are put in their places -> how.
        self._places: dict[int, tuple[_Convolution, np.ndarray]] = {}
        self._made: dict[int, np.ndarray] = {}
        self._selected: dict[tuple, tuple[keras.KerasTensor, keras.KerasTensor]] = {}
        groups: dict[tuple, list[_Convolution]] = {}
        for one in _convolutions(traced, needed, values):
            groups.setdefault(one.form, []).append(one)
        for group in groups.values():
            self._choose(group)

    def _choose(self, group: list[_Convolution]) -> None:
        """Narrows convolutions that take the same channels of the same tensor, where it saves work."""
        costs = {}
        for selects in (False, True):
            if selects and group[0].taken.all():
                continue
            places = [
                not one.made.all() and one.cost(selects, True) < one.cost(selects, False) for one in group
            ]
            each = (one.cost(selects, place) for one, place in zip(group, places, strict=True))
            costs[selects, tuple(places)] = sum(each) + selects * group[0].selection
        selects, places = min(costs, key=costs.__getitem__)
        for one, place in zip(group, places, strict=True):
            if selects or place:
                self._narrow(one, selects, place)

    def _narrow(self, one: _Convolution, selects: bool, places: bool) -> None:
        layer, norm = one.layer, one.norm
        taken, made = (
            mask if used else np.ones_like(mask) for used, mask in ((selects, one.taken), (places, one.made))
        )
        rank = len(layer.kernel.shape)
        self.stays[id(layer.kernel)] = {rank - 2: taken, rank - 1: made}
        if selects:
            self._selects[id(layer)] = taken
        if places:
            self._made[id(layer)] = made
            self._places[id(one.last)] = one, self._constants(one)
            weights = [layer.bias] if layer.bias is not None else []
            for weight in [*weights, *(norm.weights if norm is not None else ())]:
                self.stays[id(weight)] = {0: made}
        counts = int(taken.sum()), len(taken), int(made.sum()), len(made)
        self.layers.append(NarrowedLayer(layer.name, *counts))

    def _constants(self, one: _Convolution) -> np.ndarray:
        """Returns the values of the channels that no weight makes; zeros in the places of the others."""
        layer, norm = one.layer, one.norm
        bias = self._bias(layer)
        values = np.zeros(len(one.made)) if bias is None else bias.astype(np.float64)
        if norm is not None:
            scale = 1 / np.sqrt(self._values(norm.moving_variance).astype(np.float64) + norm.epsilon)
            scale *= 1 if norm.gamma is None else self._values(norm.gamma)
            shift = 0 if norm.beta is None else self._values(norm.beta)
            values = (values - self._values(norm.moving_mean)) * scale + shift
        else:
            tensor = ops.convert_to_tensor(values[None], layer.compute_dtype)
            values = np.asarray(ops.convert_to_numpy(layer.activation(tensor)), np.float64)[0]
        return np.where(one.made, 0, values)

    def filters(self, layer: Any) -> int | None:
        """Returns the number of filters of a convolution that makes fewer channels; None of others."""
        made = self._made.get(id(layer))
        return None if made is None else int(made.sum())

    def bias(self, layer: Any) -> np.ndarray | None:
        """Returns the bias of a layer that may be narrowed."""
        bias, made = self._bias(layer), self._made.get(id(layer))
        return bias if bias is None or made is None else bias[made]

    def changes(self, layer: Any) -> bool:
        """Returns whether something is put around a layer."""
        return id(layer) in self._selects or id(layer) in self._made or id(layer) in self._places

    def select(self, step: Step, name: Callable[[str], str]) -> keras.KerasTensor:
        """Returns what a layer of the smaller model takes: of the tensor of a call, or that tensor itself.

        Args:
            step: The call, with the tensor of the smaller model.
            name: Returns a new name for a layer, given its end.
        """
        layer, tensor = step.operation, step.inputs[0]
        taken = self._selects.get(id(layer))
        if taken is None:
            return tensor
        key = id(tensor), taken.tobytes(), layer.data_format, layer.dtype_policy.name
        if key not in self._selected:
            one = _pointwise(layer, np.eye(len(taken))[:, taken], None, layer.dtype_policy, name("select"))
            self.inserted.append(one)
            self._selected[key] = tensor, one(tensor)  # The tensor itself, so that its id stays its own.
        return self._selected[key][1]

    def place(self, step: Step, tensor: keras.KerasTensor, name: Callable[[str], str]) -> keras.KerasTensor:
        """Returns what a layer of the smaller model makes, all channels in their places.

        Args:
            step: The call.
            tensor: What the narrower layer makes.
            name: As for `select`.
        """
        if id(step.operation) not in self._places:
            return tensor
        one, constants = self._places[id(step.operation)]
        kernel = np.eye(len(one.made))[one.made]
        layer = _pointwise(one.layer, kernel, constants, step.operation.dtype_policy, name("scatter"))
        self.inserted.append(layer)
        return layer(tensor)


def _pointwise(
    like: Any, kernel: np.ndarray, bias: np.ndarray | None, policy: Any, name: str
) -> keras.layers.Layer:
    """Returns a 1x1 convolution of the rank of another, with a kernel `[taken, made]`; it is not trained."""
    layer = type(like)(
        kernel.shape[1],
        1,
        use_bias=bias is not None,
        data_format=like.data_format,
        dtype=policy,
        trainable=False,
        name=name,
    )
    shape = [None] * (like.rank + 2)
    shape[1 if like.data_format == "channels_first" else -1] = kernel.shape[0]
    layer.build(tuple(shape))
    layer.kernel.assign(kernel.reshape((1,) * like.rank + kernel.shape))
    if bias is not None:
        layer.bias.assign(bias)
    return layer


def _convolutions(
    traced: Traced, needed: Collection[int] | None, values: Callable[[keras.Variable], np.ndarray]
) -> list[_Convolution]:
    """Returns the convolutions with weights that take or make no channel in one of their places."""
    outputs = set(map(id, computed_graph(traced.model).outputs))
    # id of a layer -> id of what a call returns that the layer takes part in -> the call.
    calls: dict[int, dict[int, Call]] = {}
    for call in traced.trace.calls:
        if needed is None or id(call.tensors[0]) in needed:
            operation = call.operation
            parts = all_layers(operation) if isinstance(operation, keras.layers.Layer) else [operation]
            for part in parts:
                calls.setdefault(id(part), {})[id(call.tensors[0])] = call

    def only_call(layer: Any) -> Call | None:
        """Returns the call of a layer that is called once, by itself, and only computes its outputs."""
        every = list(calls.get(id(layer), {}).values())
        if len(every) != 1 or every[0].operation is not layer or is_masked(every[0].tensors[0]):
            return None
        return every[0] if layer.activity_regularizer is None else None

    found = []
    layers = {id(call.layer): call.layer for call in traced.trace.calls}.values()
    for layer in layers:
        if builtin_layer(layer) not in _CONVOLUTIONS or max(layer.kernel_size) == 1:
            continue
        call, rank = only_call(layer), layer.rank
        if call is None:
            continue
        roles = {(one.axis, one.role) for one in call.slices if one.variable is layer.kernel}
        if roles != {(rank, "takes"), (rank + 1, "makes")}:  # It has groups, or other weights than its class.
            continue
        kernel = values(layer.kernel)
        taken, made = (_some(any_along(kernel, axis)) for axis in (rank, rank + 1))
        norm = traced.norms.get(id(layer))
        behind = None if norm is None else only_call(norm)
        if norm is not None and (behind is None or behind.kwargs.get("training")):
            norm = None
        last = call if norm is None else behind
        # Outputs are called by the layer that makes them; and some activations compute with all channels.
        if id(last.tensors[0]) in outputs or mixing(layer.activation):
            made = np.ones_like(made)
        if not (taken.all() and made.all()):
            (source,) = taken_by(call.tensors[0])
            found.append(_Convolution(layer, norm, source, taken, made, _positions(layer, source, call)))
    return found


def _some(used: np.ndarray) -> np.ndarray:
    """Returns booleans of which one at least is true."""
    return used if used.any() else np.arange(len(used)) == 0


def _positions(layer: Any, source: keras.KerasTensor, call: Call) -> tuple[int, int]:
    """Returns the positions of a convolution's input and output; of open sizes, what a stride leaves."""
    at = slice(1, None) if layer.data_format == "channels_first" else slice(None, -1)
    sizes = tuple(source.shape[1:])[at], tuple(call.shapes[0])[at]
    if None in sizes[0] + sizes[1]:
        return math.prod(layer.strides), 1
    return math.prod(sizes[0]), math.prod(sizes[1])


def _cost(positions: int, taps: int, taken: int, made: int) -> float:
    """Returns what a convolution costs, in multiply-accumulates of one that has many channels."""
    return positions * (taps * taken * math.ceil(made / _LANES) * _LANES + _MOVED * (taken + made))

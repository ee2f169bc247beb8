"""Dead channels: those without which no output of a model changes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.flow import Flow, any_along, connections, is_kernel
from tfprune.channels.groups import Traced
from tfprune.channels.joins import Join, Joins
from tfprune.channels.labels import FIXED
from tfprune.channels.trace import Call, Slice
from tfprune.network.graph import all_layers
from tfprune.network.kinds import builtin_layer

# Layers in whose outputs a channel of a constant does what a multiple of another one would do, borders too.
_SUMMING = {f"Conv{rank}D{kind}" for rank in (1, 2, 3) for kind in ("", "Transpose")}


@dataclass(frozen=True)
class LayerChannels:
    """The channels that a layer makes.

    Attributes:
        layer: Its name.
        channels: Their number.
        dead: How many of them are dead.
    """

    layer: str
    channels: int
    dead: int


@dataclass(frozen=True)
class SilentChannels:
    """Channels that are not dead although every weight of the kernels that make them is zero.

    Attributes:
        layers: The names of the layers that make them.
        channels: Their number.
        reason: Why an output would change, or why they stay all the same.
    """

    layers: tuple[str, ...]
    channels: int
    reason: str


@dataclass
class _Taker:
    """An axis of a weight that takes channels, with all calls that take by it.

    Attributes:
        slice: The axis.
        sets: The set of each taken channel.
        made: The set of each made channel; None where all are taken as one that is alive.
        used: Places taken (rows) and made (columns): which of them the weight connects.
        refuses: Why no constant but zero can be moved; empty where one can be.
        values: The constant that comes in at each place in all calls, NaN where there is none.
        varies: For each place whether it is known what comes in, but not one value for all positions.
        numbers: The numbers of the calls.
        sums: Whether the layer adds up multiples of what it takes, so that a place can take for others.
    """

    slice: Slice
    sets: np.ndarray
    made: np.ndarray | None
    used: np.ndarray
    refuses: str
    values: np.ndarray
    varies: np.ndarray
    numbers: list[int]
    sums: bool

    @property
    def layer(self) -> Any:
        """Returns the layer."""
        return self.slice.layer

    def weighs(self, alive: np.ndarray) -> np.ndarray:
        """Returns for each place whether a weight to a channel that is alive is not zero."""
        return (self.used if self.made is None else self.used[:, alive[self.made]]).any(1)

    @property
    def free(self) -> np.ndarray:
        """Returns for each place whether what comes in can go: zero, or a constant that can be moved."""
        return (self.values == 0) | (np.isfinite(self.values) & (not self.refuses))


class Dead:
    """The dead channels of a model.

    A channel is dead if, wherever it is taken, one of these holds: each weight that takes it is zero, or
    leads to dead channels only; its value is zero for all inputs; its value is a constant that goes, exactly
    but for rounding, into the bias of the layer that takes it or into the BatchNorm behind, which holds of
    dense layers and of convolutions that pad nothing. Of several constants that a convolution pads one is
    left, of which the others are multiples. Layers that compute with channels together, such as
    LayerNormalization, keep theirs alive, and a layer keeps one channel at least.

    Thimm and Fiesler, "Evaluating pruning methods", 1995, remove constant neurons in this way.

    Args:
        traced: The model's channels.

    Attributes:
        dead: Whether each set of channels is dead.
        merged: Dead set of constants that padding would change -> the set that takes for it.
        edits: id of a weight -> its values with the constants of dead channels in them, in its whole shape.
        biases: id of a layer that has no bias -> the bias that takes constants for it, likewise.
        joins: id of the first tensor that a call returns -> what is left of a call that does without some of
            its operands: constants, or those of which all channels are dead.
        needed: Ids of the tensors that are made all the same, as of `needed_tensors`.
    """

    def __init__(self, traced: Traced) -> None:
        self._traced = traced
        self._flow = Flow(traced)
        self._takers = _takers(traced, self._flow)
        self.dead = np.zeros(traced.count, bool)
        self.merged: dict[int, int] = {}
        self.edits: dict[int, np.ndarray] = {}
        self.biases: dict[int, np.ndarray] = {}
        self._graph = Joins(traced, self._flow)
        self._leave_out()
        self._merge()
        self.joins: dict[int, Join] = self._graph.all(self.dead)
        self.needed = self._graph.needed
        for taker in self._active():
            self._move(taker)

    def kept(self, labels: np.ndarray) -> np.ndarray:
        """Returns for each label whether its channel is alive."""
        return ~self.dead[self._traced.sets[labels]]

    @cached_property
    def removed(self) -> list[keras.layers.Layer]:
        """The layers that go altogether, in the order of the model, without wrappers for pruning."""
        return self._graph.removed()

    @property
    def layers(self) -> list[LayerChannels]:
        """Returns the layers that make channels, in the order of the model."""
        made: dict[int, LayerChannels] = {}
        for one in self._traced.slices:
            labels = np.unique(one.labels)
            if one.role == "makes" and is_kernel(one) and labels[0] not in made:
                dead = len(labels) if self._is_removed(one) else int((~self.kept(labels)).sum())
                made[int(labels[0])] = LayerChannels(one.layer.name, len(labels), dead)
        return list(made.values())

    @property
    def silent(self) -> list[SilentChannels]:
        """Returns the channels that stay although the kernels that make them are zero, with the reasons."""
        traced, union = self._traced, self._traced.trace.union
        zero = np.zeros(traced.count, bool)
        makers: dict[int, list[str]] = {}
        found: dict[tuple[tuple[str, ...], str], int] = {}
        for one in traced.slices:
            if one.role != "makes" or not is_kernel(one) or self._is_removed(one):
                continue
            empty = ~any_along(traced.values(one.variable), one.axis)
            sets = traced.sets[one.labels]
            for number in sets:
                if number not in makers:
                    zero[number], makers[number] = True, []
            zero[sets[~empty]] = False
            for number in np.unique(sets):
                makers[int(number)].append(one.layer.name)
            for label in one.labels[empty & (sets == FIXED)]:
                key = (one.layer.name,), union.reason(label)
                found[key] = found.get(key, 0) + 1
        zero[FIXED] = False
        for number in np.flatnonzero(zero & ~self.dead):
            key = tuple(dict.fromkeys(makers[int(number)])), self._reason(int(number))
            found[key] = found.get(key, 0) + 1
        return [SilentChannels(layers, count, reason) for (layers, reason), count in found.items()]

    @cached_property
    def _removed_parts(self) -> set[int]:
        """The ids of the layers that go altogether, and of those inside them."""
        return {id(part) for one in self.removed for part in all_layers(one)}

    def _is_removed(self, one: Slice) -> bool:
        return id(one.layer) in self._removed_parts

    def _active(self) -> list[_Taker]:
        """Returns the axes of weights that take channels in a call that is left."""
        return [taker for taker in self._takers if any(map(self._graph.is_needed, taker.numbers))]

    def _reason(self, number: int) -> str:
        """Returns why a set is alive."""
        if number in self._traced.mixed:
            return self._traced.mixed[number]
        for taker in self._active():
            places = (taker.sets == number) & taker.weighs(~self.dead) & ~taker.free
            if (places & np.isfinite(taker.values)).any():
                return f"{taker.layer.name}: {taker.refuses}"
            if (places & taker.varies).any():
                return (
                    f"{taker.layer.name}: its constant value differs from place to place, as padding makes it"
                )
            if places.any() and self._flow.failure:
                return f"its value is not known, because a call of the model failed: {self._flow.failure}"
            if places.any():
                return f"{taker.layer.name}: its value depends on other channels"
        return "a layer keeps one channel"

    def _leave_out(self) -> None:
        """Finds dead sets and operands that calls do without, by turns: each makes more of both."""
        while True:
            together, active = self._graph.together(), self._active()
            while True:
                spare = self._unneeded(active)
                found = spare.copy()
                for sets in together:
                    if (found | self.dead)[sets].all():
                        found[next(number for number in sets if found[number])] = False
                if not found.any():
                    break
                self.dead |= found
            before = self._graph.left_out
            self.dead |= self._graph.grow(self.dead, spare)
            if self._graph.left_out == before:
                return

    def _unneeded(self, active: list[_Taker]) -> np.ndarray:
        """Returns the sets without which nothing changes, given those that are dead; the others of them."""
        needed = np.zeros(self._traced.count, bool)
        needed[[FIXED, *self._traced.mixed]] = True
        taken = np.zeros_like(needed)
        for taker in self._takers:
            taken[taker.sets] = True
        for taker in active:
            needed[taker.sets[taker.weighs(~self.dead) & ~taker.free]] = True
        return taken & ~needed & ~self.dead

    def _merge(self) -> None:
        """Lets one of the constants that the same layers pad, or else refuse, stand for all."""
        held_by: dict[int, dict[int, list[float]]] = {}
        active = self._active()
        for at, taker in enumerate(active):
            for place in np.flatnonzero(taker.weighs(~self.dead) & ~taker.free):
                value = taker.values[place] if taker.sums else np.nan
                held_by.setdefault(int(taker.sets[place]), {}).setdefault(at, []).append(value)
        groups: dict[tuple[int, ...], list[tuple[float, int]]] = {}
        for number, values in held_by.items():
            least = np.abs([value for each in values.values() for value in each]).min()
            if np.isfinite(least) and number != FIXED and number not in self._traced.mixed:
                groups.setdefault(tuple(values), []).append((least, number))
        for group in groups.values():
            stays = max(group)[1]
            self.merged |= {number: stays for _, number in group if number != stays}
        merged = np.zeros_like(self.dead)
        merged[list(self.merged)] = True
        for sets in self._graph.together():
            if (merged | self.dead)[sets].all():
                merged[sets] = False
        self.merged = {number: stays for number, stays in self.merged.items() if merged[number]}
        self.dead |= merged

    def merges(self, variable: keras.Variable) -> list[tuple[int, int, int, float]]:
        """Returns what a place of a weight takes for others.

        Returns:
            For each other an axis, its place and the place that stays along it, and the factor by which it is
            a multiple of that.
        """
        found = []
        for taker in self._active():
            if taker.slice.variable is not variable or not taker.sums:
                continue
            for place, number in enumerate(taker.sets):
                if int(number) in self.merged and not taker.free[place]:
                    sizes = np.abs(np.where(taker.sets == self.merged[int(number)], taker.values, 0))
                    stays = int(np.nan_to_num(sizes).argmax())
                    factor = taker.values[place] / taker.values[stays]
                    if taker.weighs(~self.dead)[place]:
                        found.append((taker.slice.axis, place, stays, float(factor)))
        return found

    def _take_for(self, taker: _Taker) -> None:
        """Adds to the weights of channels that stay those of others that are multiples of them."""
        variable = taker.slice.variable
        found = self.merges(variable)
        if not found:
            return
        values = self._traced.values(variable).astype(np.float64)
        mask = self._traced.trace.masks.get(id(variable))
        for axis, place, stays, factor in found:
            rows = np.moveaxis(values, axis, 0)
            rows[stays] += factor * rows[place]
        self.edits[id(variable)] = values
        if mask is not None:
            self.edits[id(mask)] = self.mask(variable, ops.convert_to_numpy(mask))

    def taking(self, variable: keras.Variable) -> np.ndarray:
        """Returns for each value of a weight whether it may take for others, in its whole shape."""
        found = np.zeros(variable.shape, bool)
        for axis, _, stays, _ in self.merges(variable):
            np.moveaxis(found, axis, 0)[stays] = True
        return found

    def mask(self, variable: keras.Variable, mask: np.ndarray) -> np.ndarray:
        """Returns the mask of a weight, in its whole shape, with the places of what it takes for others."""
        mask = np.array(mask)
        for axis, place, stays, _ in self.merges(variable):
            rows = np.moveaxis(mask, axis, 0)
            rows[stays] = np.maximum(rows[stays], rows[place])
        return mask

    def _move(self, taker: _Taker) -> None:
        """Moves the constants that a layer takes of dead channels."""
        if taker.refuses:
            self._take_for(taker)
            return
        places = self.dead[taker.sets] & taker.weighs(~self.dead) & (taker.values != 0)
        if not places.any():
            return
        one, layer = taker.slice, taker.layer
        weight = np.moveaxis(self._traced.values(one.variable).astype(np.float64), one.axis, 0)[places]
        weight = weight.reshape(places.sum(), -1, weight.shape[-1]).sum(1)  # What is made is the last axis.
        constant = taker.values[places] @ weight
        if layer.bias is not None:
            _add(self.edits, layer.bias, constant)
            return
        norm = self._traced.norms.get(id(layer))
        if norm is not None:
            _add(self.edits, norm.moving_mean, -constant)
        else:
            self.biases[id(layer)] = constant


def _takers(traced: Traced, flow: Flow) -> list[_Taker]:
    """Returns the axes of weights that take channels, each once."""
    found: dict[tuple[int, int], _Taker] = {}
    for number, call in enumerate(traced.trace.calls):
        for one in call.slices:
            if one.role != "takes":
                continue
            nothing = np.full(len(one.labels), np.nan), np.zeros(len(one.labels), bool)
            values, varies = flow.constants.get((number, id(one.variable), one.axis), nothing)
            key = id(one.variable), one.axis
            if key in found:
                taker = found[key]
                taker.numbers.append(number)
                taker.values = np.where(taker.values == values, values, np.nan)
                taker.varies = taker.varies | varies
                continue
            makes = [
                other for other in call.slices if other.variable is one.variable and other.role == "makes"
            ]
            weight = traced.values(one.variable)
            if makes:
                made, used = traced.sets[makes[0].labels], connections(weight, one.axis, makes[0].axis)
            else:
                made, used = None, any_along(weight, one.axis)[:, None]
            sums = builtin_layer(call.layer) in _SUMMING
            found[key] = _Taker(
                one, traced.sets[one.labels], made, used, _refusal(call, one), values, varies, [number], sums
            )
    return list(found.values())


def _refusal(call: Call, one: Slice) -> str:
    """Returns why a layer cannot take a constant into its bias; empty if it can."""
    layer, name = call.layer, builtin_layer(call.layer)
    if name == "Dense":
        return ""
    if name in ("Conv1D", "Conv2D", "Conv3D"):
        pads = layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)
        return "its zero padding would change the constant value" if pads else ""
    if name == "EinsumDense" and layer.bias is not None and one.axis == 0:
        if len(layer.kernel.shape) == 2 and tuple(layer.bias.shape) == (layer.kernel.shape[1],):
            return ""
    return "no constant is moved into a layer of its kind"


def _add(values: dict[int, np.ndarray], variable: keras.Variable, constant: np.ndarray) -> None:
    values[id(variable)] = values.get(id(variable), ops.convert_to_numpy(variable)) + constant

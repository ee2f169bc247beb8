"""Labels the channels of a functional model: one walk over its graph, a rule for each kind of layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from tfprune.channels.labels import FIXED, Channels, Union, narrowed
from tfprune.network.graph import Step, all_layers, computed_graph, evaluate

Rule = Callable[["Call"], Sequence[Channels]]


# Attributes of Keras's layers that change which weights a layer has.
_OTHER_WEIGHTS = {"quantization_mode": "it is quantized", "lora_enabled": "it has weights of LoRA"}

INSIDE = -1
"""The `Slice.input` of a weight that takes channels which the layer itself made."""


_ROLES = ("makes", "takes", "scales", "masks")


@dataclass(frozen=True, eq=False)
class Slice:
    """An axis of a weight that numbers channels.

    Attributes:
        layer: The layer that the weight belongs to; of a wrapped layer the one inside.
        variable: The weight.
        axis: The axis.
        labels: A label for each place along the axis.
        role: "makes" where a place makes a channel, "takes" where it takes one, "scales" where it changes
            one as it passes, "masks" in the mask of a weight.
        input: For "takes": which of the layer's inputs, from 0; `INSIDE` for a tensor inside the layer.
    """

    layer: keras.layers.Layer
    variable: keras.Variable
    axis: int
    labels: np.ndarray
    role: str
    input: int = 0


@dataclass
class Cut:
    """The part of a layer or an operation that becomes smaller.

    Attributes:
        operation: The layer or the operation.
        slices: The axes of its weights that number channels.
        config: Name in the layer's configuration -> a function from the kept places (`Kept`) to its value.
        held: Name in the layer's configuration -> the call of the layer or model that it is.
        outputs: The channels of the outputs of each call.
        args: The same for arguments of the call: number of a positional one, or name of another.
    """

    operation: Any
    slices: list[Slice] = field(default_factory=list)
    config: dict[str, Callable[["Kept"], Any]] = field(default_factory=dict)
    held: dict[str, Step] = field(default_factory=dict)
    outputs: list[Sequence[Channels]] = field(default_factory=list)
    args: dict[int | str, Callable[["Kept"], Any]] = field(default_factory=dict)


Kept = Callable[[np.ndarray], np.ndarray]
"""A function from labels to booleans: those of the channels that stay are true."""


@runtime_checkable
class TracesChannels(Protocol):
    """A layer of one's own that says what becomes of its channels.

    Without `trace_channels` a layer of no class of Keras's fixes the channels that it takes, and is named in
    the plan. The method is called for each call of the layer in a model, with a `Call` that has the channels
    of its inputs and takes note of the axes of its weights. A layer that makes channels of those it takes,
    and scales them, as many as its setting `units` says:

    .. code-block:: python

        def trace_channels(self, call):
            taken, made = call.take(-1), call.new(self.units)
            call.weight(self.kernel, 0, taken, "takes")
            call.weight(self.kernel, 1, made, "makes")
            call.weight(self.scale, 0, made, "scales")
            call.config("units", made)  # `get_config()["units"]` of the smaller layer.
            return [Channels.along(call.shapes[0], -1, made)]

    A layer that computes with each value by itself returns `call.inputs`; what must go together,
    `call.unite` says; what must stay, `call.fix`; a layer that computes with all channels, as normalisation
    does, says `call.mix`. `call.stay(reason)` fixes all.
    """

    def trace_channels(self, call: "Call") -> Sequence[Channels]:
        """Returns the channels of each output; `call` takes note of the weights' axes."""


class Call:
    """One call of a layer or an operation, as a rule sees it.

    Attributes:
        operation: The layer, in its wrapper if it has one, or the operation.
        layer: The layer, without a wrapper, or the operation.
        args: Its positional arguments, with `Channels` in place of each tensor.
        kwargs: Its named arguments, likewise.
        inputs: The channels of its inputs.
        tensors: The symbolic tensors that it returns.
        shapes: The shapes of its outputs, without the batch's axis.
        outputs: The channels of its outputs, once the rule has returned them.
        slices: The axes of its weights that the rule noted.
        mixes: Whether it computes with channels together.
        by_place: Whether several tensors meet, value by value.
    """

    def __init__(self, trace: "Trace", step: Step, holder: "Call | None" = None) -> None:
        self.layer = self.operation = step.operation
        self.args, self.kwargs, self.inputs = step.args, step.kwargs, step.inputs
        self.tensors = step.outputs
        self.shapes = [tuple(tensor.shape[1:]) for tensor in step.outputs]
        self.outputs: Sequence[Channels] = ()
        self.slices: list[Slice] = []
        self.mixes = self.by_place = False
        self._trace = trace
        self._held: list[Channels] = []
        # Whether it takes what a model that a layer holds has made.
        self._inside = holder is not None and step.inputs is not holder._held

    @property
    def name(self) -> str:
        """Returns the name of the layer."""
        return self.layer.name

    def inside(self, layer: Any) -> Sequence[Channels]:
        """Returns the channels of the outputs of a layer that a wrapper calls on its own arguments."""
        self.layer = layer
        return self._trace.outputs(self)

    def held(
        self, setting: str, layer: Any, inputs: Sequence[Channels], shapes: Sequence[Sequence[int | None]]
    ) -> Sequence[Channels]:
        """Returns the channels of the outputs of a layer or a model that the layer holds, and calls.

        Args:
            setting: The entry of the layer's configuration that it is.
            layer: The layer or the model.
            inputs: The channels of what it is called on.
            shapes: The shapes of its outputs, without the batch's axis.
        """
        outputs = [keras.KerasTensor((None, *shape)) for shape in shapes]
        step = Step(layer, tuple(inputs), {}, list(inputs), outputs)
        self._trace.cut_of(self.operation).held[setting] = step
        self._held = step.inputs
        return self._trace.step(step, holder=self)

    def holds(self, call: "Call") -> None:
        """Notes what a call inside this one does as what this one does."""
        self.mixes |= call.mixes
        self.slices += call.slices

    def mask(self, variable: keras.Variable, mask: keras.Variable) -> None:
        """Notes that a weight counts where its mask is true: the mask is cut as the weight is."""
        self._trace.masks[id(variable)] = mask
        for old in list(self.slices):
            if old.variable is variable:
                self.weight(mask, old.axis, old.labels, "masks", old.input)

    def new(self, count: int) -> np.ndarray:
        """Returns labels of new channels that the layer makes, as many as are asked for."""
        return self._trace.union.new(count, self.name)

    def take(self, axis: int, channels: Channels | None = None) -> np.ndarray:
        """Returns the labels along an axis that the layer takes, of the axis's size.

        Where labels differ along another axis, as those of channels do for a layer that takes positions, all
        are fixed.

        Args:
            axis: The axis, without the batch's.
            channels: Those of one of the inputs; None for the first.
        """
        channels = self.inputs[0] if channels is None else channels
        labels = channels.on(axis)
        if labels is None or len(labels) != channels.shape[axis]:
            self.fix(channels, "it takes channels and positions together")
            return np.full(channels.shape[axis], FIXED)
        return labels

    def unite(self, first: np.ndarray, second: np.ndarray) -> None:
        """Lets channels go together, those of the first array with those of the second."""
        self._trace.union.unite(first, second)

    def fix(self, channels: Channels | np.ndarray, reason: str) -> None:
        """Lets channels stay, because of this layer."""
        labels = channels.labels if isinstance(channels, Channels) else channels
        self._trace.union.fix(labels, f"{self.name}: {reason}")

    def mix(self, channels: Channels | np.ndarray, reason: str) -> None:
        """Notes that the layer computes with channels together, so that none goes without a trace."""
        self.mixes = True
        labels = channels.labels if isinstance(channels, Channels) else channels
        for label in np.unique(labels):
            if label != FIXED:
                self._trace.mixed.setdefault(int(label), f"{self.name}: {reason}")

    def weight(
        self, variable: keras.Variable | None, axis: int, labels: np.ndarray, role: str, which: int = 0
    ) -> None:
        """Notes that an axis of a weight numbers channels.

        Args:
            variable: The weight; None, of a layer that has none of the kind, is passed over.
            axis: The axis.
            labels: A label for each place.
            role: "makes" where a place of the axis makes a channel, "takes" where it takes one, "scales"
                where it changes one as it passes.
            which: Of what "takes": the layer's input that it takes, from 0.

        Raises:
            ValueError: If there is not one label for each place, no such axis, or no such role.
        """
        if role not in _ROLES:
            raise ValueError(
                f"`role` must be one of {', '.join(_ROLES)}. Received: role={role!r} from layer {self.name!r}"
            )
        if variable is not None:
            rank = len(variable.shape)
            if not -rank <= axis < rank:
                raise ValueError(
                    f"`axis` must be one of the {rank} axes of {variable.path}. Received: axis={axis} from "
                    f"layer {self.name!r}"
                )
            which = INSIDE if self._inside else which
            noted = Slice(self.layer, variable, axis % rank, labels, role, which)
            self._trace.add(self.operation, noted)
            self.slices.append(noted)

    def config(self, name: str, value: np.ndarray | Callable[[Kept], Any]) -> None:
        """Notes that an entry of the layer's configuration is the number of kept labels, or a function."""
        if isinstance(value, np.ndarray):
            labels = value
            value = lambda kept: int(kept(labels).sum())  # noqa: E731 (one line is clearer here)
        self._trace.cut_of(self.operation).config[name] = value

    def argument(self, where: int | str, value: Callable[[Kept], Any]) -> None:
        """Notes that an argument of the call follows from what is kept: its number, or its name."""
        self._trace.cut_of(self.operation).args[where] = value

    def boxed(self, channels: Channels, axis: int | None = None) -> Channels:
        """Lets channels go together that differ along several axes: what stays of a tensor is a box.

        Args:
            channels: The channels.
            axis: The axis along which they may still differ; None for the first of those.

        Returns:
            The channels, whose labels differ along one axis at most.
        """
        labels = narrowed(channels.labels)
        made = Channels(channels.shape, labels)
        if len(made.axes()) < 2:
            return made
        axis = made.axes()[0] if axis is None else axis
        rows = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
        self.unite(rows[:, :1], rows)
        return Channels.along(channels.shape, axis, rows[:, 0])

    def stay(self, reason: str) -> list[Channels]:
        """Fixes all inputs; returns fixed outputs."""
        if getattr(self.layer, "weights", None):
            self._trace.whole[self.name] = reason
        for channels in self.inputs:
            self.fix(channels, reason)
        return [Channels.fixed(shape) for shape in self.shapes]


class Trace:
    """The channels of a model.

    Attributes:
        union: The labels and what goes together.
        cuts: id of a layer or operation -> what becomes smaller of it, in the order of the graph.
        mixed: Label -> which layer computes with it together with others, and how.
        masks: id of a weight -> its mask.
        calls: All calls, in the order of `evaluate`; those in a nested model at each of its own calls.
        whole: Names of layers with weights that are not cut at all -> why.
        unknown: Names of those without a rule -> their classes.
    """

    def __init__(self, rules: Callable[[Any], Rule | None]) -> None:
        self.union, self.cuts, self.mixed = Union(), {}, {}
        self.masks: dict[int, keras.Variable] = {}
        self.calls: list[Call] = []
        self.whole: dict[str, str] = {}
        self.unknown: dict[str, str] = {}
        self._rules = rules
        # (id of a weight, axis) -> the labels of its places that were noted first.
        self._axes: dict[tuple[int, int], np.ndarray] = {}
        # id of a layer, an operation or a nested model -> the channels that its first call took and made.
        self._first: dict[int, list[Channels]] = {}

    def run(self, model: Any) -> None:
        """Labels the channels of a functional model; its inputs and outputs stay."""
        inputs = [Channels.fixed(tensor.shape[1:]) for tensor in model.inputs]
        for channels in evaluate(model, inputs, self.step):
            self.union.fix(channels.labels, "output of the model")
        # A tensor keeps a channel at least: what is one set altogether cannot go.
        for call in self.calls:
            for labels in [*(one.labels for one in call.slices), *(one.labels for one in call.outputs)]:
                roots = np.unique(self.union.find(labels))
                if len(roots) == 1:
                    self.union.fix(roots, f"{call.name}: all its channels go together")

    def cut_of(self, operation: Any) -> Cut:
        """Returns what is noted of a layer or an operation."""
        return self.cuts.setdefault(id(operation), Cut(operation))

    def add(self, operation: Any, new: Slice) -> None:
        """Notes a slice; a layer that is called again has the same channels again."""
        slices = self.cut_of(operation).slices
        size = new.variable.shape[new.axis]
        if len(new.labels) != size:
            raise ValueError(
                f"`labels` must have one label for each of the {size} places of axis {new.axis} of "
                f"{new.variable.path}. Received: {len(new.labels)} labels from layer {new.layer.name!r}"
            )
        # A layer may be called in a wrapper and without it: what is noted of both is about the same weight.
        self.union.unite(self._axes.setdefault((id(new.variable), new.axis), new.labels), new.labels)
        if not any(
            old.variable is new.variable and (old.axis, old.role) == (new.axis, new.role) for old in slices
        ):
            slices.append(new)

    def step(self, step: Step, holder: Call | None = None) -> Sequence[Channels]:
        """Returns the channels of the outputs of a call in the graph, or of one inside `holder`."""
        operation = step.operation
        graph = computed_graph(operation)
        if graph is not None:
            outputs = evaluate(graph, _as(graph.inputs, step.inputs), lambda inner: self.step(inner, holder))
            self._again(operation, [*step.inputs, *outputs])
            return _as(step.outputs, outputs)
        cut = self.cut_of(operation)
        call = Call(self, step, holder)
        call.outputs = self.outputs(call)
        cut.outputs.append(call.outputs)
        if holder is None:
            self.calls.append(call)
        else:
            holder.holds(call)
        if (cut.config or cut.args) and not cut.slices:  # Else the weights say what goes together.
            self._again(operation, [*step.inputs, *call.outputs])
        return call.outputs

    def _again(self, operation: Any, channels: list[Channels]) -> None:
        """Lets channels of a call go together with those of the first call: one thing is built for all."""
        first = self._first.setdefault(id(operation), channels)
        if first is channels:
            return
        pairs = list(zip(first, channels, strict=True))
        if all(_meet(old.labels, new.labels) for old, new in pairs):
            for old, new in pairs:
                self.union.unite(old.labels, new.labels)
        else:
            for one in [*first, *channels]:
                self.union.fix(one.labels, f"{operation.name}: it is called with tensors of several shapes")

    def outputs(self, call: Call) -> list[Channels]:
        """Returns the channels of the outputs of a call, by the layer's own rule or by one of `rules`.

        Raises:
            ValueError: If a rule returns other than the channels of each output.
        """
        own = isinstance(call.layer, TracesChannels)
        others = "" if own else _other_weights(call.layer)
        if others:
            return call.stay(others)
        rule = call.layer.trace_channels if own else self._rules(call.layer)
        if rule is None:
            kind = type(call.layer).__name__
            self.unknown[call.name] = kind
            return call.stay(f"{kind} has no rule for its channels")
        outputs = rule(call)
        _check(call, outputs)
        return [call.boxed(one) for one in outputs]


def _other_weights(operation: Any) -> str:
    """Returns why a layer has other weights than its class has; empty if it has those."""
    parts = all_layers(operation) if isinstance(operation, keras.layers.Layer) else ()
    found = (why for flag, why in _OTHER_WEIGHTS.items() if any(getattr(part, flag, None) for part in parts))
    return next(found, "")


def _meet(one: np.ndarray, other: np.ndarray) -> bool:
    """Returns whether labels can be broadcast against each other."""
    return one.ndim == other.ndim and all(
        1 in sizes or sizes[0] == sizes[1] for sizes in zip(one.shape, other.shape, strict=True)
    )


def _check(call: Call, outputs: Any) -> None:
    """Raises an error if a rule did not return the channels of each output."""
    good = isinstance(outputs, (list, tuple)) and all(isinstance(one, Channels) for one in outputs)
    if not good or len(outputs) != len(call.shapes):
        got = [type(one).__name__ for one in outputs] if isinstance(outputs, (list, tuple)) else outputs
        raise ValueError(
            f"`trace_channels` must return a list of {len(call.shapes)} Channels, one for each output. "
            f"Received: {got!r} from layer {call.name!r}"
        )
    for one, shape in zip(outputs, call.shapes, strict=True):
        sizes = one.labels.shape
        if len(sizes) != len(shape) or any(
            size not in (1, wanted) for size, wanted in zip(sizes, shape, strict=True)
        ):
            raise ValueError(
                "`trace_channels` must return labels whose size along each axis is 1 or that of the tensor, "
                f"{shape}. Received: labels of shape {sizes} from layer {call.name!r}"
            )


def _as(tensors: Sequence[keras.KerasTensor], channels: Sequence[Channels]) -> list[Channels]:
    """Returns channels with the shapes of symbolic tensors, which may leave other sizes open."""
    return [Channels(tuple(one.shape[1:]), each.labels) for one, each in zip(tensors, channels, strict=True)]

"""Labels the channels of a functional model: one walk over its graph, a rule for each kind of layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from tfprune.channels.labels import FIXED, Channels, Union
from tfprune.network.graph import Step, computed_graph, evaluate

Rule = Callable[["Call"], Sequence[Channels]]


INSIDE = -1
"""The `Slice.input` of a weight that takes channels which the layer itself made."""


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
    """

    operation: Any
    slices: list[Slice] = field(default_factory=list)
    config: dict[str, Callable[["Kept"], Any]] = field(default_factory=dict)
    held: dict[str, Step] = field(default_factory=dict)


Kept = Callable[[np.ndarray], np.ndarray]
"""A function from labels to booleans: those of the channels that stay are true."""


@runtime_checkable
class TracesChannels(Protocol):
    """A layer of one's own that says what becomes of its channels."""

    def trace_channels(self, call: "Call") -> Sequence[Channels]:
        """Returns the channels of each output; `call` takes note of the weights' axes."""


class Call:
    """One call of a layer or an operation, as a rule sees it.

    Attributes:
        layer: The layer, without a pruning wrapper, or the operation.
        args: Its positional arguments, with `Channels` in place of each tensor.
        kwargs: Its named arguments, likewise.
        inputs: The channels of its inputs.
        shapes: The shapes of its outputs, without the batch's axis.
        outputs: The channels of its outputs, once the rule has returned them.
        slices: The axes of its weights that the rule noted.
        mixes: Whether it computes with channels together.
        by_place: Whether several tensors meet, value by value.
    """

    def __init__(self, trace: "Trace", step: Step) -> None:
        self.layer = self._operation = step.operation
        self.args, self.kwargs, self.inputs = step.args, step.kwargs, step.inputs
        self.shapes = [tuple(tensor.shape[1:]) for tensor in step.outputs]
        self.outputs: Sequence[Channels] = ()
        self.slices: list[Slice] = []
        self.mixes = self.by_place = False
        self._trace = trace
        self._held: list[Channels] = []

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
        self._trace.cut_of(self._operation).held[setting] = step
        self._held = step.inputs
        return self._trace.step(step, holder=self)

    def holds(self, call: "Call") -> None:
        """Notes what a call inside this one does as what this one does."""
        self.mixes |= call.mixes
        for one in call.slices:
            taken = one.input if call.inputs is self._held else INSIDE
            self.slices.append(replace(one, input=taken))

    def mask(self, variable: keras.Variable, mask: keras.Variable) -> None:
        """Notes that a weight counts where its mask is true: the mask is cut as the weight is."""
        self._trace.masks[id(variable)] = mask
        for old in list(self.slices):
            if old.variable is variable:
                self.weight(mask, old.axis, old.labels, "masks", old.input)

    def new(self, count: int) -> np.ndarray:
        """Returns labels of new channels that the layer makes."""
        return self._trace.union.new(count, self.name)

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
            role, which: `Slice.role` and `Slice.input`.
        """
        if variable is not None:
            noted = Slice(self.layer, variable, axis, labels, role, which)
            self._trace.add(self._operation, noted)
            self.slices.append(noted)

    def config(self, name: str, value: np.ndarray | Callable[[Kept], Any]) -> None:
        """Notes that an entry of the layer's configuration is the number of kept labels, or a function."""
        if isinstance(value, np.ndarray):
            labels = value
            value = lambda kept: int(kept(labels).sum())  # noqa: E731 (one line is clearer here)
        self._trace.cut_of(self._operation).config[name] = value

    def stay(self, reason: str) -> list[Channels]:
        """Fixes all inputs; returns fixed outputs."""
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
        unknown: Names of layers without a rule -> their classes.
    """

    def __init__(self, rules: Callable[[Any], Rule | None]) -> None:
        self.union, self.cuts, self.mixed = Union(), {}, {}
        self.masks: dict[int, keras.Variable] = {}
        self.calls: list[Call] = []
        self.unknown: dict[str, str] = {}
        self._rules = rules
        self._nested: dict[int, list[Channels]] = {}

    def run(self, model: Any) -> None:
        """Labels the channels of a functional model; its inputs and outputs stay."""
        inputs = [Channels.fixed(tensor.shape[1:]) for tensor in model.inputs]
        for channels in evaluate(model, inputs, self.step):
            self.union.fix(channels.labels, "output of the model")

    def cut_of(self, operation: Any) -> Cut:
        """Returns what is noted of a layer or an operation."""
        return self.cuts.setdefault(id(operation), Cut(operation))

    def add(self, operation: Any, new: Slice) -> None:
        """Notes a slice; a layer that is called again has the same channels again."""
        slices = self.cut_of(operation).slices
        for old in slices:
            if old.variable is new.variable and old.axis == new.axis and old.role == new.role:
                self.union.unite(old.labels, new.labels)
                return
        size = new.variable.shape[new.axis]
        if len(new.labels) != size:
            raise ValueError(
                f"`labels` must have one label for each of the {size} places of axis {new.axis} of "
                f"{new.variable.path}. Received: {len(new.labels)} labels from layer {new.layer.name!r}"
            )
        slices.append(new)

    def step(self, step: Step, holder: Call | None = None) -> Sequence[Channels]:
        """Returns the channels of the outputs of a call in the graph, or of one inside `holder`."""
        operation = step.operation
        graph = computed_graph(operation)
        if graph is not None:
            before = self._nested.setdefault(id(operation), step.inputs)
            for old, new in zip(before, step.inputs, strict=True):
                if old is not new:
                    self.union.unite(old.labels, new.labels)
            return evaluate(graph, step.inputs, lambda inner: self.step(inner, holder))
        self.cut_of(operation)
        call = Call(self, step)
        call.outputs = self.outputs(call)
        if holder is None:
            self.calls.append(call)
        else:
            holder.holds(call)
        return call.outputs

    def outputs(self, call: Call) -> Sequence[Channels]:
        """Returns the channels of the outputs of a call, by the layer's own rule or by one of `rules`."""
        if isinstance(call.layer, TracesChannels):
            return call.layer.trace_channels(call)
        rule = self._rules(call.layer)
        if rule is None:
            kind = type(call.layer).__name__
            self.unknown[call.name] = kind
            return call.stay(f"{kind} has no rule for its channels")
        return rule(call)

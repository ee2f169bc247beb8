"""Channel groups: the layers whose channels must go together, what is fixed, and why."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.labels import FIXED
from tfprune.channels.rules import rule_of
from tfprune.channels.trace import Slice, Trace
from tfprune.network.graph import Graph, all_layers, computed_graph
from tfprune.network.kinds import builtin_layer


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels of several layers that are cut alike.

    Attributes:
        layers: Names of the layers that make the channels.
        takers: Names of the layers that take them.
        channels: The number of channels: sets of values that go together, each whole.
        fixed: Why none of them is cut; empty where they can be.
    """

    layers: tuple[str, ...]
    takers: tuple[str, ...]
    channels: int
    fixed: str = ""
    sets: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False)

    def __str__(self) -> str:
        text = f"{self.channels} channels of {', '.join(self.layers)}"
        return f"{text}: fixed, {self.fixed}" if self.fixed else text


class Traced:
    """The channels of a model, in sets that go together, and the groups of alike sets.

    Attributes:
        model: The model.
        trace: What its layers do with channels.
        sets: For each label the number of its set; 0 for what is fixed.
        count: The number of sets, the fixed one counted.
    """

    def __init__(self, model: keras.Model) -> None:
        graph = computed_graph(model)
        if graph is None:
            advice = (
                "begin it with a `keras.Input`"
                if isinstance(model, keras.Sequential)
                else "write a subclassed one with the functional API, or cut the functional models in it"
            )
            raise ValueError(
                "`model` must be functional or Sequential and built, so that its channels can be followed: "
                f"{advice}. Received: model={model!r}"
            )
        self.model, self.trace = model, Trace(rule_of)
        self.trace.run(graph)
        roots = self.trace.union.find(np.arange(len(self.trace.union)))
        self._roots, self.sets = np.unique(roots, return_inverse=True)
        self.count = len(self._roots)

    @cached_property
    def slices(self) -> list[Slice]:
        """The axes of weights that number channels, each once for each role."""
        every = (one for cut in self.trace.cuts.values() for one in cut.slices)
        found: dict[tuple[int, int, str], Slice] = {}
        for one in every:  # Of a layer that is called in a wrapper and without it, each call has noted them.
            found.setdefault((id(one.variable), one.axis, one.role), one)
        return list(found.values())

    def values(self, variable: keras.Variable) -> np.ndarray:
        """Returns the values of a weight, zeros where its mask removes it."""
        values = np.asarray(ops.convert_to_numpy(variable))
        mask = self.trace.masks.get(id(variable))
        return values if mask is None else np.where(ops.convert_to_numpy(mask), values, values.dtype.type(0))

    @cached_property
    def norms(self) -> dict[int, keras.layers.BatchNormalization]:
        """The BatchNorms that alone take all that a linear layer makes: id of the layer -> BatchNorm."""
        inner = {id(call.operation): call.layer for call in self.trace.calls}
        graph = Graph(computed_graph(self.model), lambda operation: inner.get(id(operation), operation))
        made = {id(one.layer): one.labels for one in self.slices if one.role == "makes"}
        scaled = {id(one.variable): one.labels for one in self.slices if one.role == "scales"}
        found = {}
        for layer in graph.operations:
            consumers = graph.consumers(layer)
            if len(consumers) != 1 or any(layer is output for output in graph.outputs):
                continue
            (norm,) = consumers
            if (
                builtin_layer(norm) == "BatchNormalization"
                and graph.producers(norm) == [layer]
                and getattr(layer, "activation", None) is keras.activations.linear
                and np.array_equal(made.get(id(layer)), scaled.get(id(norm.moving_mean)))
            ):
                found[id(layer)] = norm
        return found

    @cached_property
    def mixed(self) -> dict[int, str]:
        """Set -> which layer computes with its channels together with others, and how."""
        return {int(self.sets[label]): why for label, why in self.trace.mixed.items()}

    @cached_property
    def together(self) -> list[np.ndarray]:
        """The sets along each axis of a weight or a tensor, each once: one of them at least must stay."""
        return self.together_of()

    def together_of(
        self, needed: Collection[int] | None = None, without: Mapping[int, Collection[int]] | None = None
    ) -> list[np.ndarray]:
        """Returns the sets along each axis of a weight or a tensor of a part of the model, each once.

        Args:
            needed: Ids of the tensors that the part makes; None for all.
            without: id of the first tensor that a call returns -> numbers of the inputs that it does without.
        """
        found: dict[bytes, np.ndarray] = {}
        labels: list[np.ndarray] = []
        parts: set[int] = set()
        for call in self.trace.calls:
            if needed is not None and id(call.tensors[0]) not in needed:
                continue
            parts |= set(map(id, _parts(call.operation)))
            left_out = (without or {}).get(id(call.tensors[0]), ())
            given = [one for at, one in enumerate(call.inputs) if at not in left_out]
            labels += [channels.labels.ravel() for channels in [*given, *call.outputs]]
        for number, cut in self.trace.cuts.items():
            if number in parts:
                labels += [one.labels for one in cut.slices]
        for each in labels:
            sets = np.unique(self.sets[each])
            found.setdefault(sets.tobytes(), sets)
        return [sets for sets in found.values() if sets[0] != FIXED]

    @cached_property
    def groups(self) -> list[ChannelGroup]:
        """The groups, in the order of the layers; those that are fixed too."""
        return _groups(self)


def _parts(operation: Any) -> list[Any]:
    """Returns a layer and the layers inside it; an operation itself."""
    return all_layers(operation) if isinstance(operation, keras.layers.Layer) else [operation]


def channel_groups(model: keras.Model) -> list[ChannelGroup]:
    """Finds which channels of a model must be cut together, and which cannot be.

    Args:
        model: A built functional or Sequential model, nested models in it too, wrapped for pruning or not.

    Returns:
        The groups, in the order of the layers that make them.

    Raises:
        ValueError: If the model is subclassed or not built.
    """
    return Traced(model).groups


def _groups(traced: Traced) -> list[ChannelGroup]:
    """Joins the sets that the same layers make."""
    union = traced.trace.union
    block_of = union.block(np.arange(len(union)))
    pairs = np.unique(np.stack([traced.sets, block_of], 1), axis=0)
    numbers, starts = np.unique(pairs[:, 0], return_index=True)
    alike: dict[tuple, list[int]] = {}
    for number, blocks in zip(numbers.tolist(), np.split(pairs[:, 1], starts[1:]), strict=True):
        if number != FIXED:
            alike.setdefault(tuple(blocks.tolist()), []).append(number)
    # The layers are the same for all sets of a group: they are looked up for the first.
    group_of = np.full(traced.count, -1)
    group_of[[sets[0] for sets in alike.values()]] = np.arange(len(alike))
    makers: list[dict[str, None]] = [{} for _ in alike]
    takers: list[dict[str, None]] = [{} for _ in alike]
    for one in traced.slices:
        which = {"makes": makers, "takes": takers}.get(one.role)
        if which is not None:
            for group in np.unique(group_of[traced.sets[one.labels]]):
                if group >= 0:
                    which[group][one.layer.name] = None
    found = [
        ChannelGroup(tuple(makers[group]), tuple(takers[group]), len(sets), "", np.array(sets))
        for group, sets in enumerate(alike.values())
        if makers[group]
    ]
    return found + _fixed_groups(traced)


def _fixed_groups(traced: Traced) -> list[ChannelGroup]:
    union = traced.trace.union
    found: dict[str, ChannelGroup] = {}
    for one in traced.slices:
        if one.role != "makes" or one.layer.name in found:
            continue
        fixed = one.labels[traced.sets[one.labels] == FIXED]
        fixed = fixed[fixed != FIXED]
        if len(fixed):
            reason = union.reason(fixed[0]) or "it goes together with what is fixed"
            found[one.layer.name] = ChannelGroup((one.layer.name,), (), len(fixed), reason)
    return list(found.values())

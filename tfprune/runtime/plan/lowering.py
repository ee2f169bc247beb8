"""Lowers a graph: each operation becomes steps."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfprune.runtime.graph import (
    Activation,
    Add,
    Concatenate,
    Conv,
    Flatten,
    GlobalPool,
    Graph,
    Input,
    Multiply,
    Node,
    Pool,
)
from tfprune.runtime.kernels import planes, vectors
from tfprune.runtime.machine import Machine
from tfprune.runtime.plan.arena import VECTOR_SLACK
from tfprune.runtime.plan.convolution import lower_conv, make_flat
from tfprune.runtime.plan.layout import Value, is_vector
from tfprune.runtime.plan.parts import Even
from tfprune.runtime.plan.plan import Plan
from tfprune.runtime.plan.planner import Planner
from tfprune.runtime.plan.pool import lower_pool


def make_plan(
    graph: Graph,
    target: Machine,
    allowed: float = math.inf,
    arenas: int = 1,
    *,
    compact: bool = False,
    tight: bool = False,
) -> Plan:
    """Makes the steps of a network.

    Args:
        graph: The network.
        target: The machine.
        allowed: The bytes that its values, weights and tables may take.
        arenas: How many images are classified at a time, each with values of its own.
        compact: Whether weights are rounded to 8 bits, with a scale for each output channel, and their places
            take as few bits as they need. Computed is in float32.
        tight: Whether values take as little memory as they can, and are cleared before they are written.

    Returns:
        The plan.

    Raises:
        GraphError: The graph breaks a rule, or needs what no kernel does, or more memory than is allowed.
    """
    planner = Planner(graph, target, allowed, arenas, compact, tight)
    for index, node in enumerate(graph.nodes):
        planner.begin(index)
        _LOWERINGS[type(node)](planner, index, node)
        planner.end()
    return planner.plan()


def _lower_input(planner: Planner, index: int, node: Input) -> None:
    height, width, channels = node.shape
    for value in planner.image_values:
        down, right = value.strides
        channel, row, column = np.indices((channels, down, right)).reshape(3, -1)
        first = (row * width + column) * channels + channel
        table = np.stack([first, -(-(height - row) // down), -(-(width - column) // right)], axis=1)
        lies = {"plane": 1, "pitch": 1}
        if value.is_split or not is_vector(node.shape):
            geometry = planner.geometry(value)
            lies = {"plane": geometry.plane, "pitch": geometry.pitch}
        phases = down * right
        planner.add(
            planes.Image(),
            lies
            | {
                "target": planner.place(value),
                "row_step": down * width * channels,
                "column_step": right * channels,
                "table": table.astype(np.int32),
                "scales": np.repeat(node.scale, phases),
                "shifts": np.repeat(node.shift, phases),
            },
            Even(channels * phases),
        )


def _lower_global_pool(planner: Planner, index: int, node: GlobalPool) -> None:
    source = Value(node.inputs[0])
    shape = planner.shape(source)
    if is_vector(shape):
        _map(planner, Value(index), source, None, "copy")
        return
    geometry = planner.geometry(source)
    planner.add(
        vectors.GlobalPool(kind=node.kind),
        {
            "source": planner.place(source),
            "target": planner.place(Value(index)),
            "plane": geometry.plane,
            "mask": planner.mask(source),
            "vectors": -(-geometry.positions // planner.target.lanes),
            "scale": int(np.float32(1 / (shape[0] * shape[1])).view(np.int32)),
        },
        Even(shape[2]),
    )


def _lower_add(planner: Planner, index: int, node: Add) -> None:
    first = Value(node.inputs[0])
    for position, second in enumerate(node.inputs[1:], start=1):
        is_last = position == len(node.inputs) - 1
        _map(planner, Value(index), first, Value(second), "add", node.activation if is_last else "linear")
        first = Value(index)


def _lower_multiply(planner: Planner, index: int, node: Multiply) -> None:
    first, second = (Value(source) for source in node.inputs)
    same = planner.shape(first) == planner.shape(second)
    _map(planner, Value(index), first, second, "multiply" if same else "multiply_by_channel")


def _lower_activation(planner: Planner, index: int, node: Activation) -> None:
    _map(planner, Value(index), Value(node.inputs[0]), None, "copy", node.activation)


def _lower_concatenate(planner: Planner, index: int, node: Concatenate) -> None:
    channel = 0
    for source in node.inputs:
        _map(planner, Value(index), Value(source), None, "copy", channel=channel)
        channel += planner.shapes[source][2]


def _lower_flatten(planner: Planner, index: int, node: Flatten) -> None:
    source = Value(node.inputs[0])
    if is_vector(planner.shape(source)):
        _map(planner, Value(index), source, None, "copy")
    else:
        make_flat(planner, source, planner.place(Value(index)))


def _map(
    planner: Planner,
    target: Value,
    first: Value,
    second: Value | None,
    operation: str,
    activation: str = "linear",
    channel: int = 0,
) -> None:
    """Adds a step that works value by value, into the target from a channel on."""
    shape = planner.shape(first)
    softmax, activation = activation == "softmax", activation.replace("softmax", "linear")
    if is_vector(shape):
        # Planes that follow one another, all of their numbers pixels.
        lanes = planner.target.lanes
        count = min(VECTOR_SLACK // lanes, -(-shape[2] // lanes))
        lies = {"plane": count * lanes, "mask": planner.vector_mask(), "vectors": count}
        parts, start = Even(-(-shape[2] // (count * lanes))), channel
    else:
        geometry = planner.geometry(first)
        count = -(-geometry.positions // planner.target.lanes)
        lies = {"plane": geometry.plane, "mask": planner.mask(first), "vectors": count}
        parts, start = Even(shape[2]), channel * geometry.plane
    planner.add(
        planes.Map(operation=operation, activation=activation),
        lies
        | {
            "first": planner.place(first),
            "second": planner.place(second) if second else 0,
            "target": planner.place(target) + start,
        },
        parts,
    )
    if softmax:
        add_softmax(planner, planner.place(target), shape[2])


def add_softmax(planner: Planner, place: int, count: int) -> None:
    """Adds the softmax of a vector, in its place."""
    planner.add(vectors.Softmax(), {"source": place, "target": place, "count": count}, Even(1))


def _lower_conv(planner: Planner, index: int, node: Conv) -> None:
    lower_conv(planner, index, node)
    if node.activation == "softmax":
        add_softmax(planner, planner.place(Value(index)), planner.shapes[index][2])


_LOWERINGS: dict[type[Node], Callable[[Planner, int, Any], None]] = {
    Input: _lower_input,
    Conv: _lower_conv,
    Pool: lower_pool,
    GlobalPool: _lower_global_pool,
    Add: _lower_add,
    Multiply: _lower_multiply,
    Activation: _lower_activation,
    Concatenate: _lower_concatenate,
    Flatten: _lower_flatten,
}

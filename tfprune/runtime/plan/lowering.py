"""Each operation of a graph as steps."""

import functools
import math

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
from tfprune.runtime.plan.convolution import lower_conv, make_flat
from tfprune.runtime.plan.layout import is_vector
from tfprune.runtime.plan.plan import Plan, even, whole
from tfprune.runtime.plan.pool import lower_pool


def make_plan(graph: Graph, target: Machine) -> Plan:
    """Makes the steps of a network.

    Args:
        graph: The network.
        target: The machine.

    Returns:
        The plan.

    Raises:
        GraphError: The graph breaks a rule, or needs what no kernel does.
    """
    plan = Plan(graph, target)
    plan.require_memory(max(math.prod(shape) for shape in plan.shapes))
    for index, node in enumerate(graph.nodes):
        plan.begin(index)
        _LOWERINGS[type(node)](plan, index, node)
        plan.end()
    plan.require_memory(plan.arena.size)
    return plan


def _lower_input(plan: Plan, index: int, node: Input) -> None:
    height, width, channels = node.shape
    for key in sorted(plan.wanted(index) or {(index,)}, key=str):
        down, right = key[1] if len(key) > 1 else (1, 1)
        table = [
            (
                (row * width + column) * channels + channel,
                -(-(height - row) // down),
                -(-(width - column) // right),
            )
            for channel in range(channels)
            for row in range(down)
            for column in range(right)
        ]
        lies = {"plane": 1, "pitch": 1}
        if len(key) > 1 or not is_vector(node.shape):
            lies = {"plane": plan.geometry(key).plane, "pitch": plan.geometry(key).pitch}
        phases = down * right
        plan.add(
            ("image",),
            planes.emit_image,
            planes.IMAGE_PARAMETERS,
            lies
            | {
                "target": plan.place(key),
                "row_step": down * width * channels,
                "column_step": right * channels,
                "table": np.array(table, np.int64),
                "scales": np.repeat(node.scale, phases),
                "shifts": np.repeat(node.shift, phases),
            },
            even(channels * phases),
        )


def _lower_global_pool(plan: Plan, index: int, node: GlobalPool) -> None:
    source = (node.inputs[0],)
    shape = plan.shape(source)
    if is_vector(shape):
        _map(plan, (index,), source, None, "copy")
        return
    geometry = plan.geometry(source)
    plan.add(
        ("global_pool", node.kind),
        functools.partial(vectors.emit_global_pool, kind=node.kind),
        vectors.GLOBAL_POOL_PARAMETERS,
        {
            "source": plan.place(source),
            "target": plan.place((index,)),
            "plane": geometry.plane,
            "mask": plan.mask(source),
            "vectors": -(-geometry.positions // plan.target.lanes),
            "scale": int(np.float32(1 / (shape[0] * shape[1])).view(np.int32)),
        },
        even(shape[2]),
    )


def _lower_add(plan: Plan, index: int, node: Add) -> None:
    first = (node.inputs[0],)
    for position, second in enumerate(node.inputs[1:], start=1):
        is_last = position == len(node.inputs) - 1
        _map(plan, (index,), first, (second,), "add", node.activation if is_last else "linear")
        first = (index,)


def _lower_multiply(plan: Plan, index: int, node: Multiply) -> None:
    first, second = ((source,) for source in node.inputs)
    same = plan.shape(first) == plan.shape(second)
    _map(plan, (index,), first, second, "multiply" if same else "multiply_by_channel")


def _lower_activation(plan: Plan, index: int, node: Activation) -> None:
    _map(plan, (index,), (node.inputs[0],), None, "copy", node.activation)


def _lower_concatenate(plan: Plan, index: int, node: Concatenate) -> None:
    channel = 0
    for source in node.inputs:
        _map(plan, (index,), (source,), None, "copy", channel=channel)
        channel += plan.shapes[source][2]


def _lower_flatten(plan: Plan, index: int, node: Flatten) -> None:
    source = (node.inputs[0],)
    if is_vector(plan.shape(source)):
        _map(plan, (index,), source, None, "copy")
    else:
        make_flat(plan, source, plan.place((index,)))


def _map(
    plan: Plan,
    target: tuple,
    first: tuple,
    second: tuple | None,
    operation: str,
    activation: str = "linear",
    channel: int = 0,
) -> None:
    """Adds a step that works value by value, into the target from a channel on."""
    shape = plan.shape(first)
    softmax, activation = activation == "softmax", activation.replace("softmax", "linear")
    if is_vector(shape):
        # One plane of as many numbers as the vector has, all of them pixels.
        count = -(-shape[2] // plan.target.lanes)
        mask = np.full(count * plan.target.lanes, -1, np.int32).view(np.float32)
        lies = {"plane": 0, "mask": mask, "vectors": count}
        share, start = whole(1), channel
    else:
        geometry = plan.geometry(first)
        count = -(-geometry.positions // plan.target.lanes)
        lies = {"plane": geometry.plane, "mask": plan.mask(first), "vectors": count}
        share, start = even(shape[2]), channel * geometry.plane
    plan.add(
        ("map", operation, activation),
        functools.partial(planes.emit_map, operation=operation, activation=activation),
        planes.MAP_PARAMETERS,
        lies
        | {
            "first": plan.place(first),
            "second": plan.place(second) if second else 0,
            "target": plan.place(target) + start,
        },
        share,
    )
    if softmax:
        add_softmax(plan, plan.place(target), shape[2])


def add_softmax(plan: Plan, place: int, count: int) -> None:
    """Adds the softmax of a vector, in its place."""
    plan.add(
        ("softmax",),
        vectors.emit_softmax,
        vectors.SOFTMAX_PARAMETERS,
        {"source": place, "target": place, "count": count},
        whole(1),
    )


def _lower_conv(plan: Plan, index: int, node: Conv) -> None:
    lower_conv(plan, index, node)
    if node.activation == "softmax":
        add_softmax(plan, plan.place((index,)), plan.shapes[index][2])


_LOWERINGS: dict[type[Node], object] = {
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

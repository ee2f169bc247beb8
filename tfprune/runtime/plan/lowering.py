"""Lowers a graph: each operation becomes steps."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfprune.runtime.graph import (
    ACROSS_CHANNELS,
    Activation,
    Add,
    Combine,
    Concatenate,
    Constant,
    Conv,
    Embedding,
    Flatten,
    Gather,
    GlobalPool,
    Graph,
    Input,
    MatMul,
    Multiply,
    Node,
    Normalize,
    Pool,
    Quantize,
    Recurrent,
    Shape,
)
from tfprune.runtime.kernels import integer_convolution, normalization, planes, vectors
from tfprune.runtime.machine import Machine
from tfprune.runtime.plan.arena import VECTOR_SLACK
from tfprune.runtime.plan.convolution import lower_conv
from tfprune.runtime.plan.copies import gather, lies, make_flat
from tfprune.runtime.plan.layout import Value, is_vector
from tfprune.runtime.plan.lookup import lower_embedding
from tfprune.runtime.plan.parts import Even
from tfprune.runtime.plan.plan import Plan
from tfprune.runtime.plan.planner import Planner, float_bits
from tfprune.runtime.plan.pool import lower_pool
from tfprune.runtime.plan.recurrent import lower_recurrent

# An activation and its settings.
_LINEAR = ("linear", ())


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
    for value in planner.image_values(index):
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
                "image": index * planes.IMAGE_WORDS,
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
            "scale": float_bits(1 / (shape[0] * shape[1])),
        },
        Even(shape[2]),
    )


def _lower_add(planner: Planner, index: int, node: Add) -> None:
    first = Value(node.inputs[0])
    for position, second in enumerate(node.inputs[1:], start=1):
        is_last = position == len(node.inputs) - 1
        function = (node.activation, node.settings) if is_last else _LINEAR
        _map(planner, Value(index), first, Value(second), "add", function)
        first = Value(index)


def _lower_multiply(planner: Planner, index: int, node: Multiply) -> None:
    _map(planner, Value(index), *map(Value, node.inputs), "multiply")


def _lower_combine(planner: Planner, index: int, node: Combine) -> None:
    _map(planner, Value(index), *map(Value, node.inputs), node.operation)


def _lower_constant(planner: Planner, index: int, node: Constant) -> None:
    height, width, channels = node.value.shape
    values = np.ascontiguousarray(node.value.transpose(2, 0, 1))
    places = (np.arange(height) * width, np.arange(width), np.arange(channels) * height * width)
    gather(planner, Value(index), values, places)


def _lower_gather(planner: Planner, index: int, node: Gather) -> None:
    source = Value(node.inputs[0])
    shape = planner.shape(source)
    plane, pitch = lies(planner, source)
    steps = np.array([pitch, 1, plane])
    places = [steps @ axis for axis in node.places(shape)]
    gather(planner, Value(index), planner.place(source), places)


def _lower_activation(planner: Planner, index: int, node: Activation) -> None:
    _map(planner, Value(index), Value(node.inputs[0]), None, "copy", (node.activation, node.settings))


def _lower_concatenate(planner: Planner, index: int, node: Concatenate) -> None:
    start = [0, 0, 0]
    for source in map(Value, node.inputs):
        shape = planner.shape(source)
        if node.axis == 2:
            _map(planner, Value(index), source, None, "copy", channel=start[2])
        else:
            plane, pitch = lies(planner, source)
            places = [np.arange(size) * step for size, step in zip(shape, (pitch, 1, plane), strict=True)]
            gather(planner, Value(index), planner.place(source), places, tuple(start[:2]))
        start[node.axis] += shape[node.axis]


def _lower_matmul(planner: Planner, index: int, node: MatMul) -> None:
    first, second = map(Value, node.inputs)
    target = Value(index)
    height, width, channels = planner.shape(first)
    vector = is_vector((height, width, channels))
    planes_of = {
        f"{name}_{what}": distance
        for name, value in (("first", first), ("second", second), ("target", target))
        for what, distance in zip(("plane", "pitch"), lies(planner, value), strict=True)
    }
    planner.add(
        planes.MatMul(vector=is_vector(planner.shape(target)) or vector),
        planes_of
        | {
            "first": planner.place(first),
            "second": planner.place(second),
            "target": planner.place(target),
            "rows": height,
            "columns": width,
            "vectors": -(-width // planner.target.lanes),
            "channels": channels,
            "mask": planner.vector_mask() if vector else planner.mask(first),
        },
        Even(planner.shape(target)[2]),
    )


def _lower_normalize(planner: Planner, index: int, node: Normalize) -> None:
    source, target = Value(node.inputs[0]), Value(index)
    height, width, channels = planner.shape(source)
    vector = is_vector((height, width, channels))
    over = "pixel" if vector else node.over
    count = channels // node.groups * (height * width if over == "image" else 1)
    lies = {"plane": 1, "mask": planner.vector_mask(), "vectors": 1}
    parts = Even(1)
    if not vector:
        geometry = planner.geometry(source)
        vectors_ = -(-geometry.positions // planner.target.lanes)
        lies = {"plane": geometry.plane, "mask": planner.mask(source), "vectors": vectors_}
        parts = Even(vectors_ if over == "pixel" else node.groups)
    planner.add(
        normalization.Normalize(over=over, vector=vector, centered=node.centered),
        lies
        | {
            "source": planner.place(source),
            "target": planner.place(target),
            "groups": node.groups,
            "channels": channels // node.groups,
            "scale": node.scale,
            "shift": node.shift,
            "numbers": np.array([node.epsilon, 1 / count], np.float32),
        },
        parts,
    )


def _lower_quantize(planner: Planner, index: int, node: Quantize) -> None:
    source = Value(node.inputs[0])
    vector = is_vector(planner.shape(source))
    for target in (Value(index, in_bytes=True), Value(index)):
        # A convolution of whole numbers may have written the steps.
        if not planner.is_read(target) or planner.has_place(target):
            continue
        plane, mask = VECTOR_SLACK, planner.vector_mask()
        count = VECTOR_SLACK // planner.target.lanes
        parts = Even(-(-planner.shape(source)[2] // VECTOR_SLACK))
        if not vector:
            geometry = planner.geometry(source)
            plane, mask = geometry.plane, planner.mask(source)
            count = -(-geometry.positions // planner.target.lanes)
            parts = Even(planner.shape(source)[2])
        planner.add(
            integer_convolution.Quantize(8 if target.in_bytes else 32),
            {
                "source": planner.place(source),
                "target": planner.place(target),
                "plane": plane,
                "mask": mask,
                "vectors": count,
                "inverse": float_bits(1 / node.step),
                "step": float_bits(node.step),
            },
            parts,
        )


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
    function: tuple[str, tuple[float, ...]] = _LINEAR,
    channel: int = 0,
) -> None:
    """Adds a step that works value by value, then an activation, into the target from a channel on."""
    shape = planner.shape(first)
    across = function[0] in ACROSS_CHANNELS
    numbers = "same" if second is None else _second_of(shape, planner.shape(second))
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
        planes.Map(operation, numbers, *(_LINEAR if across else function)),
        lies
        | {
            "first": planner.place(first),
            "second": planner.place(second) if second else 0,
            "target": planner.place(target) + start,
        },
        parts,
    )
    if across:
        _add_softmax(planner, target, function[0])


def _second_of(first: Shape, second: Shape) -> str:
    """Returns how many numbers the second of two values has, one of `planes.SECONDS`."""
    if first == second:
        return "same"
    if is_vector(second):
        return "one" if second[2] == 1 else "channel"
    return "pixel"


def _add_softmax(planner: Planner, value: Value, activation: str) -> None:
    """Adds the softmax over the channels of a value, or its logarithm, in its place."""
    logarithm = activation == "log_softmax"
    shape, place = planner.shape(value), planner.place(value)
    if is_vector(shape):
        arguments = {"source": place, "target": place, "count": shape[2]}
        planner.add(vectors.Softmax(logarithm), arguments, Even(1))
        return
    geometry = planner.geometry(value)
    planner.add(
        normalization.PixelSoftmax(logarithm),
        {
            "source": place,
            "target": place,
            "plane": geometry.plane,
            "mask": planner.mask(value),
            "channels": shape[2],
        },
        Even(-(-geometry.positions // planner.target.lanes)),
    )


def _lower_conv(planner: Planner, index: int, node: Conv) -> None:
    lower_conv(planner, index, node)
    if node.activation in ACROSS_CHANNELS:
        _add_softmax(planner, Value(index), node.activation)


_LOWERINGS: dict[type[Node], Callable[[Planner, int, Any], None]] = {
    Input: _lower_input,
    Constant: _lower_constant,
    Conv: _lower_conv,
    Pool: lower_pool,
    Quantize: _lower_quantize,
    GlobalPool: _lower_global_pool,
    Add: _lower_add,
    Multiply: _lower_multiply,
    Combine: _lower_combine,
    Activation: _lower_activation,
    Concatenate: _lower_concatenate,
    Embedding: lower_embedding,
    Flatten: _lower_flatten,
    Gather: _lower_gather,
    MatMul: _lower_matmul,
    Normalize: _lower_normalize,
    Recurrent: lower_recurrent,
}

"""Nodes that move numbers: slices, permutations, repeats, and values of other shapes.

A Keras tensor of 2, 3 or 4 axes, the batch among them, is a value `[height, width, channels]`: a vector
`[1, 1, channels]`, a signal `[1, time, channels]`, an image.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.compiler.draft import Call, Draft
from tfprune.network.drafts import Value
from tfprune.runtime.errors import GraphError
from tfprune.runtime.graph import Concatenate, Flatten, Gather, Shape

# The batch of a symbolic tensor whose shape is asked for: no other axis is as long.
_BATCH = 104_729


def as_value(sizes: Sequence[int], call: Call) -> Shape:
    """Returns the shape of the value for a Keras tensor.

    Args:
        sizes: The tensor's shape without the batch.
        call: The call that makes it; for the error.

    Raises:
        UserError: It has more axes than a value, or none.
    """
    if not 1 <= len(sizes) <= 3:
        raise call.refuse(f"tensors must have 2 to 4 axes, with the batch. Received: {len(sizes) + 1}")
    return (*(1,) * (3 - len(sizes)), *map(int, sizes))


def sizes_of(draft: Draft, value: Value) -> tuple[int, ...]:
    """Returns the shape of the Keras tensor that a value stands for, without the batch."""
    return draft.shapes[value.node][4 - value.rank :]


def made_sizes(draft: Draft, call: Call) -> tuple[int, ...]:
    """Returns the shape of the tensor that an operation makes of its inputs' shapes, without the batch.

    The shapes in the model may be open where it is nested in another.

    Raises:
        UserError: The operation does more with the batch than hand it on.
    """

    def symbolic(argument: Any) -> Any:
        if not isinstance(argument, Value):
            return argument
        return keras.KerasTensor((_BATCH, *sizes_of(draft, argument)))

    made = call.operation.compute_output_spec(*keras.tree.map_structure(symbolic, list(call.arguments)))
    if not made.shape or made.shape[0] != _BATCH or None in made.shape:
        raise call.refuse(f"it must leave the batch as it is. Received: a result {tuple(made.shape)}")
    return tuple(made.shape[1:])


def axis_of(call: Call, axis: int, rank: int) -> int:
    """Returns the axis of a value that an axis of a Keras tensor is: 0, 1 or 2.

    Args:
        call: The call; for the error.
        axis: The tensor's axis, counted with the batch; perhaps negative.
        rank: The tensor's axes, with the batch.

    Raises:
        UserError: It is the batch's.
    """
    if not -rank <= axis < rank or axis % rank == 0:
        raise call.refuse(f"`axis` must be one of an example's, not the batch's. Received: axis={axis}")
    return axis % rank + 3 - rank


def steps_of(shape: Shape) -> tuple[int, int, int]:
    """Returns the distances of rows, columns and channels among a value's numbers."""
    return shape[1] * shape[2], shape[2], 1


def add_gather(draft: Draft, call: Call, source: int, places: Sequence[Sequence[int]]) -> int:
    """Adds a `Gather`; `places` are its rows, columns and channels."""
    rows, columns, channels = (tuple(int(place) for place in axis) for axis in places)
    return draft.add(Gather(call.name, (source,), rows, columns, channels), call)


def select(draft: Draft, call: Call, source: int, indices: dict[int, Sequence[int]]) -> int:
    """Adds the node that takes some rows, columns or channels, in any order.

    Args:
        draft: The draft.
        call: The call that asks for it.
        source: The value.
        indices: Axis of the value -> indices along it; an axis that is left out stays as it is.
    """
    shape = draft.shapes[source]
    if all(list(places) == list(range(shape[axis])) for axis, places in indices.items()):
        return source
    if not all(len(places) for places in indices.values()):
        raise call.refuse("nothing is left of it")
    steps = steps_of(shape)
    places = [
        [int(index) * steps[axis] for index in indices.get(axis, range(shape[axis]))] for axis in range(3)
    ]
    return add_gather(draft, call, source, places)


def permute(draft: Draft, call: Call, source: int, order: Sequence[int]) -> int:
    """Adds the node that puts the axes of a value in another order; axis i is to be what `order[i]` was."""
    shape = draft.shapes[source]
    moving = [axis for axis in order if shape[axis] > 1]
    if moving == sorted(moving):  # Numbers stay where they are, among each other.
        return reshape(draft, call, source, tuple(shape[axis] for axis in order))
    steps = steps_of(shape)
    return add_gather(draft, call, source, [np.arange(shape[axis]) * steps[axis] for axis in order])


def reshape(draft: Draft, call: Call, source: int, shape: Shape) -> int:
    """Adds the nodes that give the numbers of a value another shape, in their order."""
    old = draft.shapes[source]
    if math.prod(old) != math.prod(shape):
        raise call.refuse(f"it must keep all numbers. Received: {old} to {shape}")
    if old == shape:
        return source
    if shape[:2] == (1, 1):
        return draft.add(Flatten(call.name, (source,)), call)
    steps = steps_of(shape)
    places = [range(0, size * step, step) for size, step in zip(shape, steps, strict=True)]
    node = Gather(call.name, (source,), *map(tuple, places))
    try:
        node.output_shape([old])
    except GraphError:  # Rows would be taken from the middle of rows.
        source = draft.add(Flatten(call.name, (source,)), call)
    return add_gather(draft, call, source, places)


def broadcast(draft: Draft, call: Call, source: int, shape: Shape) -> int:
    """Adds the node that repeats the only row, column or channel of a value as often as a shape asks for."""
    old = draft.shapes[source]
    axes = [axis for axis in range(3) if old[axis] != shape[axis]]
    return select(draft, call, source, {axis: [0] * shape[axis] for axis in axes})


def on_last_axis(draft: Draft, call: Call, source: int, axis: int, rule: Any) -> int:
    """Adds nodes that compute along the channels what is wanted along another axis.

    Args:
        draft: The draft.
        call: The call that asks for it.
        source: The value.
        axis: The axis of the value that is wanted.
        rule: Adds the nodes; from the value with this axis as its channels to a value of the same shape.
    """
    if axis == 2:
        return rule(source)
    order = [0, 1, 2]
    order[axis], order[2] = 2, axis
    return permute(draft, call, rule(permute(draft, call, source, order)), order)


# Rules of layers and operations.


def add_made_shape(draft: Draft, call: Call) -> int:
    """Adds what gives a tensor the shape that the operation says, all its numbers in their order."""
    return reshape(draft, call, call.input.node, as_value(made_sizes(draft, call), call))


def add_reshape(draft: Draft, call: Call) -> int:
    """Adds what a `Reshape` or a `Flatten` layer becomes."""
    sizes = call.operation.compute_output_shape((1, *sizes_of(draft, call.input)))[1:]
    return reshape(draft, call, call.input.node, as_value(sizes, call))


def _permutation(draft: Draft, call: Call, order: Sequence[int]) -> int:
    """Permutes a Keras tensor; `order` has all of its axes, with the batch."""
    rank = call.input.rank
    if order[0] != 0:
        raise call.refuse(f"it must leave the batch first. Received: the axes {tuple(order)}")
    missing = 4 - rank
    places = [*range(missing), *(axis + missing - 1 for axis in order[1:])]
    return permute(draft, call, call.input.node, places)


def add_permute(draft: Draft, call: Call) -> int:
    """Adds what a `Permute` layer becomes."""
    return _permutation(draft, call, (0, *call.operation.dims))


def add_transpose(draft: Draft, call: Call) -> int:
    """Adds what `ops.transpose` becomes."""
    rank = call.input.rank
    axes = call.operation.axes or range(rank)[::-1]
    return _permutation(draft, call, [axis % rank for axis in axes])


def add_moved_axes(draft: Draft, call: Call) -> int:
    """Adds what `ops.swapaxes` or `ops.moveaxis` becomes."""
    operation, rank = call.operation, call.input.rank
    marks = np.zeros(tuple(range(2, 2 + rank)), np.int8)  # Each axis has a size of its own.
    if hasattr(operation, "axis1"):
        marks = np.swapaxes(marks, operation.axis1, operation.axis2)
    else:
        marks = np.moveaxis(marks, operation.source, operation.destination)
    return _permutation(draft, call, [size - 2 for size in marks.shape])


def add_item(draft: Draft, call: Call) -> int:
    """Adds what a slice such as `x[:, ::2, :, 0]` becomes."""
    value, key = call.arguments
    keys = [one for one in (key if isinstance(key, tuple | list) else [key]) if one is not None]
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (value.rank - len(keys) + 1)
    keys += [slice(None)] * (value.rank - len(keys))
    sizes, indices = sizes_of(draft, value), {}
    if keys[0] not in (slice(None), slice(None, None, 1)):
        raise call.refuse(f"it must take all of the batch. Received: {keys[0]}")
    for axis, (one, size) in enumerate(zip(keys[1:], sizes, strict=True), start=1):
        if not isinstance(one, slice | int | np.integer):
            raise call.refuse(f"it must take slices and numbers. Received: {one!r}")
        places = range(size)[one] if isinstance(one, slice) else [int(one) % size]
        indices[axis_of(call, axis, value.rank)] = places
    node = select(draft, call, value.node, indices)
    return reshape(draft, call, node, as_value(made_sizes(draft, call), call))


def _along_axes(draft: Draft, call: Call, axes: Any, taken: Any) -> int:
    """Selects along some axes of a Keras tensor: `taken` makes the indices of an axis from its size."""
    value, indices = call.input, {}
    if axes is None:
        raise call.refuse("`axis` must be given. Received: axis=None")
    for one in np.atleast_1d(axes):
        axis = axis_of(call, int(one), value.rank)
        indices[axis] = taken(indices.get(axis, range(draft.shapes[value.node][axis])))
    return select(draft, call, value.node, indices)


def add_flip(draft: Draft, call: Call) -> int:
    """Adds what `ops.flip` becomes."""
    return _along_axes(draft, call, call.operation.axis, lambda places: places[::-1])


def add_roll(draft: Draft, call: Call) -> int:
    """Adds what `ops.roll` becomes, with one shift."""
    shift = call.operation.shift
    if np.ndim(shift):
        raise call.refuse(f"`shift` must be one number. Received: shift={shift}")
    return _along_axes(draft, call, call.operation.axis, lambda places: np.roll(places, shift))


def add_repeat(draft: Draft, call: Call) -> int:
    """Adds what `ops.repeat` becomes."""
    repeats = call.operation.repeats
    return _along_axes(draft, call, call.operation.axis, lambda places: np.repeat(places, repeats))


def add_tile(draft: Draft, call: Call) -> int:
    """Adds what `ops.tile` becomes."""
    value, repeats = call.input, np.atleast_1d(call.operation.repeats)
    repeats = [1] * (value.rank - len(repeats)) + list(map(int, repeats))
    if len(repeats) != value.rank or repeats[0] != 1:
        raise call.refuse(f"`repeats` must leave the batch as it is. Received: repeats={tuple(repeats)}")
    shape = draft.shapes[value.node]
    axes = {axis_of(call, axis, value.rank): times for axis, times in enumerate(repeats) if axis}
    return select(
        draft, call, value.node, {axis: list(range(shape[axis])) * times for axis, times in axes.items()}
    )


def add_take(draft: Draft, call: Call) -> int:
    """Adds what `ops.take` becomes, of indices that are constants in a list."""
    indices = call.arguments[1]
    if isinstance(indices, Value) or np.ndim(indices) > 1:
        raise call.refuse("`indices` must be a constant or a list of them")
    node = _along_axes(
        draft, call, call.operation.axis, lambda places: np.array(places)[np.atleast_1d(indices)]
    )
    return reshape(draft, call, node, as_value(made_sizes(draft, call), call))


def add_repeat_vector(draft: Draft, call: Call) -> int:
    """Adds what a `RepeatVector` layer becomes."""
    return select(draft, call, call.input.node, {1: [0] * int(call.operation.n)})


def add_cropping(draft: Draft, call: Call) -> int:
    """Adds what a `Cropping1D` or `Cropping2D` layer becomes."""
    cropping = call.operation.cropping
    pairs = [cropping] if isinstance(cropping[0], int) else cropping
    indices, shape = {}, draft.shapes[call.input.node]
    for axis, (before, after) in zip(range(2 - len(pairs), 2), pairs, strict=True):
        indices[axis] = range(before, shape[axis] - after)
    return select(draft, call, call.input.node, indices)


def add_center_crop(draft: Draft, call: Call) -> int:
    """Adds what a `CenterCrop` becomes, of an image that is at least as large."""
    layer, shape, indices = call.operation, draft.shapes[call.input.node], {}
    for axis, size in enumerate((layer.height, layer.width)):
        if shape[axis] < size:
            raise call.refuse(f"the image must be at least as large. Received: {shape[:2]}")
        start = (shape[axis] - size) // 2
        indices[axis] = range(start, start + size)
    return select(draft, call, call.input.node, indices)


def add_split(draft: Draft, call: Call) -> list[int]:
    """Adds what `ops.split` becomes: a value for each of its outputs."""
    operation, value = call.operation, call.input
    axis = axis_of(call, operation.axis, value.rank)
    where = operation.indices_or_sections
    parts = np.split(np.arange(draft.shapes[value.node][axis]), where if np.ndim(where) else int(where))
    return [select(draft, call, value.node, {axis: part}) for part in parts]


def add_concatenate(draft: Draft, call: Call) -> int:
    """Adds what a concatenation along any axis becomes."""
    axis = axis_of(call, call.operation.axis, call.rank)
    nodes = tuple(value.node for value in call.inputs)
    return nodes[0] if len(nodes) == 1 else draft.add(Concatenate(call.name, nodes, axis), call)


def add_stack(draft: Draft, call: Call) -> int:
    """Adds what `ops.stack` becomes."""
    rank = call.inputs[0].rank + 1
    axis = call.operation.axis % rank
    nodes = []
    for value in call.inputs:
        sizes = list(sizes_of(draft, value))
        sizes.insert(axis - 1, 1)
        nodes.append(reshape(draft, call, value.node, as_value(sizes, call)))
    axis = axis_of(call, axis, rank)
    return nodes[0] if len(nodes) == 1 else draft.add(Concatenate(call.name, tuple(nodes), axis), call)


def add_upsampling(draft: Draft, call: Call) -> int:
    """Adds what an `UpSampling1D` becomes, or an `UpSampling2D` that repeats what is nearest."""
    factors = np.atleast_1d(call.operation.size)
    shape = draft.shapes[call.input.node]
    axes = zip(range(2 - len(factors), 2), factors, strict=True)
    return select(
        draft, call, call.input.node, {axis: np.repeat(range(shape[axis]), factor) for axis, factor in axes}
    )

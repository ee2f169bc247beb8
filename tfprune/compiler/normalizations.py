"""Nodes of normalizations: by what was learned, and by what is normalized itself."""

import numpy as np

from tfprune.compiler.arithmetic import add_activation, add_affine, add_constant, combine, read, reduce
from tfprune.compiler.draft import Call, Draft
from tfprune.compiler.masks import broadcast_mask, mask_of, masked_scores
from tfprune.compiler.shapes import axis_of, on_last_axis
from tfprune.network.affine import affine_of_layer
from tfprune.network.masks import is_zero_behind_softmax
from tfprune.runtime.graph import Normalize


def add_batch_normalization(draft: Draft, call: Call) -> int:
    """Adds a `BatchNormalization`: a scale and a shift for each channel."""
    layer = call.operation
    scale = 1.0 / np.sqrt(read(call, layer.moving_variance) + layer.epsilon)
    if layer.scale:
        scale = scale * read(call, layer.gamma)
    shift = -read(call, layer.moving_mean) * scale
    if layer.center:
        shift = shift + read(call, layer.beta)
    axis = axis_of(call, layer.axis, call.rank)
    return on_last_axis(
        draft, call, call.input.node, axis, lambda node: add_affine(draft, call, node, scale, shift)
    )


def add_constant_affine(draft: Draft, call: Call) -> int:
    """Adds a `Normalization` or a `Rescaling`."""
    return add_affine(draft, call, call.input.node, *affine_of_layer(call.operation, call.refuse))


def add_layer_normalization(draft: Draft, call: Call) -> int:
    """Adds a `LayerNormalization` over one axis, over all, or over all pixels of each channel."""
    layer = call.operation
    if getattr(layer, "rms_scaling", False):
        raise call.refuse("`rms_scaling` must be False. Received: rms_scaling=True")
    gamma = read(call, layer.gamma) if layer.scale else None
    beta = read(call, layer.beta) if layer.center else None
    return _normalize_axes(draft, call, gamma, beta, centered=True)


def add_rms_normalization(draft: Draft, call: Call) -> int:
    """Adds an `RMSNormalization` over the same axes as a `LayerNormalization`."""
    return _normalize_axes(draft, call, read(call, call.operation.scale), None, centered=False)


def _normalize_axes(
    draft: Draft, call: Call, gamma: np.ndarray | None, beta: np.ndarray | None, centered: bool
) -> int:
    """Adds a normalization over the layer's axes, each of which has a place in `gamma` and `beta`."""
    source, shape = call.input.node, draft.shapes[call.input.node]
    epsilon = float(call.operation.epsilon)
    axes = sorted({axis_of(call, int(axis), call.rank) for axis in np.atleast_1d(call.operation.axis)})
    if len(axes) == 1:

        def along(node: int) -> int:
            channels = draft.shapes[node][2]
            scale = np.ones(channels) if gamma is None else gamma
            shift = np.zeros(channels) if beta is None else beta
            return _add(draft, call, node, "pixel", 1, centered, epsilon, scale, shift)

        return on_last_axis(draft, call, source, axes[0], along)
    outside = [axis for axis in range(3) if axis not in axes and shape[axis] > 1]
    if outside not in ([], [2]):
        raise call.refuse(
            f"`axis` must be one, all, or all but the last. Received: axis={call.operation.axis}"
        )
    groups = shape[2] if outside else 1
    plain = np.ones(shape[2]), np.zeros(shape[2])
    node = _add(draft, call, source, "image", groups, centered, epsilon, *plain)
    sizes = [shape[axis] if axis in axes else 1 for axis in range(3)]
    if gamma is not None:
        node = combine(draft, call, "multiply", node, add_constant(draft, call, gamma.reshape(sizes)))
    if beta is not None:
        node = combine(draft, call, "add", node, add_constant(draft, call, beta.reshape(sizes)))
    return node


def add_group_normalization(draft: Draft, call: Call) -> int:
    """Adds a `GroupNormalization`."""
    layer = call.operation
    axis = axis_of(call, layer.axis, call.rank)
    channels = draft.shapes[call.input.node][axis]
    scale = read(call, layer.gamma).reshape(-1) if layer.scale else np.ones(channels)
    shift = read(call, layer.beta).reshape(-1) if layer.center else np.zeros(channels)
    groups, epsilon = int(layer.groups), float(layer.epsilon)
    return on_last_axis(
        draft,
        call,
        call.input.node,
        axis,
        lambda node: _add(draft, call, node, "image", groups, True, epsilon, scale, shift),
    )


def add_unit_normalization(draft: Draft, call: Call) -> int:
    """Adds a `UnitNormalization`: the product with one over the root of the sum of squares."""
    axes = {axis_of(call, int(axis), call.rank) for axis in np.atleast_1d(call.operation.axis)}
    source = call.input.node
    count = np.prod([draft.shapes[source][axis] for axis in axes])
    squares = add_activation(draft, call, source, "square")
    mean = reduce(draft, call, squares, sorted(axes), "average")
    total = add_affine(draft, call, mean, float(count), 0.0)
    # Keras bounds the factor by 1e12.
    total = add_activation(draft, call, total, "clip", (1e-24, 3e38))
    return combine(draft, call, "multiply", source, add_activation(draft, call, total, "rsqrt"))


def _add(
    draft: Draft,
    call: Call,
    source: int,
    over: str,
    groups: int,
    centered: bool,
    epsilon: float,
    scale: np.ndarray,
    shift: np.ndarray,
) -> int:
    node = Normalize(call.name, (source,), over, groups, centered, epsilon, scale, shift)
    return draft.add(node, call)


def add_softmax(draft: Draft, call: Call, activation: str = "softmax") -> int:
    """Adds a softmax along one axis, or its logarithm."""
    axes = np.atleast_1d(call.operation.axis)
    if len(axes) != 1:
        raise call.refuse(f"`axis` must be one axis. Received: axis={call.operation.axis}")
    axis, source = axis_of(call, int(axes[0]), call.rank), call.input.node
    mask = mask_of(draft, call, call.masks.get("mask"))
    if mask is not None:
        allowed = broadcast_mask(draft, call, mask, call.input)
        source = masked_scores(draft, call, source, allowed)
    made = on_last_axis(draft, call, source, axis, lambda node: add_activation(draft, call, node, activation))
    if mask is None or not is_zero_behind_softmax():
        return made
    return combine(draft, call, "multiply", made, allowed)

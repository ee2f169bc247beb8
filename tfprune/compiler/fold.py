"""Puts normalizations, activations, paddings and sums into the convolutions next to them."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tfprune.compiler.draft import Affine, ZeroPadding, in_float32
from tfprune.runtime.graph import Activation, Add, Concatenate, Constant, Conv, Input, Node, Pool, Shape


def fold(nodes: Sequence[Node], outputs: Sequence[int]) -> tuple[tuple[Node, ...], list[int]]:
    """Makes the runtime's nodes of a draft.

    A node that takes others in stands at the place of the last of them, where all of its inputs are there
    already. Nodes without use go at the end.

    Args:
        nodes: The nodes of the draft; the images first.
        outputs: Indices of the nodes whose values are the network's outputs.

    Returns:
        Nodes in an order in which each comes after its inputs, the images first, float32; and the places of
        the outputs among them, the only one last.
    """
    nodes, outputs = _needed(nodes, outputs)
    folding = _Folding(nodes, outputs)
    nodes, outputs = _needed(folding.nodes, [folding.places[output] for output in outputs])
    return _widen_pixels(_round(nodes), outputs)


class _Folding:
    """The nodes so far, with the number of uses that the draft has for the value of each."""

    def __init__(self, draft: Sequence[Node], outputs: Sequence[int]) -> None:
        self.nodes: list[Node] = []
        self._uses: list[int] = []
        # An output is used by whoever runs the network.
        uses = [outputs.count(index) for index in range(len(draft))]
        for node in draft:
            for source in node.inputs:
                uses[source] += 1
        self.places: list[int] = []  # Of the draft's nodes.
        for node, count in zip(draft, uses, strict=True):
            moved = dataclasses.replace(node, inputs=tuple(self.places[i] for i in node.inputs))
            self.places.append(self._append(self._rewrite(moved), count))

    def _append(self, node: Node, uses: int) -> int:
        self.nodes.append(node)
        self._uses.append(uses)
        return len(self.nodes) - 1

    def _rewrite(self, node: Node) -> Node:
        match node:
            case Affine():
                return self._rewrite_affine(node)
            case Activation():
                return self._rewrite_activation(node)
            case Add():
                return self._rewrite_add(node)
            case Conv():
                return self._take_padding(node)
            case Pool():
                return self._take_padding_of_pool(node)
            case ZeroPadding():
                return self._join_paddings(node)
        return node

    def _only_used_here(self, index: int) -> Node | None:
        """Returns the node; None if another node needs its value as it is."""
        return self.nodes[index] if self._uses[index] == 1 else None

    def _rewrite_affine(self, node: Affine) -> Node:
        producer = self._only_used_here(node.inputs[0])
        if isinstance(producer, Input):
            scale, shift = producer.scale * node.scale, producer.shift * node.scale + node.shift
            return dataclasses.replace(producer, scale=scale, shift=shift)
        if isinstance(producer, Conv) and _is_plain(producer):
            bias = producer.bias * node.scale + node.shift
            return dataclasses.replace(producer, kernel=producer.kernel * node.scale, bias=bias)
        if isinstance(producer, Conv) and producer.activation == "relu6" and _is_sixth(node):
            # relu6(x) / 6 is hard_sigmoid(x - 3).
            return dataclasses.replace(producer, bias=producer.bias - 3.0, activation="hard_sigmoid")
        return self._take_padding(_depthwise(node.name, node.inputs, node.scale, node.shift))

    def _rewrite_activation(self, node: Activation) -> Node:
        producer = self._only_used_here(node.inputs[0])
        if isinstance(producer, Conv | Add) and producer.activation == "linear":
            return dataclasses.replace(producer, activation=node.activation, settings=node.settings)
        return node

    def _rewrite_add(self, node: Add) -> Node:
        for index in sorted(node.inputs, reverse=True):
            producer = self._only_used_here(index)
            if isinstance(producer, Conv) and _is_plain(producer):
                others = tuple(source for source in node.inputs if source != index)
                residual = others[0]
                if len(others) > 1:
                    residual = self._append(dataclasses.replace(node, inputs=others), 1)
                return dataclasses.replace(producer, inputs=(producer.inputs[0], residual))
        return node

    def _take_padding(self, node: Conv) -> Node:
        producer = self.nodes[node.inputs[0]]
        if not isinstance(producer, ZeroPadding):
            return node
        padding = tuple(a + b for a, b in zip(node.padding, producer.padding, strict=True))
        return dataclasses.replace(node, inputs=(producer.inputs[0], *node.inputs[1:]), padding=padding)

    def _take_padding_of_pool(self, node: Pool) -> Node:
        producer = self.nodes[node.inputs[0]]
        # Padding "same" does not take part in a pool, the zeros do: no pool does both.
        if not isinstance(producer, ZeroPadding) or any(node.padding):
            return node
        padding = producer.padding
        if max(padding[:2]) >= node.size[0] or max(padding[2:]) >= node.size[1]:
            return node
        return dataclasses.replace(node, inputs=producer.inputs, padding=padding, padding_counts=True)

    def _join_paddings(self, node: ZeroPadding) -> Node:
        producer = self.nodes[node.inputs[0]]
        if not isinstance(producer, ZeroPadding):
            return node
        padding = tuple(a + b for a, b in zip(node.padding, producer.padding, strict=True))
        return dataclasses.replace(node, inputs=producer.inputs, padding=padding)


def _is_plain(conv: Conv) -> bool:
    """Returns whether a convolution computes its sum with the bias and no more."""
    return len(conv.inputs) == 1 and conv.activation == "linear"


def _is_sixth(affine: Affine) -> bool:
    return bool(np.allclose(affine.scale, 1 / 6, rtol=1e-6, atol=0) and not affine.shift.any())


def _depthwise(
    name: str,
    inputs: tuple[int, ...],
    scale: np.ndarray,
    shift: np.ndarray,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Conv:
    """Makes a convolution that only scales, shifts and pads each channel."""
    kernel = scale.reshape(1, 1, 1, -1)
    return Conv(name, inputs, kernel=kernel, bias=shift, padding=padding, groups=len(scale))


def _needed(nodes: Sequence[Node], outputs: Sequence[int]) -> tuple[list[Node], list[int]]:
    """Returns the images and the nodes that the outputs need, renumbered, and the places of the outputs.

    An image that something has been folded into comes later in the list: the last of its name is the one.
    """
    images = {node.name: index for index, node in enumerate(nodes) if isinstance(node, Input)}
    needed = set(outputs)
    for index in range(max(outputs), -1, -1):
        if index in needed:
            needed.update(nodes[index].inputs)
    others = sorted(needed - set(images.values()))
    places = {index: place for place, index in enumerate([*images.values(), *others])}
    kept = [
        dataclasses.replace(nodes[index], inputs=tuple(places[i] for i in nodes[index].inputs))
        for index in places
    ]
    return kept, [places[output] for output in outputs]


def _widen_pixels(nodes: Sequence[Node], outputs: Sequence[int]) -> tuple[tuple[Node, ...], list[int]]:
    """Puts a row or column of zeros beside each single pixel that a convolution's padding makes an image.

    The kernels pad images alone. The zeros are part of the padding.
    """
    made: list[Node] = []
    shapes: list[Shape] = []
    places: list[int] = []

    def add(node: Node) -> int:
        made.append(node)
        shapes.append(node.output_shape([shapes[source] for source in node.inputs]))
        return len(made) - 1

    for node in nodes:
        node = dataclasses.replace(node, inputs=tuple(places[source] for source in node.inputs))
        if isinstance(node, Conv) and any(node.padding) and shapes[node.inputs[0]][:2] == (1, 1):
            shape = node.output_shape([shapes[source] for source in node.inputs])
            if shape[:2] != (1, 1):
                node = _with_zeros_beside(node, shapes[node.inputs[0]], add)
        places.append(add(node))
    return tuple(made), [places[output] for output in outputs]


def _with_zeros_beside(node: Conv, shape: Shape, add: Callable[[Node], int]) -> Conv:
    """Returns a convolution that takes a pixel with zeros beside it, for one less of padding."""
    side = next(side for side, zeros in enumerate(node.padding) if zeros)
    zeros = add(Constant(f"{node.name}/zeros", (), np.zeros(shape, np.float32)))
    pair = (zeros, node.inputs[0]) if side % 2 == 0 else (node.inputs[0], zeros)
    wide = add(Concatenate(f"{node.name}/wide", pair, side // 2))
    padding = list(node.padding)
    padding[side] -= 1
    return dataclasses.replace(node, inputs=(wide, *node.inputs[1:]), padding=tuple(padding))


def _round(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Returns the nodes in float32; a padding that is left becomes a convolution with ones."""
    rounded = []
    for node in nodes:
        if isinstance(node, ZeroPadding):
            ones, zeros = np.ones(node.channels), np.zeros(node.channels)
            node = _depthwise(node.name, node.inputs, ones, zeros, node.padding)
        rounded.append(in_float32(node))
    return tuple(rounded)

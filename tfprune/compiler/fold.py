"""Puts normalizations, activations, paddings and sums into the convolutions next to them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfprune.compiler.draft import Affine, ZeroPadding, in_float32
from tfprune.runtime.graph import Activation, Add, Conv, Input, Node, Pool


def fold(nodes: Sequence[Node], output: int) -> tuple[Node, ...]:
    """Makes the runtime's nodes of a draft.

    A node that takes others in stands at the place of the last of them, where all of its inputs are there
    already. Nodes without use go at the end.

    Args:
        nodes: The nodes of the draft.
        output: Index of the node whose value is the network's output.

    Returns:
        Nodes in an order in which each comes after its inputs, the output last; float32.
    """
    folding = _Folding(_reachable(nodes, output))
    return _round(_reachable(folding.nodes, len(folding.nodes) - 1))


class _Folding:
    """The nodes so far, with the number of uses that the draft has for the value of each."""

    def __init__(self, draft: Sequence[Node]) -> None:
        self.nodes: list[Node] = []
        self._uses: list[int] = []
        # The output is used by whoever runs the network.
        uses = [index == len(draft) - 1 for index in range(len(draft))]
        for node in draft:
            for source in node.inputs:
                uses[source] += 1
        places: list[int] = []
        for node, count in zip(draft, uses, strict=True):
            moved = dataclasses.replace(node, inputs=tuple(places[i] for i in node.inputs))
            places.append(self._append(self._rewrite(moved), count))

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
            return dataclasses.replace(producer, activation=node.activation)
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


def _reachable(nodes: Sequence[Node], output: int) -> list[Node]:
    """Returns the nodes that the output needs, renumbered, the output last."""
    needed = {output}
    for index in range(output, -1, -1):
        if index in needed:
            needed.update(nodes[index].inputs)
    places = {index: place for place, index in enumerate(sorted(needed))}
    return [
        dataclasses.replace(nodes[index], inputs=tuple(places[i] for i in nodes[index].inputs))
        for index in places
    ]


def _round(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Returns the nodes in float32; a padding that is left becomes a convolution with ones."""
    rounded = []
    for node in nodes:
        if isinstance(node, ZeroPadding):
            ones, zeros = np.ones(node.channels), np.zeros(node.channels)
            node = _depthwise(node.name, node.inputs, ones, zeros, node.padding)
        rounded.append(in_float32(node))
    return tuple(rounded)

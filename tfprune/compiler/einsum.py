"""Nodes of `EinsumDense`: a dense layer of some axes, between permutations, or a product with numbers."""

import math
from typing import Any, NamedTuple

import numpy as np

from tfprune.compiler.arithmetic import add_activation, add_constant, combine, read
from tfprune.compiler.convolutions import activation_of, check_kernels
from tfprune.compiler.draft import Call, Draft
from tfprune.compiler.shapes import as_value, permute, reshape, sizes_of
from tfprune.runtime.graph import Conv, Shape

# Stand for the axes of an ellipsis; the batch is one of them, or the first label.
_BEYOND = "ABCDEFGH"


class _Equation(NamedTuple):
    """The labels of the axes of an equation, without the batch's; an ellipsis is filled.

    Attributes:
        inputs: Of the input.
        kernel: Of the kernel.
        made: Of the output.
        batches: The first of the input and of the output.
    """

    inputs: str
    kernel: str
    made: str
    batches: tuple[str, str]

    @property
    def summed(self) -> str:
        """Returns those that are summed over, in the kernel's order."""
        return "".join(label for label in self.kernel if label not in self.made)

    @property
    def new(self) -> str:
        """Returns those of the output that the input has not, in the kernel's order."""
        return "".join(label for label in self.kernel if label not in self.inputs)

    @property
    def left(self) -> str:
        """Returns those of the input that the kernel has not."""
        return "".join(label for label in self.inputs if label not in self.kernel)

    @property
    def both(self) -> str:
        """Returns those that all three have."""
        return "".join(label for label in self.kernel if label in self.inputs and label in self.made)

    @property
    def is_plain(self) -> bool:
        """Returns whether it is a dense layer of some axes, or a product number by number."""
        operands = (self.inputs, self.kernel, self.made)
        return (
            self.batches[0] == self.batches[1]
            and all(len({*labels}) == len(labels) for labels in operands)
            and {*self.left} <= {*self.made} <= {*self.inputs, *self.kernel}
            and {*self.summed} <= {*self.inputs}
            and not (self.both and (self.summed or self.new))
        )


def _equation(layer: Any, rank: int = 4) -> _Equation:
    """Takes an equation apart; an ellipsis has what is left of the input's axes, `rank` with the batch."""
    operands, _, made = layer.equation.replace(" ", "").partition("->")
    inputs, _, kernel = operands.partition(",")
    beyond = _BEYOND[: rank - len(inputs.replace("...", ""))]
    inputs, made = (labels.replace("...", beyond) for labels in (inputs, made))
    return _Equation(inputs[1:], kernel, made[1:], (inputs[:1], made[:1]))


def add_einsum(draft: Draft, call: Call) -> int:
    """Adds an `EinsumDense` of one sum or none, such as `"abc,cd->abd"` and `"abc,bc->abc"`."""
    layer, value = call.operation, call.input
    check_kernels(call)
    equation = _equation(layer, value.rank)
    kernel = read(call, layer.kernel)
    bias = None if layer.bias is None else read(call, layer.bias)
    if not equation.is_plain:
        raise call.refuse(
            f"`equation` must be a dense layer of some axes, or a product. Received: {layer.equation}"
        )
    sizes = dict(zip(equation.inputs, sizes_of(draft, value), strict=True))
    sizes |= dict(zip(equation.kernel, kernel.shape, strict=True))

    def shape_of(labels: str) -> Shape:
        return as_value([sizes[label] for label in labels], call)

    if equation.both:
        node = _to_order(draft, call, value.node, equation.inputs, equation.made)
        numbers = _arranged(kernel, equation.kernel, equation.made)
        node = combine(draft, call, "multiply", node, _add_numbers(draft, call, numbers))
    else:
        node = _to_order(draft, call, value.node, equation.inputs, equation.left + equation.summed)
        shape = draft.shapes[node]
        summed = math.prod(sizes[label] for label in equation.summed)
        new = math.prod(sizes[label] for label in equation.new)
        if shape[2] != summed:
            node = reshape(draft, call, node, (1, math.prod(shape) // summed, summed))
        weights = _arranged(kernel, equation.kernel, equation.summed + equation.new)
        inside = bias is not None and bias.size == new and equation.made.endswith(equation.new)
        numbers, bias = (bias.reshape(-1), None) if inside else (np.zeros(new), bias)
        conv = Conv(call.name, (node,), kernel=weights.reshape(1, 1, summed, new), bias=numbers)
        labels = equation.left + equation.new
        node = reshape(draft, call, draft.add(conv, call), shape_of(labels))
        node = _to_order(draft, call, node, labels, equation.made)
    node = reshape(draft, call, node, shape_of(equation.made))
    if bias is not None:
        node = combine(draft, call, "add", node, _add_numbers(draft, call, bias))
    form = activation_of(call)
    return add_activation(draft, call, node, form.name, form.settings)


def einsum_kernel(stored: np.ndarray, layer: Any) -> np.ndarray:
    """Returns the kernel of an `EinsumDense`, in the layer's shape, from that of its `Conv`.

    Args:
        stored: The kernel of the node, scaled or not.
        layer: The layer.
    """
    shape = tuple(layer.kernel.shape)
    equation = _equation(layer)
    labels = equation.summed + equation.new
    sizes = dict(zip(equation.kernel, shape, strict=True))
    return _arranged(stored.reshape([sizes[label] for label in labels]), labels, equation.kernel)


def _arranged(array: np.ndarray, labels: str, wanted: str) -> np.ndarray:
    """Returns an array with its axes in another order; those that it has not have one place."""
    present = [label for label in wanted if label in labels]
    array = array.transpose([labels.index(label) for label in present])
    sizes = dict(zip(present, array.shape, strict=True))
    return array.reshape([sizes.get(label, 1) for label in wanted])


def _to_order(draft: Draft, call: Call, source: int, labels: str, wanted: str) -> int:
    """Adds what puts the axes of a value, by their labels, in another order."""
    missing = 3 - len(labels)
    return permute(
        draft, call, source, [*range(missing), *(missing + labels.index(label) for label in wanted)]
    )


def _add_numbers(draft: Draft, call: Call, numbers: np.ndarray) -> int:
    """Adds constants that meet a value as NumPy has it."""
    return add_constant(draft, call, numbers.reshape((1,) * (3 - numbers.ndim) + numbers.shape))

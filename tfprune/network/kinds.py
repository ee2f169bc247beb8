"""Which variables of a layer may be pruned: kernels and embedding tables; never biases or normalisation."""

import abc
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol, runtime_checkable

import keras
from keras import layers


@dataclass(frozen=True)
class Prunable:
    """A variable that may be pruned, and what its axes mean.

    Attributes:
        variable: The variable.
        input_axis: The axis that numbers the input channels, None if there is none.
        output_axes: The axes that number the output channels; empty if whole channels cannot be removed.
    """

    variable: keras.Variable
    input_axis: int | None
    output_axes: tuple[int, ...]


# (attribute, input axis, output axes). A gate's column of a recurrent kernel is no channel.
_KERNEL = (("kernel", -2, (-1,)),)
_TRANSPOSED = (("kernel", -1, (-2,)),)
_POINTWISE = (("pointwise_kernel", -2, (-1,)),)
_EMBEDDINGS = (("embeddings", None, (-1,)),)
_RECURRENT = (("kernel", -2, ()), ("recurrent_kernel", -2, ()))
# The class of a ConvLSTM's cell is not public.
_CONV_LSTM = (("cell.kernel", -2, ()), ("cell.recurrent_kernel", -2, ()))

# Class -> its prunable variables. Subclasses inherit. Depthwise kernels are left alone: they are a small
# share of the weights and lose accuracy quickly.
_PRUNABLE: dict[type, tuple[tuple[str, int | None, tuple[int, ...]], ...]] = {
    layers.Dense: _KERNEL,
    layers.EinsumDense: _KERNEL,
    layers.Conv1D: _KERNEL,
    layers.Conv2D: _KERNEL,
    layers.Conv3D: _KERNEL,
    layers.Conv1DTranspose: _TRANSPOSED,
    layers.Conv2DTranspose: _TRANSPOSED,
    layers.Conv3DTranspose: _TRANSPOSED,
    layers.SeparableConv1D: _POINTWISE,
    layers.SeparableConv2D: _POINTWISE,
    layers.Embedding: _EMBEDDINGS,
    layers.SimpleRNNCell: _RECURRENT,
    layers.GRUCell: _RECURRENT,
    layers.LSTMCell: _RECURRENT,
    layers.ConvLSTM1D: _CONV_LSTM,
    layers.ConvLSTM2D: _CONV_LSTM,
    layers.ConvLSTM3D: _CONV_LSTM,
}


@runtime_checkable
class PrunableLayer(Protocol):
    """A custom layer that says itself which of its variables may be pruned.

    Of a variable with two axes or more the last is taken to number the output channels, the last but one
    the input channels.
    """

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[keras.Variable]:
        """Returns the layer's prunable variables; called after `build`."""


def prunable(layer: keras.layers.Layer) -> list[Prunable]:
    """Returns what may be pruned in a layer and in the layers inside it that are built, each once."""
    found: list[Prunable] = []
    for part in layer._flatten_layers():
        if not part.built:
            continue
        if isinstance(part, PrunableLayer):
            found += [_guess(variable) for variable in part.get_prunable_weights()]
            continue
        for cls, attributes in _PRUNABLE.items():
            if isinstance(part, cls):
                for name, input_axis, output_axes in attributes:
                    variable = attrgetter(name)(part)
                    if isinstance(part, layers.EinsumDense):
                        input_axis, output_axes = _einsum_axes(part.equation)
                    found.append(Prunable(variable, input_axis, output_axes))
                break
        if isinstance(part, layers.ReversibleEmbedding) and not part.tie_weights:
            found.append(Prunable(part.reverse_embeddings, -2, (-1,)))
    # With LoRA, `kernel` is no variable but a sum; the frozen variable in it stays as it is.
    unique = {id(item.variable): item for item in found if isinstance(item.variable, keras.Variable)}
    return list(unique.values())


def prunable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the prunable variables of a layer and of the layers inside it that are built, each once."""
    return [item.variable for item in prunable(layer)]


def may_be_prunable(layer: keras.layers.Layer) -> bool:
    """Whether a layer, built or not, is of a kind that has prunable variables."""
    # Attention has no inner layers before it is built.
    kinds = (*_PRUNABLE, PrunableLayer, layers.MultiHeadAttention, layers.GroupQueryAttention)
    return any(isinstance(part, kinds) for part in layer._flatten_layers())


def _guess(variable: keras.Variable) -> Prunable:
    return Prunable(variable, -2, (-1,)) if len(variable.shape) > 1 else Prunable(variable, None, ())


def _einsum_axes(equation: str) -> tuple[int | None, tuple[int, ...]]:
    """The kernel's axes that are summed over (the last of them) and those that the output has."""
    operands, _, output = equation.replace(" ", "").partition("->")
    inputs, _, kernel = operands.partition(",")
    summed = [axis for axis, label in enumerate(kernel) if label not in output]
    new = tuple(axis for axis, label in enumerate(kernel) if label in output and label not in inputs)
    return (summed[-1] if summed else None), new

"""Which variables of a layer may be pruned: kernels and embedding tables; never biases or normalisation."""

from typing import Protocol, runtime_checkable

import keras
from keras import layers

# Class -> attributes that hold prunable variables. Subclasses inherit. Depthwise kernels are left alone:
# they are a small share of the weights and lose accuracy quickly.
_PRUNABLE: dict[type, tuple[str, ...]] = {
    layers.Dense: ("kernel",),
    layers.EinsumDense: ("kernel",),
    layers.Conv1D: ("kernel",),
    layers.Conv2D: ("kernel",),
    layers.Conv3D: ("kernel",),
    layers.Conv1DTranspose: ("kernel",),
    layers.Conv2DTranspose: ("kernel",),
    layers.Conv3DTranspose: ("kernel",),
    layers.SeparableConv1D: ("pointwise_kernel",),
    layers.SeparableConv2D: ("pointwise_kernel",),
    layers.Embedding: ("embeddings",),
    layers.SimpleRNNCell: ("kernel", "recurrent_kernel"),
    layers.GRUCell: ("kernel", "recurrent_kernel"),
    layers.LSTMCell: ("kernel", "recurrent_kernel"),
}


@runtime_checkable
class PrunableLayer(Protocol):
    """A custom layer that says itself which of its variables may be pruned."""

    def get_prunable_weights(self) -> list[keras.Variable]:
        """Returns the layer's prunable variables; called after `build`."""


def prunable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the prunable variables of a layer and of the layers inside it that are built, each once."""
    found: list[keras.Variable] = []
    for part in layer._flatten_layers():
        if not part.built:
            continue
        if isinstance(part, PrunableLayer):
            found += part.get_prunable_weights()
            continue
        for cls, attributes in _PRUNABLE.items():
            if isinstance(part, cls):
                found += [getattr(part, name) for name in attributes]
                break
    # With LoRA, `kernel` is no variable but a sum; the frozen variable in it stays as it is.
    unique = {id(variable): variable for variable in found if isinstance(variable, keras.Variable)}
    return list(unique.values())


def may_be_prunable(layer: keras.layers.Layer) -> bool:
    """Whether a layer, built or not, is of a kind that has prunable variables."""
    # Attention has no inner layers before it is built.
    kinds = (*_PRUNABLE, PrunableLayer, layers.MultiHeadAttention, layers.GroupQueryAttention)
    return any(isinstance(part, kinds) for part in layer._flatten_layers())

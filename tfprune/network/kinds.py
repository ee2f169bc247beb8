"""The kernels of each built-in Keras layer class: axes, how often they are used, and which may be pruned.

A kernel is a variable whose elements multiply activations: the matrix of a `Dense`, the filters of a
convolution, the table of an `Embedding`. Biases, scales and shifts are none. `KINDS` has an entry for
every built-in class that has weights of its own. Classes are found by name, so that a class that the
installed Keras does not have is an entry without use.
"""

import abc
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, runtime_checkable

import keras

from tfprune.network.graph import all_layers, chains, walk
from tfprune.network.variables import is_variable

Shape = tuple[int | None, ...]


class Axes(NamedTuple):
    """The axes of a kernel that number channels; the others number positions.

    Attributes:
        inputs: The axis that numbers the input channels of one group, None if there is none.
        outputs: The axes that number the output channels; empty if whole channels cannot be removed.
    """

    inputs: int | None
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """A kernel of a built layer.

    Attributes:
        layer: The layer that it belongs to.
        name: Its attribute in the layer, such as `pointwise_kernel`.
        variable: The variable.
        input_axis: The axis that numbers the input channels of one group, None if there is none.
        output_axes: The axes that number the output channels; empty if whole channels cannot be removed. In a
            depthwise kernel one axis numbers both.
        groups: Groups of channels that do not mix, at least 1. The output channels of one group are
            neighbours.
        left_alone: Why it is not pruned; empty for a kernel that may be pruned.
    """

    layer: keras.layers.Layer
    name: str
    variable: keras.Variable
    input_axis: int | None
    output_axes: tuple[int, ...]
    groups: int = 1
    left_alone: str = ""


Uses = Callable[[Any, Shape, Shape], int | None]


@dataclass(frozen=True)
class KernelEntry:
    """One kernel of a layer class, in `KINDS`.

    Attributes:
        name: The attribute that holds it.
        axes: Its axes, or a function from the layer to them.
        uses: A function `(layer, input shape, output shape)` that returns how often each element is used in
            one call, None where a size that it needs is unknown.
        groups: A function from the layer to the number of groups.
        left_alone: Why it is not pruned; empty for a kernel that may be pruned.
    """

    name: str
    axes: Axes | Callable[[Any], Axes]
    uses: Uses
    groups: Callable[[Any], int] = lambda layer: 1
    left_alone: str = ""

    def of(self, layer: Any) -> Kernel | None:
        """Returns the kernel of a built layer; None if the layer has no such variable."""
        variable = getattr(layer, self.name, None)
        # With LoRA, `kernel` is no variable but a sum; the frozen variable in it stays as it is.
        if not is_variable(variable):
            return None
        axes = self.axes(layer) if callable(self.axes) else self.axes
        return Kernel(layer, self.name, variable, *axes, self.groups(layer), self.left_alone)


@dataclass(frozen=True)
class Kind:
    """A layer class, or several alike, in `KINDS`.

    Attributes:
        kernels: The kernels of the layer itself; those of layers inside it are theirs.
        cell: Whether an RNN calls the layer once a time step.
        scales: Whether all its variables scale and shift activations, so that none is a kernel.
        makes_kernels: Whether the layer makes layers with kernels only when it is built.
    """

    kernels: tuple[KernelEntry, ...] = ()
    cell: bool = False
    scales: bool = False
    makes_kernels: bool = False


def product(sizes: Iterable[int | None]) -> int | None:
    """Returns the product of sizes; None if one is unknown."""
    sizes = tuple(sizes)
    return None if None in sizes else math.prod(sizes)


def _positions(layer: Any, shape: Shape) -> int | None:
    """Counts the positions in a batch of images, sequences or volumes: all axes but the channels'."""
    return product(shape[:-1] if layer.data_format == "channels_last" else shape[:1] + shape[2:])


def _all_but_last(layer: Any, inputs: Shape, outputs: Shape) -> int | None:
    return product(inputs[:-1])


def _output_positions(layer: Any, inputs: Shape, outputs: Shape) -> int | None:
    return _positions(layer, outputs)


def _input_positions(layer: Any, inputs: Shape, outputs: Shape) -> int | None:
    return _positions(layer, inputs)


def _einsum_uses(layer: Any, inputs: Shape, outputs: Shape) -> int | None:
    """Multiplies the sizes of the input's axes that the kernel does not have."""
    pattern, kernel = layer.equation.replace(" ", "").split("->")[0].split(",")
    start, _, end = pattern.partition("...")
    labels = start + "." * (len(inputs) - len(start) - len(end)) + end
    return product(size for label, size in zip(labels, inputs, strict=True) if label not in kernel)


def _einsum_axes(layer: Any) -> Axes:
    """Finds the last axis that is summed over, and the axes that the output has and the input has not."""
    operands, _, output = layer.equation.replace(" ", "").partition("->")
    inputs, _, kernel = operands.partition(",")
    summed = [axis for axis, label in enumerate(kernel) if label not in output]
    new = tuple(axis for axis, label in enumerate(kernel) if label in output and label not in inputs)
    return Axes(summed[-1] if summed else None, new)


def _no_product(layer: Any, inputs: Shape, outputs: Shape) -> int:
    return 0


def _table_uses(layer: Any, inputs: Shape, outputs: Shape) -> int | None:
    """Counts nothing for a lookup; a `ReversibleEmbedding` run backwards multiplies with the table."""
    looked_up = len(outputs) > len(inputs)
    return product(inputs[:-1]) if layer.tie_weights and not looked_up else 0


def _reverse_table_uses(layer: Any, inputs: Shape, outputs: Shape) -> int | None:
    looked_up = len(outputs) > len(inputs)
    return 0 if looked_up else product(inputs[:-1])


_DEPTHWISE = "depthwise kernels are left alone on purpose"

_LAST = Axes(-2, (-1,))
_TRANSPOSED = Axes(-1, (-2,))
# A gate's column of a recurrent kernel is no channel.
_GATES = Axes(-2, ())

_DENSE = Kind((KernelEntry("kernel", _LAST, _all_but_last),))
_CONVOLUTION = Kind((KernelEntry("kernel", _LAST, _output_positions, attrgetter("groups")),))
# Each kernel element meets each input position once, whatever the padding crops.
_TRANSPOSED_CONVOLUTION = Kind((KernelEntry("kernel", _TRANSPOSED, _input_positions),))


def _depthwise(name: str) -> KernelEntry:
    """Makes the entry of a kernel `[..., channels, multiplier]`, each channel a group of its own.

    It is not pruned, because depthwise kernels are a small share of the weights and lose accuracy quickly.
    """

    def channels(layer: Any) -> int:
        return getattr(layer, name).shape[-2]

    return KernelEntry(name, Axes(-2, (-2, -1)), _output_positions, channels, _DEPTHWISE)


_DEPTHWISE_CONVOLUTION = Kind((_depthwise("kernel"),))
_SEPARABLE_CONVOLUTION = Kind(
    (_depthwise("depthwise_kernel"), KernelEntry("pointwise_kernel", _LAST, _output_positions))
)
_TABLE = Axes(None, (-1,))


def _cell(uses: Uses) -> Kind:
    return Kind(
        (KernelEntry("kernel", _GATES, uses), KernelEntry("recurrent_kernel", _GATES, uses)), cell=True
    )


_SCALES = Kind(scales=True)
_HOLDER = Kind()  # The weights are those of layers inside it, or what its user gives it.
_ATTENTION = Kind(makes_kernels=True)

# The `__name__` of a class of Keras's -> its kernels. Subclasses inherit.
KINDS: dict[str, Kind] = {
    "Dense": _DENSE,
    "EinsumDense": Kind((KernelEntry("kernel", _einsum_axes, _einsum_uses),)),
    "Conv1D": _CONVOLUTION,
    "Conv2D": _CONVOLUTION,
    "Conv3D": _CONVOLUTION,
    "Conv1DTranspose": _TRANSPOSED_CONVOLUTION,
    "Conv2DTranspose": _TRANSPOSED_CONVOLUTION,
    "Conv3DTranspose": _TRANSPOSED_CONVOLUTION,
    "DepthwiseConv1D": _DEPTHWISE_CONVOLUTION,
    "DepthwiseConv2D": _DEPTHWISE_CONVOLUTION,
    "SeparableConv1D": _SEPARABLE_CONVOLUTION,
    "SeparableConv2D": _SEPARABLE_CONVOLUTION,
    "Embedding": Kind((KernelEntry("embeddings", _TABLE, _no_product),)),
    "ReversibleEmbedding": Kind(
        (
            KernelEntry("embeddings", _TABLE, _table_uses),
            KernelEntry("reverse_embeddings", _LAST, _reverse_table_uses),
        )
    ),
    "SimpleRNNCell": _cell(_all_but_last),
    "GRUCell": _cell(_all_but_last),
    "LSTMCell": _cell(_all_but_last),
    "ConvLSTMCell": _cell(_output_positions),  # Not public: the cell of the next three.
    "ConvLSTM1D": _HOLDER,
    "ConvLSTM2D": _HOLDER,
    "ConvLSTM3D": _HOLDER,
    "SimpleRNN": _HOLDER,
    "GRU": _HOLDER,
    "LSTM": _HOLDER,
    "RNN": _HOLDER,
    "StackedRNNCells": _HOLDER,
    "Bidirectional": _HOLDER,
    "TimeDistributed": _HOLDER,
    "SpectralNormalization": _HOLDER,
    "MultiHeadAttention": _ATTENTION,
    "GroupedQueryAttention": _ATTENTION,  # Public as `GroupQueryAttention`.
    "Attention": _SCALES,
    "AdditiveAttention": _SCALES,
    "BatchNormalization": _SCALES,
    "GroupNormalization": _SCALES,
    "LayerNormalization": _SCALES,
    "RMSNormalization": _SCALES,
    "Normalization": _SCALES,
    "PReLU": _SCALES,
    "STFTSpectrogram": _SCALES,  # Constants of a Fourier transform.
    "JaxLayer": _HOLDER,
    "FlaxLayer": _HOLDER,
    "TorchModuleWrapper": _HOLDER,
    "TFSMLayer": _HOLDER,
}


def builtin_layer(operation: Any) -> str | None:
    """Returns the name of the class of a layer of Keras's own; None for anything else, a subclass too."""
    return _layer_class(type(operation))


def is_known(layer: keras.layers.Layer) -> bool:
    """Returns whether it is known of a layer, and of the layers inside it, what may be pruned.

    It is of Keras's classes, subclasses of theirs and layers that say it themselves.
    """
    abstract = (keras.layers.Layer, keras.layers.Wrapper)
    return all(
        _says_itself(part) or any(_layer_class(cls) for cls in type(part).__mro__ if cls not in abstract)
        for part in all_layers(layer)
    )


def builtin_operation(operation: Any) -> str | None:
    """Returns the name of the class of an operation of Keras's own; None for anything else, a layer too."""
    cls = type(operation)
    own = cls.__module__.startswith("keras.src.") and issubclass(cls, keras.Operation)
    return cls.__name__ if own and not issubclass(cls, keras.layers.Layer) else None


def _layer_class(cls: type) -> str | None:
    own = cls.__module__.startswith(("keras.src.layers.", "keras.src.applications."))
    return cls.__name__ if own else None


def kind_of(layer: keras.layers.Layer) -> Kind | None:
    """Returns the entry in `KINDS` of a layer's class, or of the built-in class that it inherits from."""
    names = (_layer_class(cls) for cls in type(layer).__mro__)
    return next((KINDS[name] for name in names if name in KINDS), None)


@runtime_checkable
class PrunableLayer(Protocol):
    """A custom layer that says itself which of its variables may be pruned.

    Of a variable with two axes or more the last is taken to number the output channels, the last but one
    the input channels.
    """

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[keras.Variable]:
        """Returns the layer's prunable variables; called after `build`."""


class _KnownWeights:
    """The `get_prunable_weights` that a layer has from tfprune, in the order of the layers inside."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        self._layer = layer

    def __call__(self) -> list[keras.Variable]:
        places = {id(part): place for place, part in enumerate(walk(self._layer))}
        found = sorted(prunable(self._layer), key=lambda kernel: places[id(kernel.layer)])
        return [kernel.variable for kernel in found]


def give_prunable_weights(layer: keras.layers.Layer) -> None:
    """Gives a layer a `get_prunable_weights`, as tfmot does, unless it has one of its own."""
    if not isinstance(layer, PrunableLayer):
        # Past Keras's tracking of attributes, which the layer of a built model does not take.
        vars(layer)["get_prunable_weights"] = _KnownWeights(layer)


def _says_itself(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer's own class says which of its variables may be pruned."""
    return isinstance(layer, PrunableLayer) and not isinstance(layer.get_prunable_weights, _KnownWeights)


def _told(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns what a layer says may be pruned.

    Raises:
        ValueError: On anything that Keras does not know as a weight of the layer.
    """
    own = {id(variable) for variable in layer.variables}
    told = list(layer.get_prunable_weights())
    for variable in told:
        if id(variable) not in own:
            raise ValueError(
                "`get_prunable_weights` must return Keras variables of the layer, which `add_weight` makes. "
                f"Received: a {type(variable).__name__} that is none, from layer {layer.name!r}"
            )
    return told


def kernels(layer: keras.layers.Layer) -> list[Kernel]:
    """Returns the kernels of a layer of a known kind, without those of layers inside it.

    Returns:
        The kernels; none for a layer that is not built or of no known kind.
    """
    kind = kind_of(layer)
    if kind is None or not layer.built:
        return []
    return [kernel for entry in kind.kernels if (kernel := entry.of(layer)) is not None]


def possible_kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the variables of a layer's own that are kernels, or may be where its kind is not known."""
    known = [kernel.variable for kernel in kernels(layer)]
    kind = kind_of(layer)
    if known or not layer.built or (kind is not None and kind.scales):
        return known
    return [variable for variable in layer._trainable_variables if len(variable.shape) >= 2]


def prunable(layer: keras.layers.Layer) -> list[Kernel]:
    """Returns the prunable kernels of a layer and of the layers inside it that are built, each once."""
    found: list[Kernel] = []
    for part in all_layers(layer):
        if _says_itself(part):
            if part.built:
                found += [_guess(part, variable) for variable in _told(part)]
        else:
            found += [kernel for kernel in kernels(part) if not kernel.left_alone]
    return list({id(kernel.variable): kernel for kernel in found}.values())


def all_kernels(layer: keras.layers.Layer) -> list[Kernel]:
    """Returns the kernels of a built layer and of all inside it, each once: those that are left alone too.

    Of a layer whose kind is not known, they are what it says may be pruned, and the variables that may be
    kernels.
    """
    found = {id(kernel.variable): kernel for kernel in prunable(layer)}
    for part in all_layers(layer):
        known = {id(kernel.variable): kernel for kernel in kernels(part)}
        for variable in possible_kernels(part):
            found.setdefault(id(variable), known.get(id(variable)) or _guess(part, variable))
    return list(found.values())


@dataclass(frozen=True)
class Placed:
    """A kernel, or a layer, in a layer.

    Attributes:
        layers: The layers on the way to it, from the outermost to the one that it is, or belongs to.
        kernel: The kernel; None for the layer itself.
    """

    layers: tuple[keras.layers.Layer, ...]
    kernel: Kernel | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the paths of the layers on the way, such as `block`, `block/query`, then its own."""
        parts = [layer.name for layer in self.layers]
        if self.kernel is not None:
            parts.append(self.kernel.name)
        return tuple("/".join(parts[: i + 1]) for i in range(len(parts)))


def placed(layer: keras.layers.Layer) -> list[Placed]:
    """Returns `prunable(layer)` with the layers on the way to each kernel."""
    ways = chains(layer)
    return [Placed(ways[id(kernel.layer)], kernel) for kernel in prunable(layer)]


def placed_layers(layer: keras.layers.Layer) -> list[Placed]:
    """Returns those of a layer and the layers in it that are of a kind with prunable variables."""
    return [Placed(way) for way in chains(layer).values() if _may_have(way[-1])]


def paths(layer: keras.layers.Layer) -> dict[int, tuple[str, ...]]:
    """Returns the names of a layer's prunable variables: id -> paths that lead to it, its own the last."""
    return {id(each.kernel.variable): each.names for each in placed(layer)}


def prunable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the prunable variables of a layer and of the layers inside it that are built, each once."""
    return [kernel.variable for kernel in prunable(layer)]


def may_be_prunable(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer, built or not, is of a kind that has prunable variables."""
    return any(map(_may_have, all_layers(layer)))


def _may_have(layer: keras.layers.Layer) -> bool:
    return _says_itself(layer) or _has_prunable(kind_of(layer))


def unknown_kernels(layer: keras.layers.Layer) -> dict[str, str]:
    """Returns the weights that may be kernels, of classes that are not known and do not say what to prune.

    Returns:
        Name of a layer, of this one or one inside it -> its class and these weights, in words.
    """
    found = {}
    for part in all_layers(layer):
        if kind_of(part) is None and not _says_itself(part):
            weights = [f"{v.name} {tuple(v.shape)}" for v in possible_kernels(part)]
            if weights:
                found[part.name] = f"{type(part).__name__}: {', '.join(weights)}"
    return found


def lora_layers(layer: keras.layers.Layer) -> list[str]:
    """Returns the names of the layers, of this one and those inside it, whose kernel is a sum with LoRA."""
    return [part.name for part in all_layers(layer) if getattr(part, "lora_enabled", False)]


def left_alone(layer: keras.layers.Layer) -> dict[str, str]:
    """Returns why kernels of a layer and of the layers inside it are not pruned.

    Returns:
        Name of the layer, or `layer/kernel` where others of its kernels are pruned -> reason.
    """
    reasons = {}
    for part in all_layers(layer):
        own = kernels(part)
        for kernel in own:
            if kernel.left_alone:
                name = part.name if len(own) == 1 else f"{part.name}/{kernel.name}"
                reasons[name] = kernel.left_alone
    return reasons


def _has_prunable(kind: Kind | None) -> bool:
    return kind is not None and (kind.makes_kernels or any(not entry.left_alone for entry in kind.kernels))


def _guess(layer: keras.layers.Layer, variable: keras.Variable) -> Kernel:
    axes = Axes(-2, (-1,)) if len(variable.shape) > 1 else Axes(None, ())
    return Kernel(layer, variable.name, variable, *axes)

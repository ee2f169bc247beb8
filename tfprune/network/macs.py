"""Counts the multiply-accumulates (MACs) of a model's kernels, from the shapes of one symbolic pass."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.network.calls import replaced_calls, tensors
from tfprune.network.graph import all_layers, functional
from tfprune.network.kinds import Shape, kind_of, possible_kernels, product
from tfprune.network.variables import is_variable


@dataclass(frozen=True, eq=False)
class KernelUse:
    """The number of times that a model uses one kernel.

    Attributes:
        layer: The layer that owns the kernel.
        variable: The kernel.
        uses: Multiply-accumulates that each of its elements takes part in for one example; None where a
            size is unknown. Every element is used equally often, so that a kernel of which `nonzeros` are
            left needs `uses * nonzeros` of its `uses * size` multiply-accumulates.
    """

    layer: keras.layers.Layer
    variable: keras.Variable
    uses: int | None

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of the dense kernel for one example; None where unknown."""
        return None if self.uses is None else self.uses * math.prod(self.variable.shape)


def kernel_uses(model: keras.layers.Layer, input_shape: Any = None) -> list[KernelUse]:
    """Counts how often each kernel of a model is used for one example.

    Runs the model once on placeholders, at batch size 1, and looks at the shapes that each layer with a
    kernel sees; a layer called twice counts twice, a recurrent one once a time step. Nothing is computed
    and no variable changes.

    Counted are products with a kernel. Not counted are biases, normalisation, activations and products
    of two activations, such as the queries with the keys in attention. Padding counts as if it were
    data, an embedding's lookup as 0.

    A number is unknown, and never guessed, where a size is open in the input shape, where the pass does not
    reach the layer, for kernels of custom layers, inside a custom RNN cell, in quantized layers and with
    LoRA. Not seen is the use that a custom layer makes of another layer's kernel, or of its own in a loop of
    the backend's (`keras.ops.scan`, `keras.ops.map`).

    Args:
        model: A built model or layer.
        input_shape: Shape, list of shapes or dictionary of them, with the batch size (which is ignored), as
            for `model.build`; for a `call` of several arguments a dictionary keyed by their names. Default:
            the model's own inputs, or the first argument's shape at the call that built it.

    Returns:
        One `KernelUse` for each kernel, in the order of the layers; a shared kernel once.

    Raises:
        ValueError: If `input_shape` has not as many shapes as the model has inputs.
    """
    parts = all_layers(model)
    recorded: dict[int, int | None] = {}
    specification = _input_specification(model, input_shape)
    if specification is not None:
        args, kwargs = specification
        try:
            recorded = _trace(model, parts, args, kwargs)
        except Exception as error:
            # What the layers do with shapes is the model's own code: any error may come out of it.
            text = str(error).strip().splitlines()
            warnings.warn(
                f"MACs are unknown, because a symbolic call of {model.name!r} failed: "
                f"{type(error).__name__}: {text[-1] if text else ''}",
                stacklevel=2,
            )
    found: dict[int, KernelUse] = {}
    for part in parts:
        for variable in possible_kernels(part):
            found.setdefault(id(variable), KernelUse(part, variable, recorded.get(id(variable))))
    return list(found.values())


def total(counts: list[int | None]) -> int | None:
    """Returns the sum, or None if one of the counts is unknown."""
    return None if None in counts else sum(counts)


_OPEN_SIZES = ((96, 160), (3, 4))


class _Recorder:
    """Adds up the uses of each kernel over the calls of its layer."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.uses: dict[int, int | None] = {}
        self._counted_cells: list[keras.layers.Layer] = []
        self._recurrent = 0

    def add(self, layer: Any, name: str, uses: int | None) -> None:
        variable = getattr(layer, name, None)
        if is_variable(variable):
            known = self.uses.get(id(variable), 0)
            self.uses[id(variable)] = None if uses is None or known is None else known + uses

    def recording(self, layer: keras.layers.Layer, call: Callable) -> Callable | None:
        """Returns the `call` of a layer with a count of its kernels' uses; None if it has none."""
        if isinstance(layer, layers.RNN):
            return self._recording_rnn(layer, call)
        kind = kind_of(layer)
        if kind is None or not kind.kernels:
            return None
        entries = kind.kernels

        def recorded(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            if self._recurrent:
                # Backends differ in how often they trace a step: its layers are counted by the RNN or not.
                if not any(layer is cell for cell in self._counted_cells):
                    for entry in entries:
                        self.add(layer, entry.name, None)
                return outputs
            shapes = _shape((args, kwargs)), _shape(outputs)
            for entry in entries:
                self.add(layer, entry.name, None if None in shapes else entry.uses(layer, *shapes))
            return outputs

        return recorded

    def _recording_rnn(self, layer: keras.layers.Layer, call: Callable) -> Callable:
        """Returns an RNN's `call` with a count of its cells' uses, of all time steps."""
        cells = [part for part in all_layers(layer.cell) if (kind := kind_of(part)) and kind.cell]

        def recorded(*args: Any, **kwargs: Any) -> Any:
            counted = self._counted_cells
            self._counted_cells = counted + cells
            self._recurrent += 1
            outputs = call(*args, **kwargs)
            self._recurrent -= 1
            self._counted_cells = counted
            inputs, result = _shape((args, kwargs)), _shape(outputs)
            known = not self._recurrent and inputs and result
            if known:
                steps, one_input = inputs[1], inputs[:1] + inputs[2:]
                one_output = result[:1] + result[2:] if layer.return_sequences else result
            for cell in cells:
                for entry in kind_of(cell).kernels:
                    uses = product((steps, entry.uses(cell, one_input, one_output))) if known else None
                    self.add(cell, entry.name, uses)
            return outputs

        return recorded


class _Pass(keras.Operation):
    """A call of a model that can run symbolically."""

    def __init__(self, model: keras.layers.Layer, recorder: _Recorder) -> None:
        super().__init__(name="macs")
        self.model = model
        self.recorder = recorder

    def call(self, args: tuple, kwargs: dict[str, Any]) -> None:
        self.recorder.clear()  # PyTorch tries a second time, on the CPU, where "meta" tensors fail.
        self.model(*args, **kwargs)


def _trace(model: Any, parts: list, args: tuple, kwargs: dict[str, Any]) -> dict[int, int | None]:
    """Runs a model on placeholders; returns the uses of each kernel, by the variable's id."""
    specs = keras.tree.flatten((args, kwargs))
    # A model of a fixed batch size can only be called with it.
    batch = next((spec.shape[0] for spec in specs if spec.shape and spec.shape[0]), 1)
    # Backends treat open sizes in three ways. Alike on all: two passes with different sizes in their place.
    choices = _OPEN_SIZES if any(None in spec.shape[1:] for spec in specs) else [(1,)]
    for sizes in choices:
        try:
            results = [_uses(model, parts, batch, size, args, kwargs) for size in sizes]
            break
        except Exception:
            # Images may have to be large, and sequences short, of a model that has a table of positions.
            if sizes is choices[-1]:
                raise
    first, last = results[0], results[-1]
    return {key: first.get(key) if first.get(key) == last.get(key) else None for key in {**first, **last}}


def _uses(
    model: Any, parts: list, batch: int, size: int, args: tuple, kwargs: dict[str, Any]
) -> dict[int, int | None]:
    """Runs a model on placeholders, open sizes filled in; returns the uses of each kernel for one example."""
    filled = keras.tree.map_structure(lambda spec: _filled(spec, batch, size), (args, kwargs))
    recorder = _Recorder()
    with replaced_calls(parts, recorder.recording):
        _Pass(model, recorder).compute_output_spec(*filled)
    return {key: uses and uses // batch for key, uses in recorder.uses.items()}


def _filled(spec: keras.KerasTensor, batch: int, size: int) -> keras.KerasTensor:
    shape = [size if length is None else length for length in spec.shape]
    return keras.KerasTensor([batch, *shape[1:]] if shape else [], spec.dtype, sparse=spec.sparse)


def _shape(values: Any) -> Shape | None:
    """Returns the shape of the first tensor in a structure; None if its rank is unknown."""
    try:
        return tuple(tensors(values)[0].shape)
    except ValueError:  # TensorFlow's unknown rank
        return None


def _input_specification(model: Any, input_shape: Any) -> tuple[tuple, dict[str, Any]] | None:
    """Returns placeholders for the arguments of a call; None if no shape is known."""
    graph = functional(model)
    if graph is not None:
        return (_of_graph(graph, input_shape),), {}
    if input_shape is None:
        # `PruneLowMagnitude` does not know its inner layer's shapes.
        config = getattr(model, "layer", model).get_build_config() or model.get_build_config() or {}
        if "shapes_dict" in config:
            shapes = {name.removesuffix("_shape"): shape for name, shape in config["shapes_dict"].items()}
            return (), {name: _placeholders(shape) for name, shape in shapes.items() if shape is not None}
        input_shape = config.get("input_shape")
    if isinstance(input_shape, dict) and set(input_shape) <= set(inspect.signature(model.call).parameters):
        return (), {name: _placeholders(shape) for name, shape in input_shape.items()}
    return None if input_shape is None else ((_placeholders(input_shape),), {})


def _of_graph(model: Any, input_shape: Any) -> Any:
    """Returns placeholders for a functional model's inputs, of other shapes if `input_shape` is given."""
    if input_shape is None:
        return model.input
    given, inputs = keras.tree.flatten(_placeholders(input_shape)), keras.tree.flatten(model.input)
    if len(given) != len(inputs):
        raise ValueError(
            f"`input_shape` must have a shape for each of the model's {len(inputs)} inputs. "
            f"Received: input_shape={input_shape}"
        )
    specs = [
        keras.KerasTensor(new.shape, old.dtype, sparse=old.sparse)
        for new, old in zip(given, inputs, strict=True)
    ]
    return keras.tree.pack_sequence_as(model.input, specs)


def _is_negative(shape: Any) -> bool:
    return any(isinstance(size, int | np.integer) and size < 0 for size in shape)


def _placeholders(shapes: Any) -> Any:
    """Returns a placeholder for each shape in a structure, in plain containers."""
    if isinstance(shapes, dict):
        return {name: _placeholders(shape) for name, shape in shapes.items()}
    if isinstance(shapes, str) or not isinstance(shapes, Iterable) or _is_negative(shapes):
        raise ValueError(f"`input_shape` must be a shape, or a structure of them. Received: {shapes!r}")
    if not all(isinstance(length, int | None) for length in shapes):
        return [_placeholders(shape) for shape in shapes]
    # The batch size is whatever the first call had.
    return keras.KerasTensor((None, *shapes[1:]))

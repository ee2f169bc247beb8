"""What a network takes and returns: names, shapes and types, and examples to run it on."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.export.arrays import Arrays, count_of, one_or_all, part_of
from tfprune.extras import extra
from tfprune.network.graph import (
    Step,
    all_layers,
    computed_graph,
    evaluate,
    input_structure,
    output_structure,
    producer,
)
from tfprune.text import numbered

# Large enough to amortise a call, small enough for 224 x 224 activations.
BATCH_SIZE = 32
RANDOM_EXAMPLES = 64
_RANDOM_BYTES = 2**26
# The range of random integers that nothing is known of: any layer that takes integers takes these.
_SOME_INTEGERS = 2


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or an output.

    Attributes:
        name: Its name in the exported files.
        shape: Its shape with the batch axis; None for a size that is open.
        dtype: The name of its type, such as `float32`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape[1:])
        return f"{self.dtype} [n{', ' if sizes else ''}{sizes}]"


class Signature:
    """The inputs and outputs of a network, as its calls and as the exported files have them.

    The names are the keys of dictionaries, else those of the `Input` layers and of the layers that make the
    outputs. The one input and the one output of a network of images, uint8 `[n, height, width, 3]` in and
    `[n, classes]` out, are `image` and `logits`.

    Args:
        model: A built model.
        inputs: What it is called with, as for `Model.predict`. Needed by a model without a graph, and where a
            size other than the batch's is open.

    Attributes:
        inputs: The inputs.
        outputs: The outputs, their shapes as the inputs given make them.
        images: Whether it is a network of images with classes.
        batch_size: How many examples a call takes; None for any number.
        examples: Number of examples given; 0 for none.

    Raises:
        ValueError: The model has inputs or outputs that cannot be exported, or `inputs` are not what it
            takes.
    """

    def __init__(self, model: keras.Model, inputs: Any = None) -> None:
        """Finds the inputs, and the outputs by a call on one batch."""
        if not model.built:
            raise ValueError(
                f"`model` must be built: call it once, or give it an `Input`. Received: model={model.name!r}"
            )
        structure = input_structure(model)
        if structure is None and inputs is None:
            raise ValueError(
                f"`inputs` must be given: {type(model).__name__} has a `call` of its own, which does not tell"
                f" what it takes. Received: inputs=None"
            )
        given = None if inputs is None else _arrays(inputs)
        self._structure = given if structure is None else structure
        leaves = list(_leaves(self._structure))
        names = _names([_input_name(path, leaf, structure is None) for path, leaf in leaves])
        self.inputs = [
            _port(name, leaf, structure is None) for name, (_, leaf) in zip(names, leaves, strict=True)
        ]
        self._given = None if given is None else self._by_name(given, leaves)
        self.examples = 0 if self._given is None else self._check_given()
        if not self.examples:
            self._check_sizes()
        self.batch_size = self._batch_size()
        self._ends = _integer_ends(model)
        self.outputs = self._find_outputs(model)
        self.images = (
            len(self.inputs) == len(self.outputs) == 1
            and self.inputs[0].dtype == "uint8"
            and len(self.inputs[0].shape) == 4
            and self.inputs[0].shape[-1] == 3
            and self.outputs[0].dtype == "float32"
            and len(self.outputs[0].shape) == 2
        )
        if self.images:
            self.inputs = [dataclasses.replace(self.inputs[0], name="image")]
            self.outputs = [dataclasses.replace(self.outputs[0], name="logits")]
            if self._given is not None:
                self._given = {"image": next(iter(self._given.values()))}

    def arrays(self) -> Arrays:
        """Returns the examples that were given, or random ones: normal numbers, integers in range."""
        if self._given is not None:
            return one_or_all(self._given)
        rng = np.random.default_rng(0)
        count = min(RANDOM_EXAMPLES, max(1, _RANDOM_BYTES // max(map(_bytes, self.inputs))))
        size = self.batch_size or 1
        count = max(1, count // size) * size
        ends = [self._ends.get(position) for position in range(len(self.inputs))]
        ports = zip(self.inputs, ends, strict=True)
        return one_or_all({port.name: _random(port, count, end, rng) for port, end in ports})

    def pack(self, batch: Any) -> Any:
        """Returns a batch, an array or arrays or tensors by name, as the model's call takes it."""
        named = batch if isinstance(batch, dict) else {self.inputs[0].name: batch}
        return _packed(self._structure, iter([named[port.name] for port in self.inputs]))

    def unpack(self, result: Any) -> dict[str, Any]:
        """Returns what a call of the model returned, by name."""
        values = [value for _, value in _leaves(result) if value is not None]
        return {port.name: value for port, value in zip(self.outputs, values, strict=True)}

    def tensor_names(self, model: keras.Model) -> dict[int, str]:
        """Returns the names of the symbolic inputs and outputs of a functional or Sequential model, by id."""
        ends = ((self.inputs, input_structure(model)), (self.outputs, output_structure(model)))
        return {
            id(leaf): port.name
            for ports, structure in ends
            for port, (_, leaf) in zip(ports, _leaves(structure), strict=True)
        }

    def _by_name(self, given: Any, leaves: Sequence[tuple[tuple, Any]]) -> dict[str, np.ndarray]:
        """Returns the arrays given by the inputs' names: of the same structure, a flat list, or by name."""
        found = list(_leaves(given))
        if isinstance(given, dict) and not isinstance(self._structure, dict):
            by_key = {path[0]: leaf for path, leaf in found if len(path) == 1}
            names = [
                (_layer_name(leaf), port.name) for port, (_, leaf) in zip(self.inputs, leaves, strict=True)
            ]
            keys = [next((key for key in either if key in by_key), either[1]) for either in names]
            found = [((key,), by_key.pop(key, None)) for key in keys] + [
                ((key,), leaf) for key, leaf in by_key.items()
            ]
        elif isinstance(given, dict):
            by_path = dict(found)
            found = [(path, by_path.pop(path, None)) for path, _ in leaves] + list(by_path.items())
        arrays = [leaf for _, leaf in found if leaf is not None]
        if len(arrays) != len(self.inputs) or len(found) != len(self.inputs):
            wanted = ", ".join(f"{port.name!r}: {port}" for port in self.inputs)
            received = ", ".join(
                "/".join(map(str, path)) or "an array" for path, leaf in found if leaf is not None
            )
            raise ValueError(f"`inputs` must be {wanted}. Received: {received}")
        return {port.name: array for port, array in zip(self.inputs, arrays, strict=True)}

    def _check_given(self) -> int:
        counts = set()
        for port in self.inputs:
            array = self._given[port.name]
            fits = array.ndim == len(port.shape) and all(
                size in (None, got) for size, got in zip(port.shape[1:], array.shape[1:], strict=True)
            )
            self._given[port.name] = typed = _as_type(array, _numpy_type(port.dtype))
            if not fits or typed is None or not len(array):
                raise ValueError(
                    f"`inputs` must be {port}, at least one, for {port.name!r}."
                    f" Received: {array.dtype} {list(array.shape)}"
                )
            counts.add(len(array))
        if len(counts) != 1:
            raise ValueError(
                f"`inputs` must be as many examples for each input. Received: {sorted(counts)} examples"
            )
        return counts.pop()

    def _check_sizes(self) -> None:
        for port in self.inputs:
            if None in port.shape[1:]:
                raise ValueError(
                    f"`inputs` must be given: the sizes of input {port.name!r} are open."
                    f" Received: inputs=None, for {port}"
                )

    def _batch_size(self) -> int | None:
        fixed = {port.shape[0] for port in self.inputs} - {None}
        if not fixed:
            return None
        size = min(fixed)
        if self.examples % size:
            raise ValueError(
                f"`inputs` must be a multiple of {size} examples, the model's batch."
                f" Received: {self.examples}"
            )
        return size

    def _find_outputs(self, model: keras.Model) -> list[Port]:
        batch = part_of(self.arrays(), slice(0, self.batch_size or 1))
        result = model(self.pack(batch), training=False)
        leaves = [(path, leaf) for path, leaf in _leaves(result) if leaf is not None]
        names = _names([_output_name(model, path, len(leaves)) for path, _ in leaves])
        ports = []
        for name, (_, leaf) in zip(names, leaves, strict=True):
            shape = getattr(leaf, "shape", None)
            if shape is None or len(shape) == 0 or shape[0] != count_of(batch):
                raise ValueError(
                    f"`model` must return tensors with a row for each example. Received: output {name!r},"
                    f" {type(leaf).__name__ if shape is None else f'of shape {tuple(shape)}'}"
                )
            ports.append(
                Port(name, (None, *map(int, shape[1:])), keras.ops.convert_to_numpy(leaf).dtype.name)
            )
        return ports


def _as_type(array: np.ndarray, dtype: Any) -> np.ndarray | None:
    """Returns an array in the type of an input; None where more than rounding would change its numbers."""
    if array.dtype == dtype:
        return array
    both_integers = {array.dtype.kind, np.dtype(dtype).kind} <= set("iu")
    if not both_integers and not np.can_cast(array.dtype, dtype, "same_kind"):
        return None
    typed = array.astype(dtype)
    return typed if not both_integers or np.array_equal(typed, array) else None


def _leaves(structure: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Yields the leaves of dictionaries, lists and tuples with the keys and positions that lead to them."""
    if isinstance(structure, dict):
        for key, value in structure.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(structure, (list, tuple)):
        for position, value in enumerate(structure):
            yield from _leaves(value, (*path, position))
    else:
        yield path, structure


def _packed(structure: Any, values: Iterator[Any]) -> Any:
    """Returns a structure with other leaves, in the order of `_leaves`."""
    if isinstance(structure, dict):
        return {key: _packed(value, values) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        made = [_packed(value, values) for value in structure]
        return made if isinstance(structure, list) else tuple(made)
    return next(values)


def _arrays(inputs: Any) -> Any:
    """Returns what was given with arrays in place of whatever can become one.

    Raises:
        ValueError: Something cannot, or holds no numbers.
    """

    def array(path: tuple, value: Any) -> np.ndarray:
        try:
            made = np.asarray(value)
        except Exception as error:
            raise ValueError(f"`inputs` must be arrays. Received: {type(value).__name__}") from error
        if made.dtype.kind not in "biuf" and made.dtype.name != "bfloat16":
            where = f" for {'/'.join(map(str, path))!r}" if path else ""
            raise ValueError(
                f"`inputs` must be numbers: strings and objects are turned into numbers before a network"
                f" that is exported. Received: {made.dtype}{where}"
            )
        return made.astype(np.float32) if made.dtype == np.float64 else made  # As Keras does.

    leaves = list(_leaves(inputs))
    return _packed(inputs, iter([array(*leaf) for leaf in leaves]))


def _layer_name(tensor: Any) -> str | None:
    return producer(tensor).name if isinstance(tensor, keras.KerasTensor) else None


def _input_name(path: tuple, leaf: Any, given: bool) -> str:
    if path and isinstance(path[-1], str):
        return "_".join(map(str, path))
    if given:
        return "_".join(map(str, ("input", *path)))
    name = _layer_name(leaf)
    # What Keras makes up has a number that differs from process to process.
    made_up = re.fullmatch(r"(keras_tensor|input_layer)(_\d+)?", name)
    return "_".join(map(str, ("input", *path))) if made_up else name


def _output_name(model: keras.Model, path: tuple, count: int) -> str:
    if path and isinstance(path[-1], str):
        return "_".join(map(str, path))
    names = getattr(computed_graph(model), "output_names", None)
    position = path[0] if path else 0
    if names and len(path) <= 1 and len(names) == count:
        return names[position]
    return "_".join(map(str, ("output", *path)))


def _names(wanted: Sequence[str]) -> list[str]:
    """Returns names that all exported files can hold, each another one."""
    made: list[str] = []
    for name in wanted:
        name = re.sub(r"\W", "_", name, flags=re.ASCII)
        name = name if name[:1].isalpha() else f"x{name}"
        made.append(numbered(name, made, second=1))
    return made


def _port(name: str, leaf: Any, given: bool) -> Port:
    dtype = leaf.dtype.name if given else leaf.dtype
    if dtype == "string":
        raise ValueError(
            f"`model` must take numbers: strings are turned into numbers before a network that is exported."
            f" Received: input {name!r} of strings"
        )
    if getattr(leaf, "sparse", False) or getattr(leaf, "ragged", False):
        raise ValueError(f"`model` must take dense tensors. Received: input {name!r}, sparse or ragged")
    shape = (None, *leaf.shape[1:])
    if not given:
        shape = tuple(leaf.shape)
    return Port(name, shape, dtype)


def _random(port: Port, count: int, end: int | None, rng: np.random.Generator) -> np.ndarray:
    shape, dtype = (count, *port.shape[1:]), _numpy_type(port.dtype)
    if end is None and np.dtype(dtype).kind in "biu":
        end = 256 if dtype == "uint8" else _SOME_INTEGERS
    values = rng.standard_normal(shape, np.float32) if end is None else rng.integers(0, end, shape)
    return values.astype(dtype)


def _numpy_type(dtype: str) -> Any:
    if dtype == "bfloat16":
        with extra("export"):
            import tensorflow as tf

        return tf.bfloat16.as_numpy_dtype
    return dtype


def _bytes(port: Port) -> int:
    return int(np.prod([size or 1 for size in port.shape[1:]])) * 4


def _integer_ends(model: keras.Model) -> dict[int, int]:
    """Returns the ends of the integers that embeddings read from inputs: position of the input -> end."""
    graph = computed_graph(model)
    ends: dict[int, int] = {}

    def follow(step: Step) -> list[frozenset[int]]:
        nested = computed_graph(step.operation)
        if nested is not None:
            return evaluate(nested, step.inputs, follow)
        sources, end = frozenset().union(*step.inputs), _smallest_table(step.operation)
        if end is not None:
            ends.update({source: min(end, ends.get(source, end)) for source in sources})
        changed = end is not None or bool(getattr(step.operation, "weights", ()))
        return [frozenset() if changed else sources] * len(step.outputs)

    if graph is not None:
        evaluate(graph, [frozenset({position}) for position in range(len(graph.inputs))], follow)
    return ends


def _smallest_table(operation: Any) -> int | None:
    """Returns the smallest number of rows of the tables that a layer, or one inside it, looks up in."""
    if not isinstance(operation, keras.layers.Layer):
        return None
    rows = [
        size
        for part in all_layers(operation)
        for size in (getattr(part, "input_dim", None), getattr(part, "num_tokens", None))
        if isinstance(size, int)
    ]
    return min(rows, default=None)

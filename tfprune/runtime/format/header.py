"""The graph in a `model.tfprune`'s header: JSON that mirrors the dataclasses of `tfprune.runtime.graph`.

A node is an object of its `"type"` and one key for each field. The fields' type hints say how a value is
written and, exactly, what may be read; an array is an object of `StoredArray`'s fields in its turn. A field
that not all versions have is left out where it has its default, so that a graph that an earlier version can
hold is written as it was.
"""

import dataclasses
import functools
import json
import math
import re
import typing
from collections.abc import Callable
from typing import Any

import numpy as np

from tfprune.runtime.errors import FileFormatError
from tfprune.runtime.format.sections import StoredArray
from tfprune.runtime.graph import (
    ACTIVATIONS,
    MAX_NODES,
    Activation,
    Add,
    Combine,
    Concatenate,
    Constant,
    Conv,
    Embedding,
    Flatten,
    Gather,
    GlobalPool,
    Graph,
    Input,
    MatMul,
    Multiply,
    Node,
    Normalize,
    Output,
    Pool,
    Quantize,
    Recurrent,
    Shape,
)

# Those that version 1 has.
_FIRST_TYPES = (Input, Conv, Pool, GlobalPool, Add, Multiply, Concatenate, Activation, Flatten)
NODE_TYPES: dict[str, type[Node]] = {
    node_type.__name__: node_type
    for node_type in (
        *_FIRST_TYPES,
        *(Constant, Combine, Embedding, Gather, MatMul, Normalize, Recurrent),
        Quantize,
    )
}
_FIRST_ACTIVATIONS = tuple(ACTIVATIONS)[:12]
_ACTIVATIONS_OF_4 = ("nonzero",)
# No count or offset of a real file has more digits, and longer numbers only cost time.
MAX_DIGITS = 15


def header_text(graph: Graph, store: Callable[[Node, np.ndarray], StoredArray]) -> str:
    """Writes a graph as JSON.

    Args:
        graph: A valid graph.
        store: Called once with each array and its node, in the order of the header; returns the array's
            description.

    Returns:
        The header.
    """
    nodes = []
    for node in graph.nodes:
        nodes.append({"type": type(node).__name__, **_encode_object(node, functools.partial(store, node))})
    header = {"nodes": nodes}
    if graph.outputs:
        header["outputs"] = [_encode_object(output, _no_array) for output in graph.outputs]
    return json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def version_of(graph: Graph) -> int:
    """Returns the first version of the format that can hold a graph.

    Args:
        graph: A valid graph.
    """
    several = bool(graph.outputs) or len(graph.inputs) > 1
    shapes = graph.shapes()
    return max(2 if several else 1, *map(_version_of_node, graph.nodes, shapes))


def _version_of_node(node: Node, shape: Shape) -> int:
    needed = 1 if isinstance(node, _FIRST_TYPES) else 3 if isinstance(node, Quantize) else 2
    at_defaults = _at_defaults(node)
    for field in dataclasses.fields(node):
        if field.name not in at_defaults:
            needed = max(needed, field.metadata.get("since", 1))
    for activation in (getattr(node, name, "linear") for name in ("activation", "gate_activation")):
        across_pixels = activation == "softmax" and shape[:2] != (1, 1)
        if activation in _ACTIVATIONS_OF_4:
            needed = 4
        elif activation not in _FIRST_ACTIVATIONS or across_pixels:
            needed = max(needed, 2)
    return needed


def parse_header(text: str) -> tuple[Graph, list[StoredArray]]:
    """Reads a header.

    Args:
        text: The text that `header_text` wrote.

    Returns:
        The graph, each array in it a `StoredArray`; and these, in their order.

    Raises:
        FileFormatError: The text is not such a header. Of the graph's own rules only the number of nodes is
            checked.
    """
    header = _parse_json(text)
    if isinstance(header, dict):
        header.setdefault("outputs", [])
    if (
        not isinstance(header, dict)
        or header.keys() != {"nodes", "outputs"}
        or not all(isinstance(items, list) for items in header.values())
    ):
        raise FileFormatError(
            'the header must be an object of "nodes", a list, and perhaps "outputs", another'
        )
    if len(header["nodes"]) > MAX_NODES:  # Not each of them read in vain.
        raise FileFormatError(f"a graph may have {MAX_NODES} nodes. Received: {len(header['nodes'])}")
    arrays: list[StoredArray] = []
    nodes = []
    for index, item in enumerate(header["nodes"]):
        node_type = item.pop("type", None) if isinstance(item, dict) else None
        if not isinstance(node_type, str) or node_type not in NODE_TYPES:
            raise FileFormatError(f"node {index} must have one of the types {', '.join(NODE_TYPES)}")
        nodes.append(_decode_object(item, NODE_TYPES[node_type], f"node {index} ({node_type})", arrays))
    outputs = [
        _decode_object(item, Output, f"output {index}", arrays)
        for index, item in enumerate(header["outputs"])
    ]
    return Graph(tuple(nodes), tuple(outputs)), arrays


@functools.cache
def _fields(owner: type) -> dict[str, Any]:
    """Returns the name and the type of each field of a dataclass."""
    hints = typing.get_type_hints(owner)
    return {field.name: hints[field.name] for field in dataclasses.fields(owner)}


@functools.cache
def _later_fields(owner: type) -> dict[str, Any]:
    """Returns the name and the default of each field that not all versions have."""
    return {field.name: field.default for field in dataclasses.fields(owner) if "since" in field.metadata}


def _at_defaults(node: Node | Output | StoredArray) -> set[str]:
    """Returns the names of the later fields of a node that have their defaults."""
    return {name for name, default in _later_fields(type(node)).items() if getattr(node, name) == default}


@functools.cache
def _is_array(hint: Any) -> bool:
    return np.ndarray in (hint, *typing.get_args(hint))


def _no_array(array: np.ndarray) -> StoredArray:
    raise TypeError(f"only nodes have arrays. Received: {array.shape}")


def _encode_object(
    item: Node | Output | StoredArray, store: Callable[[np.ndarray], StoredArray]
) -> dict[str, Any]:
    left_out = _at_defaults(item)
    return {
        name: _encode(getattr(item, name), hint, store)
        for name, hint in _fields(type(item)).items()
        if name not in left_out
    }


def _encode(value: Any, hint: Any, store: Callable[[np.ndarray], StoredArray]) -> Any:
    if _is_array(hint):
        return _encode_object(store(value), store)
    if typing.get_origin(hint) is tuple:
        return [_encode(item, typing.get_args(hint)[0], store) for item in value]
    if typing.get_origin(hint) is dict:
        # Sorted: equal dictionaries give equal files.
        return {key: _encode(value[key], typing.get_args(hint)[1], store) for key in sorted(value)}
    return hint(value)


def _decode_object(item: Any, owner: type, where: str, arrays: list[StoredArray]) -> Any:
    fields, later = _fields(owner), _later_fields(owner)
    if not isinstance(item, dict) or not fields.keys() - later.keys() <= item.keys() <= fields.keys():
        perhaps = f" (and perhaps {', '.join(later)})" if later else ""
        needed = ", ".join(name for name in fields if name not in later)
        raise FileFormatError(f"{where} must be an object of exactly the keys {needed}{perhaps}")
    return owner(
        **{
            name: _decode(item[name], hint, f"{where}: {name}", arrays)
            for name, hint in fields.items()
            if name in item
        }
    )


def _decode(value: Any, hint: Any, where: str, arrays: list[StoredArray]) -> Any:
    if _is_array(hint):
        array = _decode_object(value, StoredArray, where, arrays)
        try:
            array.check()
        except FileFormatError as error:
            raise FileFormatError(f"{where}: {error}") from None
        arrays.append(array)
        return array
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        any_length = arguments[-1] is Ellipsis
        if type(value) is not list or not any_length and len(value) != len(arguments):
            count = "any number of" if any_length else len(arguments)
            raise FileFormatError(f"{where} must be a list of {count} items")
        if all(type(item) is int is arguments[0] for item in value):
            return tuple(value)  # Lists of inputs may be long.
        return tuple(_decode(item, arguments[0], where, arrays) for item in value)
    if origin is dict:
        if type(value) is not dict:
            raise FileFormatError(f"{where} must be an object")
        return {
            _decode(key, arguments[0], where, arrays): _decode(item, arguments[1], where, arrays)
            for key, item in value.items()
        }
    # Exactly: JSON's true is an int for isinstance.
    if type(value) is not hint:
        raise FileFormatError(f"{where} must be of type {hint.__name__}. Received: {type(value).__name__}")
    if hint is float and not math.isfinite(value):
        raise FileFormatError(f"{where} must be finite")
    if hint is str and re.search("[\ud800-\udfff]", value):
        # JSON can escape half of a surrogate pair, which can be neither printed nor written.
        raise FileFormatError(f"{where} must be Unicode")
    return value


def _parse_json(text: str) -> Any:
    try:
        return json.loads(
            text, parse_int=_parse_int, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
        )
    except json.JSONDecodeError as error:
        raise FileFormatError(f"the header is not JSON: {error}") from None
    except RecursionError:
        raise FileFormatError("the header is nested too deeply") from None


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise FileFormatError("the header has a number that is too long")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise FileFormatError(f"the header has the number {name}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise FileFormatError("the header has a key twice in one object")
    return result

"""The rules that several kinds of nodes share."""

from collections.abc import Sequence

import numpy as np

from tfprune.runtime.node import Node, Shape
from tfprune.runtime.sparse_array import SparseArray


def window_counts(
    node: Node,
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Returns how many windows fit in the padded height and width.

    Args:
        node: Whose windows.
        size: Height and width.
        window: The window's.
        strides: Vertical and horizontal.
        padding: Top, bottom, left, right.
        dilation: Vertical and horizontal.

    Raises:
        GraphError: None fits.
    """
    counts = []
    for axis in range(2):
        free = (
            size[axis] + padding[2 * axis] + padding[2 * axis + 1] - (window[axis] - 1) * dilation[axis] - 1
        )
        if free < 0:
            raise node.refuse(f"a window {window} does not fit {size} with padding {padding}")
        counts.append(free // strides[axis] + 1)
    return counts[0], counts[1]


def check_count(node: Node, shapes: Sequence[Shape], count: int) -> None:
    """Raises a GraphError unless a node has so many inputs."""
    if len(shapes) != count:
        raise node.refuse(f"takes {count} inputs. Received: {len(shapes)}")


def check_numbers(node: Node, name: str, values: Sequence[int], count: int, least: int) -> None:
    """Raises a GraphError unless an attribute is `count` integers from `least` up to 65535."""
    right = isinstance(values, tuple | list) and len(values) == count
    right = right and all(
        isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**16 for value in values
    )
    if not right:
        raise node.refuse(f"`{name}` must be {count} integers of at least {least}. Received: {values}")


def check_choice(node: Node, name: str, value: str, choices: Sequence[str]) -> None:
    """Raises a GraphError unless an attribute is one of the choices."""
    if value not in choices:
        raise node.refuse(f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}")


def check_array(node: Node, name: str, array: np.ndarray | SparseArray, shape: tuple[int, ...]) -> None:
    """Raises a GraphError unless a weight has its shape, is float32 and finite."""
    if not isinstance(array, np.ndarray | SparseArray):
        raise node.refuse(f"`{name}` must be an array. Received: {type(array).__name__}")
    values = array.values if isinstance(array, SparseArray) else array
    if np.shape(array) != shape or array.dtype != np.float32:
        raise node.refuse(f"`{name}` must be float32 {shape}. Received: {array.dtype} {array.shape}")
    if not np.isfinite(values).all():
        raise node.refuse(f"`{name}` must be finite. Received: values that are not")


def check_softmax(node: Node, activation: str, shape: Shape) -> None:
    """Raises a GraphError if a softmax is to be taken of more than a vector."""
    if activation == "softmax" and shape[:2] != (1, 1):
        raise node.refuse(f"softmax is for vectors. Received: {shape}")

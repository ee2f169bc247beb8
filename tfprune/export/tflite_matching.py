"""Finds a Keras layer's kernel among the weights of a TFLite file."""

import numpy as np

from tfprune.export.tflite_weights import TFLiteWeights

# The right tensor differs from the kernel by a factor for each output channel (BatchNorm, folded
# in) and by rounding; int8 leaves a cosine above 0.99. Unrelated tensors are near 0.
MIN_SIMILARITY = 0.95


def matching_weights(kernel: np.ndarray, candidates: list[TFLiteWeights]) -> list[np.ndarray]:
    """Returns the stored weights that are this kernel.

    They are told by shape and content, not by name: the converter's names are made of name scopes,
    with numbers appended, and of what was fused. For each output channel the stored values must be
    the kernel's times a factor.

    Args:
        kernel: The Keras layer's kernel.
        candidates: The file's weights.

    Returns:
        The values of each match, in the kernel's layout. How many there may be is for the caller
        to judge.
    """
    matches = []
    for candidate in candidates:
        values = in_keras_layout(candidate, kernel.shape)
        if values is not None and _similarity(kernel, values, candidate.layout) >= MIN_SIMILARITY:
            matches.append(values)
    return matches


def in_keras_layout(weights: TFLiteWeights, shape: tuple[int, ...]) -> np.ndarray | None:
    """Transposes stored weights to the layout of a Keras kernel.

    Args:
        weights: The stored weights.
        shape: The kernel's shape.

    Returns:
        The values in that shape, or None if they cannot be a kernel of it.
    """
    values = weights.values
    if weights.layout == "1HWC":
        values = values[0]
        fits = len(shape) == 4 and values.shape == (*shape[:2], shape[2] * shape[3])
        return values.reshape(shape) if fits else None
    if weights.layout == "OHWI":
        values = values.transpose(1, 2, 3, 0)
    elif weights.layout == "OHWI_transposed":
        values = values.transpose(1, 2, 0, 3)
    elif weights.layout == "OI":
        values = values.T
    # A Conv1D gains a leading 1; a 1x1 convolution may become a matrix product.
    same = _without_leading_ones(values.shape) == _without_leading_ones(shape)
    return values.reshape(shape) if same else None


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return tuple(sizes)


def _similarity(kernel: np.ndarray, values: np.ndarray, layout: str) -> float:
    """Returns the cosine a channel, whatever its sign, averaged by the channels' norms.

    A channel without any weight left in the kernel, or scaled to zero, says nothing.
    """
    axes = {"1HWC": (0, 1), "OHWI_transposed": (0, 1, 3)}.get(layout, tuple(range(kernel.ndim - 1)))
    kernel, values = kernel.astype(np.float64), values.astype(np.float64)
    product = np.abs((kernel * values).sum(axes))
    norms = np.linalg.norm(_flat(kernel, axes), axis=0) * np.linalg.norm(_flat(values, axes), axis=0)
    return float(product.sum() / norms.sum()) if norms.sum() > 0 else 0.0


def _flat(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    moved = np.moveaxis(array, axes, range(len(axes)))
    return moved.reshape(int(np.prod(moved.shape[: len(axes)])), -1)

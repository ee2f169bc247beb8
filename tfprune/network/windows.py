"""Windows that move over images, and kernels as such windows see them."""

import math
from typing import Any

from tfprune.network.kinds import KernelEntry

NO_PADDING = (0, 0, 0, 0)


def same_padding(
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int, int, int]:
    """Returns the zeros that `padding="same"` adds in Keras; the far side gets the odd one.

    Args:
        size: Height and width of the input.
        window: Height and width of the kernel or the pool.
        strides: Vertical and horizontal.
        dilation: Vertical and horizontal.

    Returns:
        `(top, bottom, left, right)`.
    """
    padding: list[int] = []
    for length, taps, stride, rate in zip(size, window, strides, dilation, strict=True):
        outputs = -(-length // stride)
        total = max((outputs - 1) * stride + (taps - 1) * rate + 1 - length, 0)
        padding += [total // 2, total - total // 2]
    return tuple(padding)


def pair(numbers: Any) -> tuple[int, int]:
    """Returns the vertical and the horizontal number of a layer's configuration as plain integers."""
    vertical, horizontal = (int(number) for number in numbers)
    return vertical, horizontal


def grouped_shape(shape: tuple[int, ...], entry: KernelEntry) -> tuple[int, int, int, int]:
    """Returns a kernel's shape as `[height, width, inputs of a group, outputs]`; the flat order stays.

    A dense kernel has no height and width. A depthwise one, `[height, width, channels, multiplier]`, has a
    group for each channel.

    Args:
        shape: Of the variable.
        entry: The kernel's entry in `KINDS`, of a dense layer or a convolution of one or two dimensions.
    """
    outputs = math.prod(shape[axis] for axis in entry.axes.outputs)
    height, width = (1, 1, *shape[:-2])[-2:]
    return height, width, math.prod(shape) // (height * width * outputs), outputs

"""Geometric operations on uint8 images: nearest neighbour, same size, black where nothing comes from.

The source pixel of every output pixel is computed as Pillow's `Image.transform(AFFINE)` does it:
16.16 fixed point, from the centre of the output pixel. OpenCV's `warpAffine` rounds differently;
`remap` with an integer map copies exactly the pixels it is told to.
"""

import functools
import math

import numpy as np

from tfprune.extras import extra

with extra("experiments"):
    import cv2

# remap takes int16 coordinates.
_LARGEST_SIDE = np.iinfo(np.int16).max

_FIXED_POINT_BITS = 16


def shear_x(image: np.ndarray, slope: float) -> np.ndarray:
    """Moves each row to the left by `slope` pixels for every pixel that it is below the top."""
    return _transform(image, (1.0, slope, 0.0, 0.0, 1.0, 0.0))


def shear_y(image: np.ndarray, slope: float) -> np.ndarray:
    """Moves each column up by `slope` pixels for every pixel that it is right of the left edge."""
    return _transform(image, (1.0, 0.0, 0.0, slope, 1.0, 0.0))


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates about the centre, counter-clockwise."""
    height, width = image.shape[:2]
    angle = -math.radians(degrees % 360.0)
    # Pillow rounds to 15 decimals, which makes quarter turns exact.
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    centre_x, centre_y = width / 2, height / 2
    offset_x = cosine * -centre_x + sine * -centre_y + centre_x
    offset_y = -sine * -centre_x + cosine * -centre_y + centre_y
    return _transform(image, (cosine, sine, offset_x, -sine, cosine, offset_y))


def translate_x(image: np.ndarray, pixels: int) -> np.ndarray:
    """Moves the image to the right by `pixels` (to the left where negative)."""
    moved = np.zeros_like(image)
    if pixels >= 0:
        moved[:, pixels:] = image[:, : max(image.shape[1] - pixels, 0)]
    else:
        moved[:, :pixels] = image[:, -pixels:]
    return moved


def translate_y(image: np.ndarray, pixels: int) -> np.ndarray:
    """Moves the image down by `pixels` (up where negative)."""
    moved = np.zeros_like(image)
    if pixels >= 0:
        moved[pixels:] = image[: max(len(image) - pixels, 0)]
    else:
        moved[:pixels] = image[-pixels:]
    return moved


def _transform(image: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
    """Takes output pixel (x, y) from (a x + b y + c, d x + e y + f) of the image."""
    source = _source_pixels(matrix, *image.shape[:2])
    return cv2.remap(image, source, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)


# AutoAugment uses ten magnitudes of two signs, of three operations: at 224x224, 0.2 MB each.
@functools.lru_cache(maxsize=64)
def _source_pixels(matrix: tuple[float, ...], height: int, width: int) -> np.ndarray:
    """Returns each output pixel's source (x, y), as int16 [height, width, 2]; -1 where outside."""
    if max(height, width) > _LARGEST_SIDE:
        raise ValueError(
            f"Image sides must be at most {_LARGEST_SIDE}. Received: height={height}, width={width}"
        )
    x, y = np.arange(width, dtype=np.int64), np.arange(height, dtype=np.int64)[:, np.newaxis]
    source = np.empty((height, width, 2), np.int16)
    for axis, (from_x, from_y, offset) in enumerate((matrix[:3], matrix[3:])):
        start = _fixed_point(offset + from_x * 0.5 + from_y * 0.5)
        fixed = start + _fixed_point(from_x) * x + _fixed_point(from_y) * y
        position = fixed >> _FIXED_POINT_BITS
        outside = (position < 0) | (position >= (width, height)[axis])
        source[..., axis] = np.where(outside, -1, position)
    source.flags.writeable = False
    return source


def _fixed_point(value: float) -> int:
    return math.floor(value * 2**_FIXED_POINT_BITS + 0.5)

"""Blends of a uint8 RGB image with its grey or smoothed version, as Pillow's `ImageEnhance` makes them."""

import numpy as np

from tfprune.extras import extra

with extra("experiments"):
    import cv2

# Pillow's weights of R, G and B in grey, and a half to round. Products and sums are exact in float32,
# being multiples of 2**-16 below 256.
_GREY_WEIGHTS = np.array([[19595, 38470, 7471, 32768]], np.float32) / 65536

# OpenCV rounds where Pillow truncates: subtract a half, less a little, so that whole numbers stay whole.
_TRUNCATION = -0.5 + 1e-3


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Moves every pixel towards its grey (`factor` < 1) or away from it (`factor` > 1).

    Args:
        image: uint8 array of shape [height, width, 3].
        factor: 0 gives the grey image, 1 the image itself.

    Returns:
        A new uint8 array of the image's shape.
    """
    return _blend(cv2.cvtColor(grey(image), cv2.COLOR_GRAY2RGB), image, factor)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Moves every pixel towards its smoothed version (`factor` < 1) or away from it (`factor` > 1).

    Args:
        image: uint8 array of shape [height, width, 3].
        factor: 0 gives the smoothed image, 1 the image itself.

    Returns:
        A new uint8 array of the image's shape.
    """
    return _blend(_smooth(image), image, factor)


def grey(image: np.ndarray) -> np.ndarray:
    """Returns Pillow's `L` of an RGB image, uint8 of shape [height, width]."""
    return cv2.transform(image.astype(np.float32), _GREY_WEIGHTS).astype(np.uint8)


def mean_grey(image: np.ndarray) -> int:
    """Returns the mean of `grey(image)`, rounded half up."""
    levels = grey(image)
    return int(cv2.sumElems(levels)[0] / levels.size + 0.5)


def _smooth(image: np.ndarray) -> np.ndarray:
    """Pillow's SMOOTH: the mean of 3x3 pixels where the centre counts five times; the border stays."""
    if min(image.shape[:2]) < 3:
        return image
    total = cv2.boxFilter(image, cv2.CV_16U, (3, 3), normalize=False)
    total += np.uint16(4) * image
    # A thirteenth of a whole number is never half way between two, so float rounding is exact.
    smooth = cv2.convertScaleAbs(total, alpha=1 / 13)
    for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        smooth[border] = image[border]
    return smooth


def _blend(degenerate: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    """`degenerate + factor * (image - degenerate)`, cut to [0, 255] and truncated."""
    factor = float(np.float32(factor))
    return cv2.addWeighted(image, factor, degenerate, 1.0 - factor, _TRUNCATION)

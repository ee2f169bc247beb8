"""Resizing uint8 images: bilinear where they grow, the average of areas where they shrink."""

import numpy as np

from tfprune.extras import extra

with extra("experiments"):
    import cv2


def resize(image: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Resizes an image into an array.

    An axis that grows is interpolated bilinearly with half-pixel centres (within one grey level of
    Pillow's `BILINEAR`). An axis that shrinks is averaged over the area that each new pixel covers.

    Args:
        image: uint8 array of shape [height, width, 3].
        out: uint8 array of shape [new height, new width, 3] to write to.

    Returns:
        `out`.
    """
    height, width = image.shape[:2]
    new_height, new_width = out.shape[:2]
    # OpenCV averages areas only where no axis grows, so shrinking comes first.
    if height > new_height or width > new_width:
        shrunk = (min(width, new_width), min(height, new_height))
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if image.shape == out.shape:
        out[...] = image
    else:
        cv2.resize(image, (new_width, new_height), dst=out, interpolation=cv2.INTER_LINEAR)
    return out

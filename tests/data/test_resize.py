import numpy as np
import pytest
from PIL import Image

from tfprune.data.resize import resize


def resized(image, height, width=None):
    return resize(image, out=np.zeros((height, width or height, 3), np.uint8))


@pytest.mark.parametrize("label", ["china 8x8", "flower 32x32", "china 57x33", "flower 224x224", "one pixel"])
@pytest.mark.parametrize("factor", [1.1, 2, 3.3, 7])
def test_enlarging_is_within_one_grey_level_of_pillow(label, factor, photographs):
    image = photographs[label]
    height, width = (int(np.ceil(side * factor)) for side in image.shape[:2])
    pillow = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    difference = resized(image, height, width).astype(int) - np.asarray(pillow)
    assert np.abs(difference).max() <= 1


def area_matrix(size, new_size):
    """Row i holds how much of new pixel i each old pixel covers."""
    edges = np.arange(new_size + 1) * size / new_size
    old = np.arange(size)
    left = np.maximum(edges[:-1, np.newaxis], old)
    right = np.minimum(edges[1:, np.newaxis], old + 1)
    return np.maximum(right - left, 0) * new_size / size


@pytest.mark.parametrize("size", [1, 16, 75, 112, 223])
def test_shrinking_averages_areas(size, photographs):
    image = photographs["china 224x224"]
    matrix = area_matrix(224, size)
    expected = np.einsum("yh,xw,hwc->yxc", matrix, matrix, image.astype(float), optimize=True)
    assert np.abs(resized(image, size) - expected).max() <= 1


def test_one_axis_shrinks_and_the_other_grows(photographs):
    image = photographs["china 57x33"]
    shrunk = np.einsum("xw,hwc->hxc", area_matrix(57, 40), image.astype(float))
    pillow = Image.fromarray(np.uint8(np.rint(shrunk))).resize((40, 40), Image.Resampling.BILINEAR)
    assert np.abs(resized(image, 40).astype(int) - np.asarray(pillow)).max() <= 2


def test_same_size_copies(photographs):
    image = photographs["china 32x32"]
    out = np.zeros_like(image)
    assert resize(image, out=out) is out
    np.testing.assert_array_equal(out, image)

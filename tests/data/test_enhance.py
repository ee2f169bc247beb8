import numpy as np
from PIL import Image, ImageStat

from tfprune.data import enhance


def test_grey_equals_pillow(photographs):
    values = np.arange(0, 256, 5, dtype=np.uint8)
    cube = np.stack(np.meshgrid(values, values, values), axis=-1).reshape(52, -1, 3)
    for image in (*photographs.values(), cube):
        np.testing.assert_array_equal(enhance.grey(image), np.asarray(Image.fromarray(image).convert("L")))


def test_mean_grey_equals_pillow(photographs):
    for image in photographs.values():
        mean = ImageStat.Stat(Image.fromarray(image).convert("L")).mean[0]
        assert enhance.mean_grey(image) == int(mean + 0.5)


def test_factor_1_gives_the_image_and_0_the_grey_one(photographs):
    for image in photographs.values():
        np.testing.assert_array_equal(enhance.color(image, 1.0), image)
        np.testing.assert_array_equal(enhance.sharpness(image, 1.0), image)
        grey = enhance.grey(image)
        np.testing.assert_array_equal(enhance.color(image, 0.0), np.stack([grey] * 3, axis=-1))

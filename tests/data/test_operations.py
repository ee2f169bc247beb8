import numpy as np
import pytest
from PIL import Image

from tests.support import pillow_reference
from tfprune.data import policies
from tfprune.data.operations import OPERATIONS, apply_operations

# Blends of two images: within one grey level of Pillow's, in at most this share of the values.
BLENDS = {"Color": 0.05, "Sharpness": 0.02}


def magnitudes(name, image):
    if name not in policies.WITH_MAGNITUDE:
        return [0.0]
    values = policies.magnitudes(name, *image.shape[:2])
    return [*values, *(-value for value in values)] if name in policies.SIGNED else list(values)


def pillow(image, operations):
    return np.asarray(pillow_reference.apply_operations(Image.fromarray(image), operations))


def test_operations_are_the_fourteen_of_the_reference():
    assert set(OPERATIONS) == set(pillow_reference.OPERATIONS)
    assert len(OPERATIONS) == 14


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in BLENDS])
def test_equals_pillow(name, photographs):
    # Geometric operations included: the share of differing pixels is 0.
    for label, image in photographs.items():
        for magnitude in magnitudes(name, image):
            ours = apply_operations(image, [(name, magnitude)])
            theirs = pillow(image, [(name, magnitude)])
            np.testing.assert_array_equal(ours, theirs, f"{label}, {name} {magnitude}")


@pytest.mark.parametrize("name", BLENDS)
def test_blends_are_within_one_grey_level_of_pillow(name, photographs):
    for label, image in photographs.items():
        for magnitude in magnitudes(name, image):
            ours = apply_operations(image, [(name, magnitude)]).astype(int)
            difference = np.abs(ours - pillow(image, [(name, magnitude)]))
            assert difference.max() <= 1, f"{label}, {name} {magnitude}"
            assert np.mean(difference > 0) <= BLENDS[name], f"{label}, {name} {magnitude}"


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_highest_magnitude_changes_a_photograph(name, photographs):
    image = photographs["flower 32x32"]
    highest = magnitudes(name, image)[policies.LEVELS - 1 if name in policies.WITH_MAGNITUDE else 0]
    before = image.copy()
    assert np.mean(apply_operations(image, [(name, highest)]) != before) > 0.1
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("degrees", [0, 45, 77.7, 90, 180, 270, -90, 359.9])
def test_rotation_by_any_angle_equals_pillow(degrees, photographs):
    for image in photographs.values():
        np.testing.assert_array_equal(
            apply_operations(image, [("Rotate", degrees)]), pillow(image, [("Rotate", degrees)])
        )


@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
@pytest.mark.parametrize("pixels", [-100, -32, -1.9, 1.9, 31, 32, 100])
def test_translation_truncates_and_may_leave_the_image(name, pixels, photographs):
    image = photographs["china 32x32"]
    ours = apply_operations(image, [(name, pixels)])
    np.testing.assert_array_equal(ours, pillow(image, [(name, pixels)]))
    assert (abs(pixels) >= 32) == (not ours.any())


POINT = ["Brightness", "Contrast", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert"]


@pytest.mark.parametrize("first", POINT)
@pytest.mark.parametrize("second", POINT)
def test_a_folded_chain_equals_pillow_one_by_one(first, second, photographs):
    magnitude = {"Brightness": -0.4, "Contrast": 0.6, "Posterize": 5, "Solarize": 113.3}
    chain = [(name, magnitude.get(name, 0.0)) for name in (first, second, "Equalize", first)]
    for label in ("china 57x33", "flower 32x32", "flower 224x224", "two grey levels"):
        image = photographs[label]
        for length in (2, 3, 4):
            np.testing.assert_array_equal(
                apply_operations(image, chain[:length]), pillow(image, chain[:length]), label
            )


def test_a_chain_with_geometry_between_equals_pillow(photographs):
    chain = [("Invert", 0.0), ("Rotate", 20.0), ("AutoContrast", 0.0), ("ShearX", -0.2), ("Equalize", 0.0)]
    for image in photographs.values():
        np.testing.assert_array_equal(apply_operations(image, chain), pillow(image, chain))


def test_no_operation_returns_the_image(photographs):
    image = photographs["china 8x8"]
    assert apply_operations(image, []) is image


def test_unknown_operation_lists_the_valid(photographs):
    with pytest.raises(ValueError, match="'Cutout'.*ShearX.*Invert"):
        apply_operations(photographs["china 8x8"], [("Cutout", 1.0)])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_not_an_image(image):
    with pytest.raises(ValueError, match=r"uint8 array of shape \[height, width, 3\].*Received"):
        apply_operations(image, [("Invert", 0.0)])


def test_posterize_checks_its_bits(photographs):
    with pytest.raises(ValueError, match=r"\[0, 8\]. Received: bits=9"):
        apply_operations(photographs["china 8x8"], [("Posterize", 9)])

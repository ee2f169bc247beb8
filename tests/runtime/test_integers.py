"""Weights as 8-bit integers: the steps of each channel, and those that it was rounded to before."""

import numpy as np
import pytest

from tfprune.runtime import integers
from tfprune.runtime.integers import channel_scales, to_int8

pytestmark = pytest.mark.one_backend


def dense(kernel):
    """The integers of a kernel, in its shape."""
    positions, integers, _ = to_int8(kernel)
    filled = np.zeros(kernel.size, np.int8)
    filled[positions] = integers
    return filled.reshape(kernel.shape)


def rounded(kernel):
    return dense(kernel) * channel_scales(kernel)


def random_kernel(density, shape=(3, 3, 16, 12), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * (rng.random(shape) < density)).astype(np.float32)


@pytest.mark.parametrize("density", [1.0, 0.3, 0.03])
def test_the_largest_weight_of_a_channel_is_127_steps(density):
    kernel = random_kernel(density)
    largest = np.abs(kernel).max(axis=(0, 1, 2))
    scales = channel_scales(kernel)
    several = np.count_nonzero(kernel, axis=(0, 1, 2)) > 3
    assert several.any()
    np.testing.assert_array_equal(scales[several], largest[several] / np.float32(127))
    errors = (rounded(kernel) - kernel) / scales
    assert (np.abs(errors) < 1).all() and np.abs(errors).mean() < 0.3


@pytest.mark.parametrize("shape", [(3, 3, 16, 12), (1, 1, 200, 12), (3, 3, 1, 24)])
def test_errors_of_an_output_cancel(shape):
    kernel = random_kernel(0.6, shape)
    steps = kernel / channel_scales(kernel)
    errors, nearest = dense(kernel) - steps, np.rint(steps) - steps
    assert np.abs(errors.sum(axis=(0, 1, 2))).max() <= 0.501
    assert np.abs(nearest.sum(axis=(0, 1, 2))).max() > 1
    inputs, of_nearest = (np.square(each.sum(axis=(0, 1))).mean() for each in (errors, nearest))
    assert shape[:2] == (1, 1) or inputs < 0.6 * of_nearest
    assert not dense(kernel)[kernel == 0].any()
    # No more weights are turned than the sums ask for, and none that was far from halfway.
    turned = dense(kernel) != np.rint(steps)
    assert 0 < turned.mean() < 0.2 and (shape[:2] != (1, 1) or np.abs(nearest[turned]).min() > 0.4)


@pytest.mark.parametrize("shape", [(3, 3, 16, 12), (1, 1, 200, 12)])
def test_a_part_at_a_time_is_the_same(shape, monkeypatch):
    """And when few weights count as nearly halfway, so that outputs have too few of these."""
    kernel = random_kernel(0.6, shape)
    wanted = to_int8(kernel)
    monkeypatch.setattr(integers, "_AT_A_TIME", 100)
    monkeypatch.setattr(integers, "_NEARLY_HALFWAY", 0.48)
    for found, expected in zip(to_int8(kernel), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_sums_of_positive_inputs_are_nearer_than_with_the_nearest_weights():
    kernel = random_kernel(0.3, (1, 1, 400, 12))[0, 0]
    inputs = np.random.default_rng(1).random((100, len(kernel)))
    scales = channel_scales(kernel)
    off, nearest = (
        np.square(inputs @ (weights - kernel)).mean()
        for weights in (rounded(kernel), np.rint(kernel / scales) * scales)
    )
    assert off < 0.7 * nearest


@pytest.mark.parametrize("density", [1.0, 0.3, 0.03])
def test_what_was_rounded_is_rounded_to_itself(density):
    once = rounded(random_kernel(density))
    np.testing.assert_array_equal(rounded(once), once)


@pytest.mark.parametrize("part", [np.s_[:, :, 3:], np.s_[::2, 1:], np.s_[:1, :1, :2]])
def test_a_part_of_what_was_rounded_keeps_its_steps(part):
    """Its largest weight may be fewer than 127 of them."""
    once = rounded(random_kernel(0.3))[part] * np.linspace(0.1, 3, 12, dtype=np.float32)
    assert (np.abs(once).max(axis=(0, 1, 2)) < 126.5 * np.abs(channel_scales(once))).any()
    np.testing.assert_allclose(rounded(once), once, rtol=1e-5)


def test_numbers_at_the_ends_of_float32():
    kernel = np.zeros((1, 1, 3, 4), np.float32)
    kernel[0, 0, :, 0] = np.finfo(np.float32).max * np.array([1, 0.5, 0.25], np.float32)
    kernel[0, 0, 0, 1] = np.finfo(np.float32).smallest_subnormal
    kernel[0, 0, :2, 2] = np.finfo(np.float32).tiny, -np.finfo(np.float32).tiny
    scales = channel_scales(kernel)
    assert np.isfinite(scales).all() and (scales > 0).all() and scales[3] == 1
    kernel[0, 0, :, 1] = np.finfo(np.float32).smallest_subnormal * np.array([190, 189, 188], np.float32)
    assert np.isfinite(rounded(kernel)).all()
    np.testing.assert_array_equal(dense(kernel)[0, 0, :, 1], 127)

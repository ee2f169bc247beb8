"""Random models, parts of whose weights are zero: what `shrink` makes of them has their outputs."""

from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from tests.support import masked_twin
from tests.support.random_models import examples, models
from tfprune.channels import narrow
from tfprune.structured import dead_channels, shrink


def zero_some(model, rng):
    """Removes some rows and columns of most kernels, all of others, and some values of other weights."""
    for weight in model.weights:
        values = np.array(ops.convert_to_numpy(weight))
        if not values.ndim or values.dtype.kind != "f" or "variance" in weight.path or rng.random() < 0.25:
            continue
        if values.ndim > 1 and rng.random() < 0.2:
            values *= 0
        for axis in range(max(values.ndim - 2, 0), values.ndim):
            if values.ndim > 1 or rng.random() < 0.5:
                stays = rng.random(values.shape[axis]) > rng.choice([0.3, 0.6, 0.9])
                sizes = [1] * values.ndim
                sizes[axis] = -1
                values *= stays.reshape(sizes)
        weight.assign(values)


@pytest.mark.slow
@examples(30, on_jax=4)
@given(models(branches=True), st.integers(0, 999), st.booleans())
def test_no_output_changes(model, seed, small_ones):
    """With `small_ones`, convolutions so small as these are narrowed whatever that costs."""
    zero_some(model, np.random.default_rng(seed))
    with mock.patch.multiple(narrow, _INSERTED=0, _MOVED=0, _LANES=1) if small_ones else nullcontext():
        found = dead_channels(model)
        if not (found.narrowed or any(layer.dead for layer in found.layers)):
            return
        small = shrink(model)
        assert len(shrink(small).layers) <= len(small.layers)
    assert found.narrowed or small.count_params() < model.count_params()
    inputs = masked_twin.random_inputs(model, seed)
    outputs = zip(*(masked_twin.outputs_of(each, inputs) for each in (model, small)), strict=True)
    for expected, made in outputs:
        assert np.abs(made - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1e-3)

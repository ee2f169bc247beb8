"""Random models of all layers that take channels: each compiles and equals Keras, or is refused by name."""

import collections

import numpy as np
import pytest
from hypothesis import given

from tests.support.compiled_models import outputs_of, run_in_runtime
from tests.support.random_models import examples, models
from tfprune.compiler.compile import compile_model
from tfprune.errors import UserError

outcomes = collections.Counter()


@pytest.mark.slow
@examples(25)
@given(model=models(steps=4))
def test_random_models(model):
    """Most of the layers are among those that the runtime runs."""
    try:
        graph = compile_model(model, shrink=False)
    except UserError as error:
        assert "the sparse runtime cannot run it" in str(error)
        outcomes["refused"] += 1
        return
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(2, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
    expected = outputs_of(model, inputs)
    for found, wanted in zip(run_in_runtime(graph, inputs).values(), expected, strict=True):
        largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * largest)
    outcomes["equal"] += 1


def test_the_most_are_run():
    if outcomes:  # Where the test above was not left out.
        assert outcomes["equal"] > outcomes["refused"]

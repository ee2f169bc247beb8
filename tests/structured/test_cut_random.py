"""Random models, cut at random, compute what their masked twins do."""

import keras
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import masked_twin
from tests.support.random_models import models

# JAX compiles each operation of each model.
_EXAMPLES = 3 if keras.backend.backend() == "jax" else 12


@pytest.mark.slow
@settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(models(channels_first=keras.backend.backend() != "tensorflow"), st.integers(0, 999))
def test_no_difference_from_the_masked_twin(model, seed):
    masked_twin.check_cut(model, masked_twin.random_inputs(model, seed), seed)

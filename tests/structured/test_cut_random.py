"""Random models, cut at random, compute what their masked twins do."""

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import masked_twin
from tests.support.random_models import examples, models


@pytest.mark.slow
@examples(12, on_jax=3)
@given(models(channels_first=keras.backend.backend() != "tensorflow"), st.integers(0, 999))
def test_no_difference_from_the_masked_twin(model, seed):
    masked_twin.check_cut(model, masked_twin.random_inputs(model, seed), seed)

"""A plan's sizes are those of the applied model, for random models of all that takes channels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.random_models import examples, models
from tfprune.network.macs import kernel_uses, total
from tfprune.structured import plan


@pytest.mark.slow
@pytest.mark.one_backend
@examples(6)
@given(models(), st.sampled_from(["global", "layer", "equal"]), st.sampled_from([1, 2, 4]), st.data())
def test_sizes(model, scope, round_to, data):
    arguments = {"scope": scope, "round_to": round_to}
    least = 0.0
    try:
        plan(model, params=1e-9, **arguments)
    except ValueError as error:
        least = float(str(error).split("at least ")[1].split(":")[0])
    made = plan(model, params=data.draw(st.sampled_from(np.linspace(least, 1.0, 5)[:-1])), **arguments)
    small = made.apply()
    for size, built in ((made.before, model), (made.after, small)):
        assert size.parameters == built.count_params()
        assert size.macs == total([use.macs for use in kernel_uses(built)])

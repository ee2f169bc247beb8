"""Every built-in layer with weights: it equals Keras in the kernels, or is refused by name."""

import keras
import numpy as np
import pytest

from tests.support.compiled_models import outputs_of, run_in_runtime
from tests.support.layer_kinds import NEVER_PRUNED, PRUNED, call, inputs_of
from tfprune.compiler.compile import compile_model
from tfprune.errors import UserError

EXAMPLES = PRUNED | NEVER_PRUNED
# Of volumes, of images in time, and a transform of Fourier's.
REFUSED = {
    "Conv3D",
    "Conv3DTranspose",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "STFTSpectrogram",
    "TimeDistributed",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_layer(name):
    example = EXAMPLES[name]
    inputs = inputs_of(example)
    model = keras.Model(inputs, call(example.make(), inputs))
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.uniform(0.2, 1, weight.shape) * rng.choice([-1, 1], weight.shape))
    if name in REFUSED:
        with pytest.raises(UserError, match="the sparse runtime cannot run it") as error:
            compile_model(model)
        assert name in str(error.value) or "its inputs must be images" in str(error.value)
        return
    graph = compile_model(model)
    given = [
        (rng.integers(0, 9, (3, *x.shape[1:])) if x.dtype == "int32" else rng.normal(size=(3, *x.shape[1:])))
        for x in inputs
    ]
    given = [array.astype(x.dtype) for array, x in zip(given, inputs, strict=True)]
    for found, wanted in zip(run_in_runtime(graph, given).values(), outputs_of(model, given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))

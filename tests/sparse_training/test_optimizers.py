"""The optimizers beside Keras's own, on the same gradients."""

import keras
import numpy as np
import pytest

from tests.support.sparse_graphs import Builder
from tfprune.sparse_training import optimizers
from tfprune.sparse_training.engine import Engine
from tfprune.training.optimizer import TorchAdam

pytestmark = pytest.mark.one_backend

STEPS = 20


@pytest.fixture(scope="module")
def engine():
    """A network with parameters of one number, of few, and of more than a piece."""
    b = Builder((1, 1, 3))
    x = b.dense(0, 70)
    x = b.norm(b.dense(x, 130, bias=False))
    b.dense(x, 1)
    return Engine(b.graph, 4, 2)


def run_both(engine, ours, keras_optimizer, **options):
    """Applies gradients of many sizes to both, and compares weights and slots."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=len(engine.values)).astype(np.float32)
    engine.values[:] = start
    update = optimizers.Update(engine, ours, **options)
    variables = [keras.Variable(start[part], name=name) for name, part in engine.slices.items()]
    keras_optimizer.build(variables)
    for step in range(STEPS):
        scale = 10.0 ** rng.uniform(-4, 1, size=len(start))
        gradient = (rng.normal(size=len(start)) * scale).astype(np.float32)
        engine.gradients[:] = gradient
        rate = 0.01 / (step + 1)
        keras_optimizer.learning_rate = rate
        keras_optimizer.apply([gradient[part] for part in engine.slices.values()], variables)
        update.apply(rate, step + 1)
    expected = np.concatenate([np.ravel(keras.ops.convert_to_numpy(v)) for v in variables])
    np.testing.assert_allclose(engine.values, expected, rtol=2e-6, atol=1e-7)
    slots = keras_optimizer.variables[2:]  # Behind the iterations and the learning rate.
    for name, numbers in update.slots.items():
        of_name = [v for v in slots if v.path.endswith(name)]
        expected = np.concatenate([np.ravel(keras.ops.convert_to_numpy(v)) for v in of_name])
        np.testing.assert_allclose(numbers, expected, rtol=2e-6, atol=1e-7)


OPTIMIZERS = {
    "adam": (optimizers.Adam(), keras.optimizers.Adam()),
    "adam with other numbers": (
        optimizers.Adam(beta_1=0.8, beta_2=0.99, epsilon=1e-3),
        keras.optimizers.Adam(beta_1=0.8, beta_2=0.99, epsilon=1e-3),
    ),
    "adamw": (optimizers.Adam(weight_decay=0.04), keras.optimizers.AdamW(weight_decay=0.04)),
    "torch adam": (optimizers.TorchAdam(), TorchAdam()),
    "torch adam with decay": (optimizers.TorchAdam(weight_decay=0.05), TorchAdam(weight_decay=0.05)),
    "sgd": (optimizers.SGD(), keras.optimizers.SGD()),
    "momentum": (optimizers.SGD(momentum=0.9), keras.optimizers.SGD(momentum=0.9)),
    "nesterov with decay": (
        optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=0.01),
        keras.optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "clipvalue": (optimizers.Adam(clipvalue=0.01), keras.optimizers.Adam(clipvalue=0.01)),
    "clipnorm": (optimizers.SGD(clipnorm=0.5), keras.optimizers.SGD(clipnorm=0.5)),
    "global clipnorm": (
        optimizers.SGD(global_clipnorm=2.0, momentum=0.5),
        keras.optimizers.SGD(global_clipnorm=2.0, momentum=0.5),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_kerass(engine, name):
    run_both(engine, *OPTIMIZERS[name])


def test_some_parameters_learn_faster_and_some_do_not_decay(engine):
    names = list(engine.slices)
    run_both(
        engine,
        optimizers.TorchAdam(weight_decay=0.1),
        TorchAdam(weight_decay=0.1, learning_rate_multipliers={names[0]: 10.0}),
        factors={names[0]: 10.0},
    )
    theirs = keras.optimizers.AdamW(weight_decay=0.1)
    theirs.exclude_from_weight_decay(var_names=["^bias.*"])
    without = [name for name in names if name.startswith("bias")]
    assert without
    run_both(engine, optimizers.Adam(weight_decay=0.1), theirs, without_decay=without)


def test_a_number_that_is_none_is_seen(engine):
    for ours in (optimizers.Adam(), optimizers.SGD(clipnorm=1.0), optimizers.SGD(global_clipnorm=1.0)):
        engine.values[:] = 1
        engine.gradients[:] = 1
        engine.gradients[3] = np.nan
        optimizers.Update(engine, ours).apply(0.1, 1)
        assert np.isnan(engine.values[3])


def test_a_name_of_no_parameter_is_refused(engine):
    with pytest.raises(ValueError, match="Received: 'nobody'"):
        optimizers.Update(engine, optimizers.SGD(), factors={"nobody": 2.0})

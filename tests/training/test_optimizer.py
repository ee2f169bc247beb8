"""TorchAdam against torch.optim.Adam, on each backend.

Run as a script, this file does one backend's part: `KERAS_BACKEND=jax python test_optimizer.py
CASE.npz RESULT.npz`.
"""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from tfprune.training.optimizer import TorchAdam

pytestmark = pytest.mark.slow

STEPS = 100
LEARNING_RATE = 3e-4
WEIGHT_DECAY = 5e-4
TOLERANCE = 1e-6


def make_case():
    """Starting weights and 100 gradients of them: 9 rows, of sizes 1e-8, 1e-7, ..., 1."""
    random = np.random.default_rng(0)
    sizes = 10.0 ** np.arange(-8, 1)[:, None]
    start = random.normal(0.0, 0.1, (9, 64))
    start[:, ::2] = 0.0  # without weights, decay does not outweigh the smallest gradients
    # A mean as well as noise, so that most weights keep a direction.
    gradients = sizes * (random.normal(size=(9, 64)) + random.normal(size=(STEPS, 9, 64)))
    return start.astype("float32"), gradients.astype("float32")


def run_keras(optimizer, start, gradients):
    variable = keras.Variable(start, name="weights")
    optimizer.build([variable])
    apply = optimizer.apply
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        apply = tf.function(optimizer.apply, jit_compile=True)
    for gradient in gradients:
        apply([ops.convert_to_tensor(gradient)])
    return ops.convert_to_numpy(variable)


def run_torch(start, gradients):
    import torch

    weights = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.Adam([weights], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for gradient in gradients:
        weights.grad = torch.tensor(gradient)
        optimizer.step()
    return weights.detach().numpy()


def make_model():
    inputs = keras.Input((5,))
    x = keras.layers.Dense(8, activation="relu", name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    # The same start on every backend.
    model.set_weights([np.linspace(-0.5, 0.5, w.size).reshape(w.shape) for w in model.get_weights()])
    return model


def make_data():
    random = np.random.default_rng(1)
    return random.normal(size=(24, 5)).astype("float32"), random.integers(0, 3, 24)


def compile_and_fit(model, optimizer, epochs=1, **compile_options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **compile_options)
    images, labels = make_data()
    model.fit(images, labels, batch_size=8, epochs=epochs, shuffle=False, verbose=0)


def fit_twice(folder, save_between):
    """Two fits of three steps; with `save_between`, the second continues a reloaded file."""
    model = make_model()
    optimizer = TorchAdam(0.01, weight_decay=0.1, learning_rate_multipliers={"head/.*": 10.0})
    compile_and_fit(model, optimizer)
    if save_between:
        path = os.path.join(folder, f"{keras.backend.backend()}.keras")
        model.save(path)
        model = keras.models.load_model(path)
    images, labels = make_data()
    model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    return np.concatenate([weights.ravel() for weights in model.get_weights()])


def main(case_path, result_path):
    case = np.load(case_path)
    optimizer = TorchAdam(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    folder = os.path.dirname(result_path)
    np.savez(
        result_path,
        backend=keras.backend.backend(),
        weights=run_keras(optimizer, case["start"], case["gradients"]),
        fitted=fit_twice(folder, save_between=False),
        fitted_reloaded=fit_twice(folder, save_between=True),
    )


@pytest.fixture(scope="module")
def case():
    return make_case()


@pytest.fixture(scope="module")
def torch_result(case):
    return run_torch(*case)


def largest_difference(ours, theirs):
    return np.max(np.abs(ours.astype("float64") - theirs))


def test_hundred_steps_equal_pytorch(case, torch_result):
    ours = run_keras(TorchAdam(LEARNING_RATE, weight_decay=WEIGHT_DECAY), *case)

    assert largest_difference(ours, torch_result) <= TOLERANCE
    # The weights did move, those with the smallest gradients too.
    assert np.all(np.mean(np.abs(torch_result - case[0]), axis=1) > 1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(lambda: TorchAdam(LEARNING_RATE), id="no_decay"),
        pytest.param(
            lambda: keras.optimizers.Adam(LEARNING_RATE, epsilon=1e-8, weight_decay=WEIGHT_DECAY),
            id="decoupled_decay",
        ),
        pytest.param(
            lambda: TorchAdam(LEARNING_RATE, weight_decay=WEIGHT_DECAY, epsilon=1e-7),
            id="keras_epsilon",
        ),
    ],
)
def test_another_rule_fails_the_comparison(optimizer, case, torch_result):
    difference = largest_difference(run_keras(optimizer(), *case), torch_result)

    assert difference > 100 * TOLERANCE


def test_epsilon_inside_the_bias_correction_fails_the_comparison(case):
    # Without decay the only difference between Keras's Adam and PyTorch's is epsilon's place.
    start, gradients = case
    inside = run_keras(keras.optimizers.Adam(LEARNING_RATE, epsilon=1e-8), start, gradients)
    outside = run_keras(TorchAdam(LEARNING_RATE), start, gradients)

    assert largest_difference(inside, outside) > 100 * TOLERANCE
    assert largest_difference(inside[-1], outside[-1]) <= 1e-5  # gradients of size 1


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends(backend, case, torch_result, tmp_path):
    pytest.importorskip(backend)
    start, gradients = case
    np.savez(tmp_path / "case.npz", start=start, gradients=gradients)
    subprocess.run(
        [sys.executable, __file__, tmp_path / "case.npz", tmp_path / "result.npz"],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
            "CUDA_VISIBLE_DEVICES": "",
        },
        check=True,
    )
    result = np.load(tmp_path / "result.npz")

    assert result["backend"] == backend
    assert largest_difference(result["weights"], torch_result) <= TOLERANCE
    expected = fit_twice(tmp_path, save_between=False)
    np.testing.assert_allclose(result["fitted"], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(result["fitted_reloaded"], result["fitted"], rtol=0, atol=1e-7)


def test_a_reloaded_model_continues_as_an_uninterrupted_one(tmp_path):
    uninterrupted = fit_twice(tmp_path, save_between=False)
    reloaded = fit_twice(tmp_path, save_between=True)

    np.testing.assert_allclose(reloaded, uninterrupted, rtol=0, atol=1e-7)


def test_config_round_trip():
    optimizer = TorchAdam(
        0.02,
        beta_1=0.8,
        beta_2=0.95,
        epsilon=1e-6,
        weight_decay=0.1,
        learning_rate_multipliers={"head/.*": 10.0},
        clipnorm=1.0,
        name="mine",
    )
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))

    assert type(copy) is TorchAdam
    assert copy.get_config() == optimizer.get_config()
    assert optimizer.get_config()["weight_decay"] == 0.1
    assert optimizer.get_config()["learning_rate_multipliers"] == {"head/.*": 10.0}


def test_multipliers_scale_the_matching_variables():
    # With epsilon tiny, the first update is the learning rate whatever the gradient's size.
    body, head = keras.Variable([1.0], name="body"), keras.Variable([1.0], name="head")
    optimizer = TorchAdam(0.01, epsilon=1e-20, learning_rate_multipliers={"head": 10.0})
    optimizer.apply([ops.ones(1), ops.ones(1) * 5.0], [body, head])

    np.testing.assert_allclose(ops.convert_to_numpy(body), 1.0 - 0.01, rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(head), 1.0 - 0.10, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_with_a_frozen_part(jit_compile):
    model = make_model()
    body, head = model.get_layer("body").get_weights(), model.get_layer("head").get_weights()
    optimizer = TorchAdam(0.01, learning_rate_multipliers={"body/.*": 0.0})
    compile_and_fit(model, optimizer, jit_compile=jit_compile)

    for old, new in zip(body, model.get_layer("body").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(head, model.get_layer("head").get_weights(), strict=True):
        assert np.all(old != new)


@pytest.mark.parametrize(
    "multipliers, message",
    [
        ({"tail/.*": 2.0}, r"(?s)'tail/\.\*', which matches none of 4: body/kernel"),
        ({"head": 2.0}, "which matches none"),  # the whole path, not a part of it
        ({"head/.*": 2.0, ".*/bias": 3.0}, "both match head/bias"),
    ],
)
def test_patterns_must_match(multipliers, message):
    optimizer = TorchAdam(0.01, learning_rate_multipliers=multipliers)

    with pytest.raises(ValueError, match=message):
        optimizer.build(make_model().trainable_variables)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"beta_1": 1.0}, r"`beta_1` must be in \[0, 1\)\. Received: beta_1=1.0"),
        ({"beta_2": -0.1}, "`beta_2` must be"),
        ({"epsilon": 0.0}, "`epsilon` must be above 0. Received: epsilon=0.0"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0. Received: weight_decay=-1.0"),
        ({"learning_rate_multipliers": {"head/.*": -1.0}}, "'head/.*': -1.0"),
        ({"learning_rate_multipliers": {"head/(": 1.0}}, "must be a regular expression"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        TorchAdam(0.01, **arguments)


def test_gradient_accumulation_equals_the_mean_gradient():
    start, gradients = make_case()
    accumulating = TorchAdam(0.01, weight_decay=0.1, gradient_accumulation_steps=2)
    halves = run_keras(accumulating, start, gradients[:20])
    means = (gradients[0:20:2] + gradients[1:20:2]) / 2
    whole = run_keras(TorchAdam(0.01, weight_decay=0.1), start, means)

    np.testing.assert_allclose(halves, whole, rtol=0, atol=1e-6)


def test_moving_average_of_the_weights():
    start, gradients = make_case()
    averaging = TorchAdam(0.01, use_ema=True, ema_momentum=0.5)
    variable = keras.Variable(start)
    for gradient in gradients[:2]:
        averaging.apply([ops.convert_to_tensor(gradient)], [variable])
    averaging.finalize_variable_values([variable])
    first = run_keras(TorchAdam(0.01), start, gradients[:1])
    second = run_keras(TorchAdam(0.01), start, gradients[:2])

    np.testing.assert_allclose(ops.convert_to_numpy(variable), (first + second) / 2, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="on JAX, Keras scales in stateless_apply alone")
def test_loss_scaling_skips_overflow_and_leaves_the_update():
    start, gradients = make_case()
    scaled = keras.optimizers.LossScaleOptimizer(TorchAdam(0.01, weight_decay=0.1))
    variable = keras.Variable(start)
    scaled.apply([ops.convert_to_tensor(gradients[0]) * np.inf], [variable])

    np.testing.assert_array_equal(ops.convert_to_numpy(variable), start)
    scale = float(ops.convert_to_numpy(scaled.dynamic_scale))
    scaled.apply([ops.convert_to_tensor(gradients[0] * scale)], [variable])
    plain = run_keras(TorchAdam(0.01, weight_decay=0.1), start, gradients[:1])
    np.testing.assert_allclose(ops.convert_to_numpy(variable), plain, rtol=0, atol=1e-6)


def test_sparse_gradients_of_an_embedding():
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(7, 3, name="table"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    before = np.linspace(-0.5, 0.55, 21).reshape(7, 3)
    model.get_layer("table").set_weights([before])
    model.compile(TorchAdam(0.01, weight_decay=0.1), "mse")
    model.fit(np.zeros((2, 4)), np.ones((2, 2)), verbose=0)
    after = model.get_layer("table").get_weights()[0]

    # Decay reaches the rows that no example looked up: a first step of one learning rate to zero.
    np.testing.assert_allclose(after[1:], before[1:] - 0.01 * np.sign(before[1:]), atol=1e-5)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

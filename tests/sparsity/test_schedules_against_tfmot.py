"""A port from tfmot 0.8.1: names, signatures, schedules, its schedules in our models, a whole program."""

import inspect

import keras
import numpy as np
import pytest

from tfprune import sparsity

if keras.backend.backend() != "tensorflow":
    pytest.skip("tfmot works on TensorFlow alone", allow_module_level=True)

import tensorflow as tf

from tfprune.experiments.environment import legacy_keras_kept_apart

with legacy_keras_kept_apart():
    assert tf.keras.__version__.startswith("3.")
    import tensorflow_model_optimization as tfmot
    import tf_keras

original = tfmot.sparsity.keras

SETTINGS = 1000
STEPS = np.arange(90)


def answers_of_ours(schedule):
    fires, values = zip(*(schedule(int(step)) for step in STEPS), strict=True)
    return np.array(fires), np.array(values)


def answers_of_tfmot(schedule):
    """tfmot's schedules answer for many steps at once as well as for one."""
    fires, values = schedule(tf.constant(STEPS))
    return fires.numpy(), np.broadcast_to(values.numpy(), STEPS.shape)


def compare(name, arguments):
    """Both schedules' answers agree at every step, except that ours always fires at `end_step`."""
    our_fires, our_values = answers_of_ours(getattr(sparsity, name)(**arguments))
    their_fires, their_values = answers_of_tfmot(getattr(original, name)(**arguments))
    expected_fires = their_fires | (arguments["end_step"] == STEPS)
    np.testing.assert_array_equal(our_fires, expected_fires, err_msg=str(arguments))
    np.testing.assert_allclose(our_values, their_values, rtol=0, atol=3e-7, err_msg=str(arguments))
    return int(np.count_nonzero(our_fires & ~their_fires))


def test_constant_sparsity_agrees_at_every_step_of_a_thousand_settings():
    rng = np.random.default_rng(0)
    only_ours = 0
    for _ in range(SETTINGS):
        begin = int(rng.integers(0, 40))
        arguments = {
            "target_sparsity": float(rng.uniform(0, 1)),
            "begin_step": begin,
            "end_step": -1 if rng.random() < 0.3 else begin + int(rng.integers(0, 60)),
            "frequency": int(rng.integers(1, 30)),
        }
        only_ours += compare("ConstantSparsity", arguments)
    assert only_ours > 0  # Some `end_step` lay off its frequency.


@pytest.mark.slow
def test_polynomial_decay_agrees_at_every_step_of_a_thousand_settings():
    rng = np.random.default_rng(1)
    only_ours = 0
    for _ in range(SETTINGS):
        begin = int(rng.integers(0, 40))
        initial, final = np.sort(rng.uniform(0, 1, 2)).tolist()
        arguments = {
            "initial_sparsity": initial,
            "final_sparsity": final,
            "begin_step": begin,
            "end_step": begin + int(rng.integers(1, 60)),
            "power": float(rng.choice([0.5, 1, 2, 3, 4.5])),
            "frequency": int(rng.integers(1, 30)),
        }
        only_ours += compare("PolynomialDecay", arguments)
    assert only_ours > 0


def test_a_polynomial_of_one_step_is_final_and_in_tfmot_not_a_number():
    arguments = (0.2, 0.8, 5, 5)
    assert sparsity.PolynomialDecay(*arguments)(5) == (True, 0.8)
    fires, value = original.PolynomialDecay(*arguments)(tf.constant(5))
    assert fires and np.isnan(value)


def test_a_falling_sparsity_is_an_error_and_in_tfmot_none():
    arguments = {"initial_sparsity": 0.8, "final_sparsity": 0.5, "begin_step": 0, "end_step": 10}
    assert float(original.PolynomialDecay(**arguments)(10)[1]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="removed weights never return"):
        sparsity.PolynomialDecay(**arguments)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("ConstantSparsity", (1.0, 0)),
        ("ConstantSparsity", (-0.1, 0)),
        ("ConstantSparsity", (0.5, -1)),
        ("ConstantSparsity", (0.5, 5, 4)),
        ("ConstantSparsity", (0.5, 5, -2)),
        ("ConstantSparsity", (0.5, 5, 8, 0)),
        ("PolynomialDecay", (1.0, 0.5, 0, 10)),
        ("PolynomialDecay", (0.0, 1.0, 0, 10)),
        ("PolynomialDecay", (0.0, 0.5, -1, 10)),
        ("PolynomialDecay", (0.0, 0.5, 0, -1)),
        ("PolynomialDecay", (0.0, 0.5, 11, 10)),
        ("PolynomialDecay", (0.0, 0.5, 0, 10, 3, 0)),
    ],
)
def test_what_tfmot_rejects_we_reject(name, arguments):
    for library in (original, sparsity):
        with pytest.raises(ValueError):
            getattr(library, name)(*arguments)


NAMES = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]


def test_the_eleven_names_are_all_that_tfmot_has():
    public = {
        name for name, value in vars(original).items() if inspect.isclass(value) or inspect.isfunction(value)
    }
    assert public == set(NAMES)
    assert set(NAMES) <= set(sparsity.__all__)


def default_of(parameter):
    """A parameter's default; of a schedule, its name and arguments."""
    default = parameter.default
    if isinstance(default, original.PruningSchedule):
        return default.get_config()["class_name"], default.get_config()["config"]
    if isinstance(default, sparsity.PruningSchedule):
        return type(default).__name__, default.get_config()
    return default


ABSTRACT = ["PrunableLayer", "PruningPolicy", "PruningSchedule"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ABSTRACT])
def test_signatures_and_defaults_are_tfmots(name):
    theirs = inspect.signature(getattr(original, name)).parameters
    ours = inspect.signature(getattr(sparsity, name)).parameters
    in_common = {key: p for key, p in ours.items() if key in theirs}
    assert list(in_common) == list(theirs)
    for key, parameter in theirs.items():
        assert ours[key].kind == parameter.kind, key
        assert default_of(ours[key]) == default_of(parameter), key
    for key, parameter in ours.items():
        if key not in theirs:
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, f"our addition `{key}`"
            assert parameter.default is not inspect.Parameter.empty, f"our addition `{key}`"


@pytest.mark.parametrize("name", ABSTRACT)
def test_what_a_subclass_must_implement_is_tfmots(name):
    theirs, ours = getattr(original, name), getattr(sparsity, name)
    assert ours.__abstractmethods__ == theirs.__abstractmethods__
    for method in theirs.__abstractmethods__:
        parameters = inspect.signature(getattr(theirs, method)).parameters
        assert list(inspect.signature(getattr(ours, method)).parameters) == list(parameters)


def make_model(mlp, schedule):
    model = sparsity.prune_low_magnitude(mlp(), schedule)
    model.compile("sgd", "mse")
    return model


def train(model, data, batches):
    callbacks = [sparsity.UpdatePruningStep()]
    model.fit(*data(batches), batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, arguments, expected",
    [
        ("ConstantSparsity", {"target_sparsity": 0.3, "begin_step": 2, "frequency": 2}, [0.3, 0.3]),
        (
            "PolynomialDecay",
            # Updates at steps 1, 4, 7 and 8: at 4 halfway, linearly, up to step 7; at 8 the final sparsity.
            {"initial_sparsity": 0.1, "final_sparsity": 0.8, "begin_step": 1, "end_step": 8}
            | {"power": 1, "frequency": 3},
            [0.4, 0.8],
        ),
    ],
)
def test_tfmots_schedules_work_in_our_models_and_survive_a_file(
    name, arguments, expected, mlp, data, masks_of, assert_exact_zeros, tmp_path
):
    """Four steps, a file, four more steps: as with our own schedule without interruption."""
    model = make_model(mlp, getattr(original, name)(**arguments))
    start = [value.copy() for value in model.get_weights()]
    train(model, data, 4)
    assert_exact_zeros(model, expected[0])
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    train(reloaded, data, 4)
    assert_exact_zeros(reloaded, expected[1])

    own = make_model(mlp, getattr(sparsity, name)(**arguments))
    own.set_weights(start)
    train(own, data, 4)
    train(own, data, 4)
    for ours, theirs in zip(masks_of(own), masks_of(reloaded), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class EveryThird(original.PruningSchedule):
    """A user's schedule for tfmot: it answers with tensors."""

    def __call__(self, step):
        return tf.equal(tf.math.floormod(step, 3), 0), tf.cast(step, tf.float32) / 10

    def get_config(self):
        return {"class_name": "EveryThird", "config": {}}


def test_a_users_subclass_of_tfmots_schedule_works_in_our_models(mlp, data, assert_exact_zeros):
    model = make_model(mlp, EveryThird())
    train(model, data, 5)
    assert_exact_zeros(model, 0.3)
    train(model, data, 2)
    assert_exact_zeros(model, 0.6)


def program(keras_module, library):
    """A user's program for tfmot; only the imports differ. Returns the stripped weights and predictions."""
    rng = np.random.default_rng(5)
    model = keras_module.Sequential(
        [
            keras_module.Input((7, 7, 3)),
            keras_module.layers.Conv2D(6, 3, activation="relu"),
            keras_module.layers.Conv2D(7, (1, 3)),
            keras_module.layers.Flatten(),
            keras_module.layers.Dense(4),
        ]
    )
    model.set_weights([rng.normal(size=w.shape).astype("float32") for w in model.get_weights()])
    x, y = rng.normal(size=(10, 7, 7, 3)).astype("float32"), np.zeros((10, 4), "float32")
    schedule = library.PolynomialDecay(
        initial_sparsity=0.3, final_sparsity=0.85, begin_step=1, end_step=5, frequency=2
    )
    model = library.prune_low_magnitude(model, pruning_schedule=schedule)
    model.compile(keras_module.optimizers.SGD(0.0), "mse", jit_compile=False)
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[library.UpdatePruningStep()])
    model = library.strip_pruning(model)
    return model.get_weights(), model.predict(x, verbose=0)


@pytest.mark.slow
def test_a_program_runs_with_one_import_changed():
    our_weights, our_predictions = program(keras, sparsity)
    their_weights, their_predictions = program(tf_keras, original)
    for ours, theirs in zip(our_weights, their_weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        if ours.ndim > 1:
            assert np.count_nonzero(ours == 0) == round(0.85 * ours.size)
    np.testing.assert_allclose(our_predictions, their_predictions, rtol=1e-5, atol=1e-5)

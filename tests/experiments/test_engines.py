"""`--training_engine`: every engine trains the same rounds, and `auto` takes the faster one."""

import contextlib
import itertools
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.support.interrupted_runs import (
    Interrupt,
    assert_same_rounds,
    loss_history,
    run_until,
)
from tests.support.small_experiments import no_training, state_of
from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.experiments import engines
from tfprune.experiments.devices import Devices
from tfprune.experiments.run import run_experiment
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder
from tfprune.training.distillation import DistilledModel
from tfprune.training.engine import Engine
from tfprune.training.fit import compile_for_training, fit
from tfprune.training.settings import TrainingSettings

pytestmark = pytest.mark.slow

EXAMPLES, BATCH, EPOCHS = 40, 16, 2  # Three steps an epoch, the last of eight examples.
STEPS = 6


class StandIn(Engine):
    """Trains by Keras under the other name, or cannot."""

    name = "sparse"

    def __init__(self, error=None):
        self.error = error

    def check(self, model):
        if self.error:
            raise self.error

    def trainer(self, model):
        self.check(model)
        return model


@contextlib.contextmanager
def stand_in(engine, share=1.0):
    """Puts an engine in the place of `sparse`; rounds of a few steps are measured, too."""
    with mock.patch.dict(engines.ENGINES, sparse=engine), mock.patch.object(engines, "_SHARE", share):
        yield


def network(way):
    """A compiled network that is pruned in one of several ways, or that learns from another, too."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, activation="relu", name="body")(inputs)
    x = keras.layers.Dropout(0.3, name="dropout")(keras.layers.BatchNormalization(name="norm")(x))
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    schedule = {
        "gradual": sparsity.PolynomialDecay(0.0, 0.8, 0, STEPS, frequency=2),
        "set": sparsity.ConstantSparsity(0.5, 0, STEPS, frequency=2),
    }.get(way)
    regrowth = sparsity.SET(0.3) if way == "set" else None
    model = sparsity.prune_low_magnitude(model, schedule, regrowth=regrowth)
    compile_for_training(model, SETTINGS)
    if schedule is None:
        sparsity.prune_to(model, 0.5)
    return model


SETTINGS = TrainingSettings(epochs=EPOCHS, batch_size=BATCH, learning_rate=1e-2)


def data(seed):
    x = np.random.default_rng(seed).normal(size=(EXAMPLES, 4)).astype("float32")
    return x, x[:, :3].argmax(axis=1).astype("int32")


def batches_of(first, last):
    x, y = data(0)
    order = [np.random.default_rng(epoch).permutation(EXAMPLES) for epoch in range(first, last)]
    steps = [epoch[i : i + BATCH] for epoch in order for i in range(0, EXAMPLES, BATCH)]
    made = tf.data.Dataset.from_generator(
        lambda: ((x[step], y[step]) for step in steps),
        output_signature=(tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int32)),
    )
    return made.apply(tf.data.experimental.assert_cardinality(len(steps)))


def engines_of(asked, **flags):
    """The engines of an experiment, and the lines that they will tell."""
    lines = []
    config = ExperimentConfig("e", regime="one_shot", target_sparsity=0.5, **flags)
    return engines.TrainingEngines(config, Devices(training_engine=asked), lines.append), lines


def train(folder, model, asked, way=""):
    """Trains by the engine that is asked for; returns the history, the notes and the lines."""
    (chosen, lines), notes, history, student = engines_of(asked), {}, [], model
    if way == "taught":
        teacher = keras.models.clone_model(sparsity.strip_pruning(network("fixed")))
        student = DistilledModel(model, teacher, weight=0.5, temperature=2.0)
    fit(
        student,
        SETTINGS,
        folder=folder,
        train_images=EXAMPLES,
        train_batches=batches_of,
        test_batches=tf.data.Dataset.from_tensor_slices(data(1)).batch(BATCH),
        history=history,
        notes=notes,
        callbacks=[sparsity.UpdatePruningStep()],
        engine=chosen.of_round(1, notes),
    )
    untimed = [{name: row[name] for name in ("loss", "accuracy", "val_loss")} for row in history]
    return untimed, notes, lines


def state(model):
    return [np.array(ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)]


def assert_same_state(ours, theirs):
    for our, their in zip(state(ours), state(theirs), strict=True):
        assert np.array_equal(our, their)


@contextlib.contextmanager
def judged(keras_seconds, sparse_seconds):
    """Gives steps that are done and measured other times."""
    times, measure = itertools.cycle([keras_seconds, sparse_seconds]), engines._step_seconds

    def judge(*arguments):
        measure(*arguments)
        return next(times)

    with mock.patch.object(engines, "_SHARE", 1.0), mock.patch.object(engines, "_step_seconds", judge):
        yield


@pytest.mark.parametrize("way, faster", [("gradual", "keras"), ("set", "sparse"), ("taught", "sparse")])
def test_a_measurement_leaves_no_trace(tmp_path, way, faster):
    """What `auto` trains is what the engine that it took trains, to the bit: dropout and masks, too."""
    named, measured = network(way), network(way)
    history, notes, _ = train(tmp_path / "named", named, faster, way)
    assert notes == {"training_engines": [faster]}
    with judged(1.0, 2.0 if faster == "keras" else 0.25):
        auto_history, notes, (line,) = train(tmp_path / "auto", measured, "auto", way)
    speedup = 0.5 if faster == "keras" else 4.0
    assert notes == {"training_engines": [faster], "engine_speedup": speedup, "engine_reason": ""}
    assert line == (
        f"round 1: trains by {faster}; as measured, sparse is {speedup:.2f} times as fast as keras"
    )
    assert auto_history == history
    assert_same_state(measured, named)


def choose(model=None, *, asked="auto", notes=None, goes_on=False, **flags):
    """The name of the engine that is chosen for a round, the notes and the lines."""
    chosen, lines = engines_of(asked, **flags)
    notes = {} if notes is None else notes
    name = chosen.of_round(1, notes).chosen(model, batches_of(0, EPOCHS), goes_on).name
    return name, notes, lines


def test_a_network_is_measured_at_the_sparsity_that_it_will_end_at():
    found = []

    class Sees(StandIn):
        def trainer(self, model):
            found.append(sparsity.summarize(model).sparsity)
            return super().trainer(model)

    model = network("gradual")
    with stand_in(Sees()), mock.patch.object(engines, "_step_seconds", return_value=1.0):
        choose(model)
    assert found == [pytest.approx(0.8, abs=0.03)]
    assert sparsity.summarize(model).sparsity == 0.0


@pytest.mark.parametrize(
    "engine, share, reason",
    [
        (StandIn(), 0.02, "6 steps are too few to measure first which is faster"),
        (StandIn(ValueError("layer 'lstm'")), 1.0, "sparse cannot train it: layer 'lstm'"),
        (StandIn(ImportError("no llvmlite")), 1.0, "sparse cannot train it: no llvmlite"),
        (StandIn(MemoryError("8 GB")), 1.0, "sparse cannot train it: 8 GB"),
    ],
)
def test_where_nothing_is_measured_keras_trains_and_the_reason_is_told(engine, share, reason):
    with stand_in(engine, share):
        name, notes, lines = choose(network("fixed"))
    assert name == "keras"
    assert notes == {"training_engines": ["keras"], "engine_speedup": None, "engine_reason": reason}
    assert lines == [f"round 1: trains by keras: {reason}"]


def test_the_same_reason_is_told_once():
    chosen, lines = engines_of("auto", mixed_precision="bfloat16")
    for number in (1, 2):
        assert chosen.of_round(number, {}).chosen(None, None, goes_on=False).name == "keras"
    assert lines == ["round 1: trains by keras: sparse trains in float32, and --mixed_precision=bfloat16"]


@pytest.mark.parametrize(
    "asked, before, name, after",
    [
        ("auto", ["sparse"], "sparse", ["sparse"]),  # Which was measured when the round began.
        ("auto", ["sparse", "keras"], "keras", ["sparse", "keras"]),
        ("auto", None, "keras", ["keras"]),  # The checkpoint of a version that had no other.
        ("sparse", ["keras"], "sparse", ["keras", "sparse"]),
        ("keras", ["keras"], "keras", ["keras"]),
    ],
)
def test_a_fit_that_goes_on(asked, before, name, after):
    notes = {} if before is None else {"training_engines": before}
    found, notes, lines = choose(asked=asked, notes=notes, goes_on=True)
    assert (found, notes, lines) == (name, {"training_engines": after}, [])


@pytest.mark.parametrize("done, part, goes_on", [(0, None, False), (1, None, True), (1, range(1, 2), False)])
def test_a_fit_says_whether_it_goes_on(tmp_path, done, part, goes_on):
    found = []

    class Watch(Engine):
        def chosen(self, model, batches, goes_on):
            found.append((int(batches.cardinality()), goes_on))
            return self

        def fit(self, model, batches, **arguments):
            """Trains nothing."""

    fit(
        network("fixed"),
        SETTINGS,
        folder=tmp_path,
        train_images=EXAMPLES,
        train_batches=batches_of,
        test_batches=None,
        history=[{"epoch": 1.0}] * done,
        notes={},
        part=part,
        engine=Watch(),
    )
    assert found == [(3 * (EPOCHS - done), goes_on)]


@pytest.mark.parametrize(
    "flags, devices, reason",
    [
        ({"mixed_precision": "float16"}, {}, "float32, and --mixed_precision=float16"),
        ({"pruning_engine": "tfmot", "scope": "layer"}, {}, "--pruning_engine=tfmot trains its own network"),
        (
            {"regime": "gradual", "schedule": "polynomial", "method": "dst"},
            {},
            "--method=dst learns its masks, by steps that need all weights",
        ),
        ({}, {"data_parallel": True}, "several devices share each batch"),
        ({}, {"distributed": True}, "several devices share each batch"),
    ],
)
def test_what_sparse_cannot_do_is_said_before_any_work(tmp_path, flags, devices, reason):
    flags = {"regime": "one_shot", **flags}
    config = ExperimentConfig("e", output_dir=str(tmp_path), target_sparsity=0.5, **flags)
    with pytest.raises(UserError, match="^--training_engine=sparse: must be keras or auto: ") as caught:
        run_experiment(config, devices=Devices(training_engine="sparse", **devices))
    assert reason in str(caught.value)
    assert not config.folder.exists()


def test_a_network_that_sparse_cannot_train_is_named_before_any_work(runs):
    config = runs.config("engine_refused", epochs=(1,))
    with stand_in(StandIn(error=ValueError("layer 'lstm' has no kernel"))), no_training():
        with pytest.raises(UserError, match="^--training_engine=sparse: layer 'lstm' has no kernel$"):
            run_experiment(config, lambda line: None, devices=Devices(training_engine="sparse"))
    assert not config.folder.exists()


def test_a_run_by_sparse_ends_where_keras_ends_though_it_stopped(runs):
    """Pruned at once, then stopped in the second epoch, after which it goes on from the first."""
    by_keras = runs.one_shot
    config, lines = runs.config("one_shot_sparse", **runs.one_shot_flags), []
    sparse = {"devices": Devices(training_engine="sparse")}
    whole = run_experiment(config, log=lines.append, **sparse)
    assert sum("images/s by sparse" in line for line in lines) == 2
    stopped = runs.config("one_shot_sparse_stopped", **runs.one_shot_flags)
    run_until(stopped, 1, Interrupt(epoch=2, step=2), **sparse)
    run_experiment(stopped, log=lambda line: None, **sparse)
    ours = RunFolder(config.folder)
    assert_same_rounds(RunFolder(stopped.folder), ours, (0, 1))
    assert loss_history(RunFolder(stopped.folder).round(1)) == loss_history(ours.round(1))
    assert [result.training_engines for result in whole] == [(), ("sparse",)]

    assert by_keras.round(1).read_result().training_engines == ("keras",)
    ended = state_of(ours.round(1))
    for name, value in state_of(by_keras.round(1)).items():
        our = ended[name].astype("float32")
        np.testing.assert_allclose(our, value.astype("float32"), rtol=1e-3, atol=1e-4, err_msg=name)

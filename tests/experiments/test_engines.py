"""`--training_engine`: every engine trains the same rounds, and `auto` takes the faster one."""

import contextlib
import time
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.support.interrupted_runs import Interrupt, Interrupted
from tests.support.small_experiments import no_training
from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.experiments import engines
from tfprune.experiments.devices import Devices
from tfprune.experiments.run import run_experiment
from tfprune.runs.config import ExperimentConfig
from tfprune.training.checkpoint import read_checkpoint
from tfprune.training.distillation import DistilledModel
from tfprune.training.engine import Engine
from tfprune.training.fit import compile_for_training, fit
from tfprune.training.settings import TrainingSettings

pytestmark = pytest.mark.slow

EXAMPLES, BATCH, EPOCHS = 40, 16, 2  # Three steps an epoch, the last of eight examples.
STEPS = 6


class StandIn(Engine):
    """Trains by Keras under the other name, each step so much slower; or cannot.

    Attributes:
        fits: How many fits there were.
    """

    name = "sparse"

    def __init__(self, slower=0.0, error=None):
        self.slower, self.error, self.fits = slower, error, 0

    def check(self, model):
        if self.error:
            raise self.error

    def trainer(self, model):
        self.check(model)
        stand_in = self

        class Trainer:
            def fit(self, batches, callbacks, **arguments):
                stand_in.fits += 1
                callbacks.callbacks.append(Slower(stand_in.slower))
                model.fit(batches, callbacks=callbacks, **arguments)

        return Trainer()


class Slower(keras.callbacks.Callback):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def on_train_batch_begin(self, batch, logs=None):
        time.sleep(self.seconds)


@contextlib.contextmanager
def stand_in(engine, share=1.0):
    """Puts an engine in the place of `sparse`; rounds of a few steps are measured, too."""
    with mock.patch.dict(engines.ENGINES, sparse=engine), mock.patch.object(engines, "_SHARE", share):
        yield engine


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


def train(folder, model, asked, way="", callbacks=(), history=None, notes=None):
    """Trains by the engine that is asked for; returns the history, the notes and the lines."""
    lines, notes, history = [], {} if notes is None else notes, [] if history is None else history
    config = ExperimentConfig("e", regime="one_shot", target_sparsity=0.5)
    chosen = engines.TrainingEngines(config, Devices(training_engine=asked), lines.append)
    student = model
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
        callbacks=[sparsity.UpdatePruningStep(), *callbacks],
        engine=chosen.of_round(1, notes),
    )
    untimed = [{name: row[name] for name in ("loss", "accuracy", "val_loss")} for row in history]
    return untimed, notes, lines


def state(model):
    return [np.array(ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)]


def assert_same_state(ours, theirs):
    for our, their in zip(state(ours), state(theirs), strict=True):
        assert np.array_equal(our, their)


@pytest.mark.parametrize("way", ["fixed", "gradual", "set", "taught"])
def test_a_measurement_leaves_no_trace(tmp_path, way):
    """What `auto` trains by Keras is what `keras` trains, to the bit: dropout, statistics and masks, too."""
    named, measured = network(way), network(way)
    history, notes, _ = train(tmp_path / "named", named, "keras", way)
    assert notes == {"training_engines": ["keras"]}
    with stand_in(StandIn(slower=0.05)) as engine:
        auto_history, notes, (line,) = train(tmp_path / "auto", measured, "auto", way)
    assert engine.fits == 1
    assert (notes["training_engines"], notes["engine_reason"]) == (["keras"], "")
    assert 0 < notes["engine_speedup"] < 1
    assert line.startswith("round 1: trains by keras; as measured, sparse is 0.")
    assert auto_history == history
    assert_same_state(measured, named)


def test_a_network_is_measured_at_the_sparsity_that_it_will_end_at(tmp_path):
    found = []

    class Sees(StandIn):
        def trainer(self, model):
            found.append(sparsity.summarize(model).sparsity)
            return super().trainer(model)

    with stand_in(Sees()):
        train(tmp_path, network("gradual"), "auto")
    assert found[0] == pytest.approx(0.8, abs=0.03)


def test_the_faster_one_trains(tmp_path):
    with (
        stand_in(StandIn()) as engine,
        mock.patch.object(engines, "_step_seconds", side_effect=[3.0, 1.5]),
    ):
        _, notes, (line,) = train(tmp_path, network("fixed"), "auto")
    assert notes == {"training_engines": ["sparse"], "engine_speedup": 2.0, "engine_reason": ""}
    assert engine.fits == 1
    assert line == "round 1: trains by sparse; as measured, sparse is 2.00 times as fast as keras"


@pytest.mark.parametrize(
    "engine, share, reason",
    [
        (StandIn(), 0.02, "6 steps are too few to measure first which is faster"),
        (StandIn(error=ValueError("layer 'lstm'")), 1.0, "sparse cannot train it: layer 'lstm'"),
        (StandIn(error=MemoryError("8 GB")), 1.0, "sparse cannot train it: 8 GB"),
    ],
)
def test_where_nothing_is_measured_keras_trains_and_the_reason_is_told(tmp_path, engine, share, reason):
    with stand_in(engine, share):
        _, notes, lines = train(tmp_path, network("fixed"), "auto")
    assert notes == {"training_engines": ["keras"], "engine_speedup": None, "engine_reason": reason}
    assert lines == [f"round 1: trains by keras: {reason}"]
    assert engine.fits == 0


def test_the_same_reason_is_told_once():
    lines = []
    config = ExperimentConfig("e", regime="one_shot", target_sparsity=0.5, mixed_precision="bfloat16")
    chosen = engines.TrainingEngines(config, Devices(training_engine="auto"), lines.append)
    for number in (1, 2):
        assert chosen.of_round(number, {}).chosen(None, None, goes_on=False).name == "keras"
    assert lines == ["round 1: trains by keras: sparse trains in float32, and --mixed_precision=bfloat16"]


def interrupted(folder, asked):
    """The history and the notes of a fit that was interrupted in its second epoch, and its network."""
    history, notes = [], {}
    with pytest.raises(Interrupted):
        train(folder, network("fixed"), asked, callbacks=[Interrupt(2, 1)], history=history, notes=notes)
    found = read_checkpoint(folder)
    return found.load_model(), found.history, found.notes


def test_a_fit_that_goes_on_keeps_the_engine_that_auto_chose(tmp_path):
    with stand_in(StandIn()) as engine:
        with mock.patch.object(engines, "_step_seconds", side_effect=[3.0, 1.5]):
            model, history, notes = interrupted(tmp_path, "auto")
        _, after, lines = train(tmp_path, model, "auto", history=history, notes=notes)
    assert after == {"training_engines": ["sparse"], "engine_speedup": 2.0, "engine_reason": ""}
    assert engine.fits == 2 and not lines


def test_a_fit_that_goes_on_takes_the_engine_that_is_named(tmp_path):
    model, history, notes = interrupted(tmp_path, "keras")
    with stand_in(StandIn()) as engine:
        _, after, _ = train(tmp_path, model, "sparse", history=history, notes=notes)
    assert after == {"training_engines": ["keras", "sparse"]}
    assert engine.fits == 1


def test_a_fit_of_a_version_without_engines_goes_on_by_keras(tmp_path):
    model, history, _ = interrupted(tmp_path, "keras")
    with stand_in(StandIn()) as engine:
        _, after, _ = train(tmp_path, model, "auto", history=history, notes={})
    assert after == {"training_engines": ["keras"]} and engine.fits == 0


@pytest.mark.parametrize(
    "flags, devices, reason",
    [
        ({"mixed_precision": "float16"}, {}, "float32, and --mixed_precision=float16"),
        ({"pruning_engine": "tfmot", "scope": "layer"}, {}, "--pruning_engine=tfmot trains its own network"),
        ({}, {"data_parallel": True}, "several devices share each batch"),
        ({}, {"distributed": True}, "several devices share each batch"),
    ],
)
def test_what_sparse_cannot_do_is_said_before_any_work(tmp_path, flags, devices, reason):
    config = ExperimentConfig("e", output_dir=str(tmp_path), regime="one_shot", target_sparsity=0.5, **flags)
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

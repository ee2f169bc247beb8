"""The loss and the metrics follow from outputs and labels, or are given; the first metric judges the run."""

import types

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.data.splits import Dataset, Split
from tfprune.errors import UserError
from tfprune.experiments.batches import Batches
from tfprune.experiments.task import Compiled, task_of
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.metric import Metric
from tfprune.training.fit import compile_for_training
from tfprune.training.settings import TrainingSettings

RNG = np.random.default_rng(0)
N = 12


def dense(*sizes, activation=None, shape=(4,)):
    """A model with an output for each size."""
    x = keras.Input(shape)
    made = [layers.Dense(size, activation=activation, name=f"out{i}")(x) for i, size in enumerate(sizes)]
    return keras.Model(x, made[0] if len(made) == 1 else made)


def batches_of(labels, *, shape=(4,), classes=None):
    inputs = np.random.default_rng(1).normal(size=(N, *shape)).astype("float32")
    split = Split(inputs, labels, N)
    names = None if classes is None else tuple(map(str, range(classes)))
    dataset = Dataset("mine:data", split, split, names, None, None)
    return Batches(ExperimentConfig("e", dataset="mine:data", batch_size=5), dataset)


def found(model, labels, *, classes=None, shape=(4,), compiled=None, **flags):
    config = ExperimentConfig("e", model="mine:net", dataset="mine:data", **flags)
    return task_of(config, model, batches_of(labels, shape=shape, classes=classes), compiled)


def evaluated(model, task, labels, shape=(4,)):
    """The figures of the compiled model; the headline is one of them."""
    compile_for_training(model, TrainingSettings(), task.goal)
    model.evaluate(batches_of(labels, shape=shape).test, verbose=0)  # Builds the metrics.
    figures = model.evaluate(batches_of(labels, shape=shape).test, verbose=0, return_dict=True)
    assert task.headline.name in figures
    assert np.isfinite(figures["loss"])
    return figures


WHOLE = RNG.integers(0, 3, N)
ONE_HOT = np.eye(3, dtype="float32")[WHOLE]
YES_NO = RNG.integers(0, 2, N)
NUMBERS = RNG.normal(size=(N, 3)).astype("float32")
ACCURACY = Metric("accuracy", in_percent=True, higher_is_better=True)
ERROR = Metric("mean_absolute_error", in_percent=False, higher_is_better=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "size, activation, labels, loss, headline",
    [
        (3, None, WHOLE, "sparse_categorical_crossentropy", ACCURACY),
        (3, "softmax", WHOLE.astype("uint8")[:, None], "sparse_categorical_crossentropy", ACCURACY),
        (3, None, ONE_HOT, "categorical_crossentropy", ACCURACY),
        (3, "softmax", ONE_HOT.astype("int64"), "categorical_crossentropy", ACCURACY),
        (3, "softmax", ONE_HOT * 0.7 + 0.1, "categorical_crossentropy", ACCURACY),
        (1, "sigmoid", YES_NO, "binary_crossentropy", ACCURACY),
        (1, "sigmoid", YES_NO.astype("float32")[:, None], "binary_crossentropy", ACCURACY),
        (1, None, YES_NO.astype(bool), "binary_crossentropy", ACCURACY),
        (3, "sigmoid", RNG.integers(0, 2, (N, 3)), "binary_crossentropy", ACCURACY),
        (3, None, np.ones((N, 3), "int32"), "binary_crossentropy", ACCURACY),
        (3, None, NUMBERS, "mean_squared_error", ERROR),
        (1, None, NUMBERS[:, 0], "mean_squared_error", ERROR),
        (1, None, np.arange(N), "mean_squared_error", ERROR),
        (1, "sigmoid", RNG.uniform(size=(N, 1)), "mean_squared_error", ERROR),
    ],
)
def test_they_follow_from_outputs_and_labels(size, activation, labels, loss, headline):
    model = dense(size, activation=activation)
    task = found(model, labels)
    assert task.headline == headline
    assert task.goal.loss().name == loss
    assert loss in task.words and headline.name in task.words
    figures = evaluated(model, task, labels)
    # What the figures should be, without Keras.
    inputs = batches_of(labels).dataset.test.inputs
    outputs, flat = model.predict(inputs, verbose=0).astype("float64"), labels.reshape(N, -1)
    logs = outputs if activation is None else np.log(outputs)
    if loss.endswith("categorical_crossentropy"):
        wanted = np.eye(3)[flat[:, 0]] if loss.startswith("sparse") else flat
        logs = logs - np.log(np.exp(logs).sum(1, keepdims=True))
        expected = -(wanted * logs).sum(1).mean(), np.mean(outputs.argmax(1) == wanted.argmax(1))
    elif loss == "binary_crossentropy":
        share = 1 / (1 + np.exp(-outputs)) if activation is None else outputs
        expected = -np.log(np.where(flat == 1, share, 1 - share)).mean(), np.mean((share > 0.5) == flat)
    else:
        expected = ((outputs - flat) ** 2).mean(), np.abs(outputs - flat).mean()
    assert (figures["loss"], figures[headline.name]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_pixels_have_labels_of_their_own():
    x = keras.Input((4, 4, 2))
    for filters, activation, loss in ((3, None, "sparse_categorical"), (1, "sigmoid", "binary")):
        for last in ((), (1,)):
            labels = RNG.integers(0, 2, (N, 4, 4, *last))
            model = keras.Model(x, layers.Conv2D(filters, 1, activation=activation)(x))
            task = found(model, labels, shape=(4, 4, 2))
            assert task.goal.loss().name == f"{loss}_crossentropy"
            assert "accuracy" in evaluated(model, task, labels, shape=(4, 4, 2))


@pytest.mark.slow
def test_each_of_several_outputs_has_its_own():
    x = keras.Input((4,))
    kind, size = layers.Dense(3, activation="softmax", name="kind")(x), layers.Dense(1, name="size")(x)

    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.kind, self.size = layers.Dense(3), layers.Dense(1)

        def call(self, x):
            return self.kind(x), self.size(x)

    listed, named = keras.Model(x, [kind, size]), keras.Model(x, {"what": kind, "how_much": size})
    pair, by_name = (WHOLE, NUMBERS[:, 0]), {"what": WHOLE, "how_much": NUMBERS[:, :1]}
    by_layer = {"kind": WHOLE, "size": NUMBERS[:, 0]}
    for model, labels, first in (
        (listed, pair, "kind_accuracy"),
        (listed, by_layer, "kind_accuracy"),
        (named, by_name, "how_much_mean_absolute_error"),
        (Two(), pair, "output_0_accuracy"),
    ):
        task = found(model, labels)
        assert task.headline.name == first
        figures = evaluated(model, task, labels)
        assert sum(name.endswith(("accuracy", "mean_absolute_error")) for name in figures) == 2
    task = found(named, by_name, metrics=("what:accuracy", "how_much:mse"), loss=("how_much:huber",))
    assert task.headline == Metric("what_accuracy", True, True)
    assert {name: loss.name for name, loss in task.goal.loss().items()} == {
        "what": "sparse_categorical_crossentropy",
        "how_much": "huber_loss",
    }
    assert "how_much_mean_squared_error" in evaluated(named, task, by_name)


@pytest.mark.slow
def test_probabilities_of_a_model_without_a_graph_show():
    class Soft(keras.Model):
        def __init__(self, activation):
            super().__init__()
            self.last, self.activation = layers.Dense(3), activation

        def call(self, x):
            return self.activation(self.last(x))

    for activation, logits in ((keras.ops.softmax, False), (lambda x: x, True)):
        model = Soft(activation)
        assert found(model, WHOLE).goal.loss().get_config()["from_logits"] is logits


OWN = types.ModuleType("of_mine_task")
exec(
    """
import keras
from keras import ops

def cubed(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred) ** 3, axis=-1)

def worst(y_true, y_pred):
    return ops.max(ops.abs(y_true - y_pred), axis=-1)
worst.higher_is_better = False

def silent(y_true, y_pred):
    return ops.max(y_pred, axis=-1)

class Squared(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.mean((y_true - y_pred) ** 2, axis=-1)

class Best(keras.metrics.MeanAbsoluteError):
    higher_is_better = True

weighted = keras.losses.Huber(delta=0.5)
""",
    vars(OWN),
)


@pytest.fixture(autouse=True)
def own_module(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "of_mine_task", OWN)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, loss, headline",
    [
        ({"loss": ("mse",)}, "mean_squared_error", ERROR),
        (
            {"loss": ("MeanAbsoluteError",), "metrics": ("r2_score",)},
            "mean_absolute_error",
            ("r2_score", True),
        ),
        ({"loss": ("of_mine_task:cubed",)}, "cubed", ERROR),
        (
            {"loss": ("of_mine_task:Squared",), "metrics": ("of_mine_task:worst",)},
            "Squared",
            ("worst", False),
        ),
        (
            {"loss": ("of_mine_task:weighted",), "metrics": ("of_mine_task:Best",)},
            "huber_loss",
            ("mean_absolute_error", True),
        ),
        ({"metrics": ("mae", "mse", "cosine_similarity")}, "mean_squared_error", ERROR),
        ({"metrics": ("RootMeanSquaredError",)}, "mean_squared_error", ("root_mean_squared_error", False)),
    ],
)
def test_they_are_as_given(flags, loss, headline, tmp_path):
    model = dense(3)
    task = found(model, NUMBERS, **flags)
    made = task.goal.loss()
    assert loss in (getattr(made, "name", ""), getattr(made, "__name__", ""), type(made).__name__)
    if isinstance(headline, tuple):
        headline = Metric(headline[0], in_percent=False, higher_is_better=headline[1])
    assert task.headline == headline
    figures = evaluated(model, task, NUMBERS)
    # A file knows them again, also those that their module did not register.
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.evaluate(batches_of(NUMBERS).test, verbose=0, return_dict=True) == pytest.approx(figures)


@pytest.mark.slow
def test_logits_are_known_to_losses_and_metrics_by_name():
    model, logits = dense(1, activation="sigmoid"), dense(1)
    logits.set_weights(model.get_weights())
    flags = {"loss": ("binary_focal_crossentropy",), "metrics": ("AUC", "accuracy")}
    expected, got = (evaluated(one, found(one, YES_NO, **flags), YES_NO[:, None]) for one in (model, logits))
    assert got == pytest.approx(expected, rel=1e-4)
    assert found(model, YES_NO, **flags).headline == Metric("auc", False, True)
    task = found(dense(3), WHOLE, metrics=("mean_io_u",))
    assert 0 <= evaluated(dense(3), task, WHOLE)["mean_io_u"] <= 1


@pytest.mark.slow
def test_a_file_brings_what_it_was_compiled_with():
    compiled = Compiled(loss="categorical_crossentropy", metrics=["acc", "mse"], loss_weights=None)
    task = found(dense(3, activation="softmax"), ONE_HOT, compiled=compiled)
    assert task.headline == Metric("acc", True, True)
    assert "was compiled" in task.words
    assert {"acc", "mse", "loss"} <= evaluated(dense(3, activation="softmax"), task, ONE_HOT).keys()
    given = found(dense(3, activation="softmax"), ONE_HOT, compiled=compiled, loss=("mse",))
    assert given.goal.loss().name == "mean_squared_error"


@pytest.mark.parametrize(
    "size, activation, labels, flags, classes, parts",
    [
        (3, None, WHOLE, {}, 10, ["--model=mine:net", "--dataset=mine:data", "3 outputs", "10 classes"]),
        (1, None, WHOLE, {}, 3, ["1 output,", "3 classes"]),
        (2, None, WHOLE, {}, None, ["2 outputs", "from 0 to 2"]),
        (3, None, NUMBERS[:, :2], {}, None, ["[3], does not fit labels of float32 [2]", "--loss"]),
        (3, "sigmoid", WHOLE, {}, None, ["3 sigmoid outputs", "give --loss"]),
        (3, None, (WHOLE, WHOLE), {}, None, ["--model=mine:net", "2 labels an example"]),
        (
            3,
            None,
            WHOLE,
            {"loss": ("mean_sqared_error",)},
            None,
            ["--loss=mean_sqared", "did you mean mean_squ"],
        ),
        (3, None, WHOLE, {"loss": ("mse", "mae")}, None, ["--loss=mse,mae", "one loss"]),
        (
            3,
            None,
            WHOLE,
            {"loss": ("of_mine_task:gone",)},
            None,
            ["--loss=of_mine_task:gone", "has no 'gone'"],
        ),
        (
            3,
            None,
            WHOLE,
            {"metrics": ("acuracy",)},
            None,
            ["--metrics=acuracy", "none of Keras's", "did you mean"],
        ),
        (3, None, NUMBERS, {"metrics": ("accuracy",)}, None, ["--metrics=accuracy", "mean_absolute_error"]),
        (3, None, NUMBERS, {"metrics": ("of_mine_task:silent",)}, None, ["--metrics=", "higher_is_better"]),
        (1, None, YES_NO, {"metrics": ("Precision",)}, None, ["--metrics=Precision", "sigmoid"]),
        (3, None, WHOLE, {"metrics": ("io_u",)}, None, ["--metrics=io_u", "target_class_ids"]),
        (3, None, WHOLE, {"metrics": ("of_mine_task:keras",)}, None, ["must be a function"]),
    ],
)
def test_what_cannot_be_is_one_line(size, activation, labels, flags, classes, parts):
    with pytest.raises(UserError) as caught:
        found(dense(size, activation=activation), labels, classes=classes, **flags)
    message = str(caught.value)
    assert message.startswith("--") and "\n" not in message
    for part in parts:
        assert part in message


def test_of_several_outputs_each_is_named():
    labels = (WHOLE, NUMBERS[:, 0])
    for flags in ({"loss": ("mse",)}, {"metrics": ("out2:mae",)}):
        with pytest.raises(UserError, match=r"OUTPUT:NAME,\.\.\. with the outputs out0, out1"):
            found(dense(3, 1), labels, **flags)

"""`SparseTrainer` trains as Keras does: numbers, data, losses, metrics, optimizers."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support.trained_twins import (
    LOGITS,
    assert_alike,
    assert_same_training,
    images,
    numbers,
    perceptron,
    residual,
    vectors,
)
from tfprune.models.resnet import BLOCKS_PER_STAGE, build_resnet
from tfprune.sparse_training import SparseTrainer, UnsupportedError, check, optimizers
from tfprune.sparse_training.exchange import rule_of
from tfprune.sparsity import masks_of, prune_low_magnitude, prune_to
from tfprune.training.distillation import DistilledModel
from tfprune.training.optimizer import TorchAdam


@pytest.mark.slow
def test_twenty_steps_are_those_of_keras():
    model, trained = assert_same_training(
        residual,
        lambda: TorchAdam(1e-3, weight_decay=5e-4, learning_rate_multipliers={"(.*/)?head/.*": 10.0}),
        images(76),  # The last batch is smaller.
        epochs=2,
        validation_data=images(20, seed=1),
    )
    assert int(trained.optimizer.iterations) == 20
    for name, mask in masks_of(residual()).items():
        np.testing.assert_array_equal(masks_of(trained)[name], mask)
    kernel = np.asarray(ops.convert_to_numpy(trained.layers[3].layer.kernel))
    assert np.count_nonzero(kernel) == np.count_nonzero(ops.convert_to_numpy(trained.layers[3].masks[0]))


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("stem", "optimizer"),
    [
        ("cifar", lambda: TorchAdam(1e-4, weight_decay=5e-4)),
        ("imagenet", lambda: keras.optimizers.AdamW(1e-4, weight_decay=0.01)),
    ],
)
def test_resnets(stem, optimizer, monkeypatch):
    monkeypatch.setitem(BLOCKS_PER_STAGE, "resnet18", (1, 1, 1, 1))

    def make():
        model = build_resnet("resnet18", classes=4, image_size=32, width=2, stem=stem, seed=1, std=[60.0] * 3)
        model = prune_low_magnitude(model, None)
        prune_to(model, 0.5)
        for variable in model.trainable_variables:  # Relative errors need numbers that are not 0.
            if variable.path.endswith("beta"):
                variable.assign(np.random.default_rng(0).normal(size=variable.shape))
        return model

    x, y = images(160)
    # Slots of gradients that are nearly 0 hold rounding alone.
    assert_same_training(make, optimizer, (np.tile(x, (1, 4, 4, 1)), y), slots=False, metrics=[])


ADAM = {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}
OPTIMIZERS = {
    "Adam": (keras.optimizers.Adam(**ADAM), optimizers.Adam(**ADAM)),
    "AdamW": (keras.optimizers.AdamW(clipnorm=1.0), optimizers.Adam(weight_decay=0.004, clipnorm=1.0)),
    "SGD": (keras.optimizers.SGD(global_clipnorm=1.0), optimizers.SGD(global_clipnorm=1.0)),
    "nesterov": (
        keras.optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=0.1, clipvalue=2.0),
        optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=0.1, clipvalue=2.0),
    ),
    "TorchAdam": (TorchAdam(weight_decay=0.1, **ADAM), optimizers.TorchAdam(weight_decay=0.1, **ADAM)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    """Their formulas are compared in `test_optimizers`."""
    given, expected = OPTIMIZERS[name]
    assert rule_of(given) == expected


RATES = {
    "schedule": keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.01]),
    "function": lambda: 0.05,
}


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize("name", RATES)
def test_learning_rates(name):
    assert_same_training(
        perceptron, lambda: keras.optimizers.SGD(RATES[name]), vectors(32), metrics=[], epochs=1
    )


@pytest.mark.one_backend
def test_variables_without_weight_decay():
    def optimizer():
        made = keras.optimizers.AdamW(0.01, weight_decay=0.5)
        made.exclude_from_weight_decay(var_names=["bias", "gamma"])
        return made

    assert_same_training(perceptron, optimizer, vectors(16), metrics=[])


def one_hot(count):
    x, y = vectors(count)
    return x, np.eye(3, dtype="float32")[y]


LOSSES = {
    "probabilities": (lambda: perceptron(last="softmax"), "sparse_categorical_crossentropy", vectors(16)),
    "smoothed": (
        perceptron,
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        one_hot(16),
    ),
    "squares": (perceptron, "mean_squared_error", one_hot(16)),
    "binary": (lambda: perceptron(last="sigmoid"), "binary_crossentropy", one_hot(16)),
    "own": (perceptron, lambda y, outputs: ops.mean(ops.abs(outputs - y), -1), one_hot(16)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    make, loss, data = LOSSES[name]
    assert_same_training(make, lambda: keras.optimizers.SGD(0.05), data, loss=loss, metrics=[])


@pytest.mark.slow
def test_weights_of_examples_and_classes():
    weights = np.linspace(0.1, 2, 20)
    for options in ({"sample_weight": weights}, {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}}):
        assert_same_training(
            perceptron,
            lambda: keras.optimizers.SGD(0.05),
            vectors(20),
            metrics=[],
            weighted=["accuracy"],
            validation_split=0.2,
            **options,
        )


def test_dense_models_frozen_layers_and_one_number():
    def make():
        model = perceptron(outputs=1, wrap=False)
        model.layers[0].trainable = False
        model.layers[1].trainable = False
        return model

    x, y = vectors(16)
    model, _ = assert_same_training(
        make, lambda: keras.optimizers.Adam(0.01), (x, y / 2.0), loss="mse", metrics=[]
    )
    before = numbers(make().non_trainable_variables)
    for old, new in zip(before, numbers(model.non_trainable_variables), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_distillation():
    teacher = perceptron(wrap=False)

    def make():
        student = perceptron()
        student.compile(keras.optimizers.SGD(0.05), LOGITS, metrics=["accuracy"])
        return DistilledModel(student, teacher, weight=0.7, temperature=3.0)

    models = make(), make()
    data = vectors(16)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, "validation_data": vectors(8, seed=2)}
    ours = SparseTrainer(models[1]).fit(*data, **options).history
    keras_own = models[0].fit(*data, **options).history
    assert list(ours) == list(keras_own)
    for name, values in keras_own.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-4)
    assert_alike(models[0].student, models[1].student)


class Batches(keras.utils.PyDataset):
    """Batches of 8 vectors."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        x, y = vectors(40)
        return x[8 * index : 8 * index + 8], y[8 * index : 8 * index + 8]


def generated():
    while True:
        for index in range(5):
            yield Batches()[index]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dataset", "generator"])
def test_data(kind):
    make = {"dataset": Batches, "generator": generated}[kind]
    options = {"batch_size": None, "epochs": 3, "initial_epoch": 1, "shuffle": False}
    if kind == "generator":
        options |= {"steps_per_epoch": 2, "validation_steps": 1}
    models = perceptron(), perceptron()
    histories = []
    for model in models:
        model.compile(keras.optimizers.SGD(0.05), LOGITS)
        fit = model.fit if model is models[0] else SparseTrainer(model).fit
        histories.append(
            fit(make(), validation_data=make(), validation_freq=[3], verbose=0, **options).history
        )
    assert [len(values) for values in histories[1].values()] == [2, 1]
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-4)
    assert_alike(*models)


@pytest.mark.slow
@pytest.mark.one_backend
def test_tf_data_and_several_steps_per_execution():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(vectors(44)).batch(8)
    models = perceptron(), perceptron()
    for model in models:
        model.compile(keras.optimizers.SGD(0.05), LOGITS, steps_per_execution=3)
    histories = [
        model_fit(data, epochs=2, verbose=0, validation_data=data).history
        for model_fit in (models[0].fit, SparseTrainer(models[1]).fit)
    ]
    np.testing.assert_allclose(histories[1]["val_loss"], histories[0]["val_loss"], rtol=1e-4)
    assert int(models[1].optimizer.iterations) == 12
    assert_alike(*models)


@pytest.mark.slow
def test_evaluation_and_prediction_need_no_training():
    model = residual()
    model.compile("adam", LOGITS, metrics=["accuracy"])
    x, y = images(20)
    expected = model.evaluate(x, y, verbose=0), model.predict(x, verbose=0)
    trainer = SparseTrainer(model)
    np.testing.assert_allclose(trainer.evaluate(x, y, batch_size=7, verbose=0), expected[0], rtol=1e-4)
    np.testing.assert_allclose(trainer.predict(x, batch_size=6, verbose=0), expected[1], rtol=1e-3, atol=1e-4)
    assert np.allclose(model.predict(x, verbose=0), expected[1])  # Keras's own function is back.


@pytest.mark.slow
def test_single_steps_reach_the_model_by_update():
    models = perceptron(), perceptron()
    for model in models:
        model.compile(keras.optimizers.Adam(0.01), LOGITS, metrics=["accuracy"])
    trainer = SparseTrainer(models[1])
    x, y = vectors(24)
    before = numbers(models[1].variables)
    for rows in (slice(0, 8), slice(0, 24), slice(8, 12)):  # Larger, then smaller than the first.
        found = trainer.train_on_batch(x[rows], y[rows], return_dict=True)
        wanted = models[0].train_on_batch(x[rows], y[rows], return_dict=True)
        assert found == pytest.approx(wanted, rel=1e-4)
        if rows.start == 0 and rows.stop == 8:
            assert all(map(np.array_equal, before, numbers(models[1].variables)))
    trainer.update(models[1])
    assert_alike(*models)
    models[1].set_weights(before)
    trainer.update(models[1])  # Takes up what the model holds.
    np.testing.assert_allclose(
        trainer.predict(x, verbose=0), models[1].predict(x, verbose=0), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="must be the trainer's"):
        trainer.update(models[0])


def test_the_model_is_compiled_on_request():
    model = perceptron()
    with pytest.raises(ValueError, match="must be compiled"):
        SparseTrainer(model)
    with pytest.raises(ValueError, match="must be compiled"):
        SparseTrainer(model, loss=LOGITS)
    trainer = SparseTrainer(model, "sgd", LOGITS, ["accuracy"])
    assert set(trainer.fit(*vectors(8), verbose=0).history) == {"loss", "accuracy"}
    optimizer = model.optimizer
    assert SparseTrainer(model, loss="mse").model.optimizer is optimizer


def test_inputs_are_cast_as_keras_does():
    model = residual()
    model.compile("sgd", LOGITS)
    x, y = images(8)
    trainer = SparseTrainer(model)
    assert np.array_equal(trainer.predict(x, verbose=0), trainer.predict(x + np.float64(0.5), verbose=0))


class OwnStep(keras.Sequential):
    def train_step(self, *data):
        return super().train_step(*data)


class OwnLoss(keras.Sequential):
    def compute_loss(self, *data, **options):
        return super().compute_loss(*data, **options)


@pytest.mark.parametrize(
    ("model", "optimizer", "said"),
    [
        (perceptron, lambda: keras.optimizers.RMSprop(), "must be Adam, AdamW, SGD.*Received: RMSprop"),
        (perceptron, lambda: keras.optimizers.Adam(amsgrad=True), "`amsgrad` must be False"),
        (perceptron, lambda: keras.optimizers.SGD(use_ema=True), "`use_ema` must be False"),
        (
            perceptron,
            lambda: keras.optimizers.SGD(gradient_accumulation_steps=2),
            "`gradient_accumulation_steps` must be None",
        ),
        (
            lambda: OwnStep([keras.Input((3,)), layers.Dense(2)]),
            lambda: "sgd",
            "has a `train_step` of its own",
        ),
        (
            lambda: OwnLoss([keras.Input((3,)), layers.Dense(2)]),
            lambda: "sgd",
            "has a `compute_loss` of its own",
        ),
        (
            lambda: keras.Sequential([keras.Input((3,)), layers.LayerNormalization()]),
            lambda: "sgd",
            "'layer_norm.* none that",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(model, optimizer, said):
    model = model()
    model.compile(optimizer(), "mse")
    for refuse in (check, SparseTrainer):
        with pytest.raises(UnsupportedError, match=said):
            refuse(model)

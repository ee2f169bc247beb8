"""Distillation: the loss by hand, who learns, what is saved, and the same on every backend."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from tfprune import sparsity
from tfprune.training.distillation import DistillationLoss, DistilledModel
from tfprune.training.fit import compile_for_training
from tfprune.training.rate import make_schedule
from tfprune.training.settings import TrainingSettings

WEIGHT, TEMPERATURE = 0.3, 4.0
SETTINGS = TrainingSettings(
    epochs=3, batch_size=8, learning_rate=1e-2, lr_schedule="cosine", warmup_epochs=1.5
)


def make_network(start, classes=3):
    """With BatchNorm, so that training and inference differ; the same start on every backend."""
    inputs = keras.Input((5,))
    x = keras.layers.Dense(6, name="body")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, name="head")(ops.relu(x)))
    random = np.random.default_rng(start)
    model.set_weights([random.uniform(0.1, 1.0, weights.shape) for weights in model.get_weights()])
    return model


def make_data():
    random = np.random.default_rng(7)
    return random.normal(size=(16, 5)).astype("float32"), random.integers(0, 3, 16)


def make_pair(weight=WEIGHT):
    student, teacher = make_network(1), make_network(2)
    compile_for_training(student, SETTINGS)
    student.optimizer.learning_rate = make_schedule(SETTINGS, 2)
    return student, teacher, DistilledModel(student, teacher, weight=weight, temperature=TEMPERATURE)


def fit(model, first=0, last=3):
    """Whole epochs of two steps."""
    images, labels = make_data()
    model.fit(images, labels, batch_size=8, initial_epoch=first, epochs=last, shuffle=False, verbose=0)


def flat(model):
    return np.concatenate([weights.ravel() for weights in model.get_weights()])


def trained(folder):
    """The student after three epochs, and after one, a file, and two more; the teacher's change."""
    student, teacher, model = make_pair()
    before = flat(teacher)
    fit(model)
    first, _, model = make_pair()
    fit(model, 0, 1)
    path = os.path.join(folder, f"{keras.backend.backend()}.keras")
    model.save(path)
    resumed = keras.models.load_model(path)
    fit(DistilledModel(resumed, make_network(2), weight=WEIGHT, temperature=TEMPERATURE), 1, 3)
    return {
        "backend": keras.backend.backend(),
        "whole": flat(student),
        "resumed": flat(resumed),
        "teacher_moved": np.abs(flat(teacher) - before).max(),
    }


def main(folder):
    np.savez(os.path.join(folder, "result.npz"), **trained(folder))


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def numpy_distillation(student, teacher, temperature):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * np.mean(np.sum(p * np.log(p / q), axis=1))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_divergence(temperature):
    random = np.random.default_rng(0)
    student, teacher = random.normal(0, 3, (2, 6, 4))
    loss = DistillationLoss(temperature)
    expected = numpy_distillation(student, teacher, temperature)
    assert float(loss(teacher, student)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(teacher, teacher)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_the_loss_in_training_and_in_evaluation():
    student, teacher, model = make_pair()
    images, labels = make_data()
    logits = np.array(student(images, training=True))
    taught = numpy_distillation(logits, np.array(teacher(images, training=False)), TEMPERATURE)
    student, teacher, model = make_pair()  # The forward pass has moved the statistics.
    own = -np.mean(np.log(softmax(logits)[np.arange(16), labels]))
    loss = model.train_on_batch(images, labels, return_dict=True)["loss"]
    assert loss == pytest.approx((1 - WEIGHT) * own + WEIGHT * taught, rel=1e-5)

    figures = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert figures == student.evaluate(images, labels, verbose=0, return_dict=True)
    own = -np.mean(np.log(softmax(np.array(student(images, training=False)))[np.arange(16), labels]))
    assert figures["loss"] == pytest.approx(own, rel=1e-5)


@pytest.mark.slow
def test_evaluation_does_not_run_the_teacher():
    student, teacher, model = make_pair()
    calls = []
    original = teacher.call
    teacher.call = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    images, labels = make_data()
    model.evaluate(images, labels, verbose=0)
    assert not calls
    model.train_on_batch(images, labels)
    assert calls


@pytest.mark.slow
def test_a_weight_of_one_learns_from_the_teacher_alone():
    images, labels = make_data()
    students = []
    for wrong in (labels, (labels + 1) % 3):
        student, _, model = make_pair(weight=1.0)
        model.train_on_batch(images, wrong)
        students.append(flat(student))
    np.testing.assert_array_equal(*students)


@pytest.mark.slow
def test_the_student_learns_to_be_like_the_teacher():
    student, teacher, model = make_pair(weight=1.0)
    student.optimizer.learning_rate = make_schedule(TrainingSettings(epochs=30, learning_rate=0.02), 2)
    images, _ = make_data()

    def distance():
        logits = (np.array(network(images, training=False)) for network in (student, teacher))
        return numpy_distillation(*logits, 1.0)

    before = distance()
    fit(model, last=30)
    assert distance() < 0.5 * before


@pytest.mark.slow
def test_only_the_student_learns_and_is_saved(tmp_path):
    student, teacher, model = make_pair()
    before, own = flat(teacher), {id(variable) for variable in student.trainable_variables}
    assert {id(variable) for variable in model.trainable_variables} == own
    fit(model)
    np.testing.assert_array_equal(flat(teacher), before)
    assert all(
        np.any(a != b) for a, b in zip(student.get_weights(), make_network(1).get_weights(), strict=True)
    )

    model.save(tmp_path / "model.keras")
    student.save(tmp_path / "student.keras")
    saved, direct = (keras.models.load_model(tmp_path / name) for name in ("model.keras", "student.keras"))
    assert saved.count_params() == make_network(1).count_params()
    for network in (saved, direct):
        assert type(network) is type(student)
        np.testing.assert_array_equal(flat(network), flat(student))
        assert int(network.optimizer.iterations) == 6


@pytest.mark.slow
def test_removed_weights_stay_zero():
    student = sparsity.prune_low_magnitude(make_network(1), None, layers="body")
    compile_for_training(student, SETTINGS)
    sparsity.prune_to(student, 0.5)
    model = DistilledModel(student, make_network(2), weight=WEIGHT, temperature=TEMPERATURE)
    images, labels = make_data()
    model.fit(images, labels, epochs=2, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    (wrapper,) = sparsity.pruned_layers(student)
    kernel = np.array(wrapper.layer.kernel)
    assert np.count_nonzero(kernel == 0) == kernel.size // 2
    assert wrapper.steps_taken == 2


@pytest.mark.slow
def test_a_resumed_fit_ends_where_an_uninterrupted_one_does(tmp_path):
    result = trained(tmp_path)
    np.testing.assert_array_equal(result["resumed"], result["whole"])
    assert result["teacher_moved"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends(backend, tmp_path):
    pytest.importorskip(backend)
    root = pathlib.Path(__file__).parents[2]
    environment = {"KERAS_BACKEND": backend, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, __file__, tmp_path], env={**os.environ, **environment}, check=True)
    result = np.load(tmp_path / "result.npz")
    assert result["backend"] == backend
    assert result["teacher_moved"] == 0
    np.testing.assert_array_equal(result["resumed"], result["whole"])
    np.testing.assert_allclose(result["whole"], trained(tmp_path)["whole"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "arguments, rule",
    [
        ({"weight": 0.0}, r"`weight` must be in \(0, 1\]. Received: weight=0.0"),
        ({"weight": 1.5}, r"`weight` must be in \(0, 1\]. Received: weight=1.5"),
        ({"temperature": 0.0}, "`temperature` must be above 0. Received: temperature=0.0"),
        ({"teacher": make_network(0, classes=4)}, r"`teacher` must have the student's outputs, \(None, 3\)"),
    ],
)
def test_what_cannot_be_is_named(arguments, rule):
    student = make_network(1)
    compile_for_training(student, SETTINGS)
    arguments = {"teacher": make_network(2), "weight": WEIGHT, "temperature": TEMPERATURE, **arguments}
    with pytest.raises(ValueError, match=rule):
        DistilledModel(student, arguments.pop("teacher"), **arguments)


if __name__ == "__main__":
    main(sys.argv[1])

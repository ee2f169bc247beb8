"""`--pruning_engine=tfmot`: the twin equals the Keras 3 network, and its runs are like any other."""

import functools
import os
import sys
from importlib.metadata import version

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.support.interrupted_runs import (
    Interrupted,
    assert_same_rounds,
    left_over,
    loss_history,
    without_rounds,
)
from tests.support.small_experiments import kernels_of, measured_accuracy_percent
from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.experiments.environment import prepare_backend
from tfprune.experiments.networks import load_model
from tfprune.experiments.run import run_experiment
from tfprune.models.resnet import build_resnet
from tfprune.runs.folder import RunFolder
from tfprune.sparsity import ConstantSparsity
from tfprune.training.checkpoint import read_checkpoint
from tfprune.training.fit import compile_for_training
from tfprune.training.optimizer import TorchAdam
from tfprune.training.settings import TrainingSettings

pytestmark = pytest.mark.slow

ONCE = ConstantSparsity(0.75, begin_step=0, end_step=0, frequency=1)


@functools.cache
def engine():
    from tfprune.experiments.tfmot import engine as tfmot_engine

    return tfmot_engine


def random_network(name="resnet18", stem="cifar"):
    """A wrapped, compiled network in which nothing is at its initial value."""
    network = build_resnet(
        name, classes=10, image_size=16, width=4, stem=stem, mean=(120, 110, 100), std=(60, 61, 62), seed=1
    )
    random = np.random.default_rng(0)
    for variable in network.variables:
        if variable.path.endswith("moving_variance"):
            variable.assign(random.uniform(0.5, 2.0, variable.shape))
        else:
            variable.assign(variable + random.normal(0.0, 0.05, variable.shape))
    model = sparsity.prune_low_magnitude(network, None, layers=keras.layers.Conv2D)
    compile_for_training(model, TrainingSettings(epochs=1, learning_rate=1e-3, head_learning_rate=1e-2))
    return model


def left_by_tfmot(size, level):
    """How many weights tfmot keeps of a tensor without ties."""
    return max(round(size * (1.0 - level)), 1)


def images(count):
    return np.random.default_rng(1).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)


def values(model):
    model.optimizer.build(model.trainable_variables)
    return [ops.convert_to_numpy(v) for v in [*model.variables, *model.optimizer.variables]]


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet34", marks=pytest.mark.slow)])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_twin_computes_the_same(name, stem):
    model = random_network(name, stem)
    twin = engine()._Twin(model, ONCE)
    twin.load()
    logits = ops.convert_to_numpy(model(images(4), training=False))
    assert np.ptp(logits) > 0.1
    np.testing.assert_allclose(twin.model(images(4), training=False).numpy(), logits, rtol=1e-5, atol=1e-5)
    assert len(twin.wrappers) == len(sparsity.pruned_layers(model)) > 5


def test_a_layer_that_the_resnets_do_not_have():
    inputs = keras.Input((4,), name="image")
    model = keras.Model(inputs, keras.layers.Softmax(name="odd")(inputs))
    with pytest.raises(ValueError, match="Conv2D.*Received: layer 'odd' of class Softmax"):
        engine().build_twin(model, lambda layer: layer)


def test_everything_goes_to_the_twin_and_back():
    model = random_network()
    random = np.random.default_rng(2)
    for variable in [*model.variables, *(values(model) and model.optimizer.variables)]:
        if variable.dtype == "bool":
            variable.assign(random.random(variable.shape) < 0.5)
        elif variable.dtype.startswith("int"):
            variable.assign(random.integers(1, 100))
        elif "learning_rate" not in variable.path:
            variable.assign(random.random(variable.shape, np.float32))
    before = values(model)
    twin = engine()._Twin(model, ONCE)
    twin.load()
    for variable in [*model.variables, *model.optimizer.variables]:
        if "learning_rate" not in variable.path and "seed" not in variable.path:
            variable.assign(ops.zeros_like(variable))
    assert not all(np.array_equal(a, b) for a, b in zip(values(model), before, strict=True))
    twin.store()
    for ours, theirs in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_tfmot_prunes_further_what_it_has_pruned():
    """As between two rounds, whose networks come back from the twin."""
    model = random_network()
    kept = []
    for level in (0.5, 0.75):
        engine().prune(model, ConstantSparsity(level, begin_step=0, end_step=0, frequency=1))
        kept.append([ops.convert_to_numpy(wrapper.masks[0]) for wrapper in sparsity.pruned_layers(model)])
        for wrapper, mask in zip(sparsity.pruned_layers(model), kept[-1], strict=True):
            assert np.count_nonzero(mask) == left_by_tfmot(mask.size, level)
            assert np.array_equal(ops.convert_to_numpy(wrapper.layer.kernel) != 0.0, mask)
            assert int(wrapper.pruning_step) == 0
    for before, after in zip(*kept, strict=True):
        assert not (after & ~before).any()


def test_the_optimizer_is_torch_adam():
    random = np.random.default_rng(0)
    names = ("body/kernel", "head/kernel")
    start = [random.normal(size=shape).astype(np.float32) for shape in ((3, 4), (4,))]
    ours = TorchAdam(1e-3, weight_decay=5e-4, learning_rate_multipliers={"(.*/)?head/.*": 10.0})
    theirs = engine().TwinTorchAdam(ours)
    our_variables, their_variables = [], []
    for name, value in zip(names, start, strict=True):
        with keras.name_scope(name.split("/")[0]):
            our_variables.append(keras.Variable(value, name="kernel"))
        their_variables.append(tf.Variable(value, name=name))
    assert [variable.path for variable in our_variables] == list(names)
    for step in range(5):
        # Small gradients show the epsilon.
        gradients = [random.normal(size=v.shape).astype(np.float32) * 10.0 ** (-2 * step) for v in start]
        ours.apply([ops.convert_to_tensor(g) for g in gradients], our_variables)
        theirs.apply_gradients(zip(map(tf.constant, gradients), their_variables, strict=True))
        moves = [
            (ops.convert_to_numpy(our) - before, their.numpy() - before)
            for our, their, before in zip(our_variables, their_variables, start, strict=True)
        ]
        for our_move, their_move in moves:
            np.testing.assert_allclose(their_move, our_move, rtol=1e-5, atol=1e-7)
    (_, body), (_, head) = moves
    assert np.abs(head).max() > 5 * np.abs(body).max() > 0


def test_importing_tfmot_leaves_the_process_as_it_was():
    assert engine()
    assert "tensorflow_model_optimization" in sys.modules
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert tf.keras.version() == keras.version()


TFMOT = {"pruning_engine": "tfmot", "scope": "layer"}


def ours_and_tfmots(runs, name, **flags):
    flags = {"init_from": "dense", "scope": "layer", **flags}
    assert runs.dense
    return runs.run(f"{name}_ours", **flags), runs.run(f"{name}_tfmot", **flags, pruning_engine="tfmot")


def test_one_shot_is_what_our_engine_makes_of_it(runs):
    """Equal masks at the start, and what becomes of removed weights does not reach the others."""
    flags = {"regime": "one_shot", "target_sparsity": 0.8, "epochs": (2,)}
    ours, theirs = ours_and_tfmots(runs, "one_shot", **flags)
    tfmots, equals = kernels_of(theirs.round(1)), kernels_of(ours.round(1))
    assert tfmots.keys() == equals.keys()
    for name, (kernel, mask) in tfmots.items():
        assert np.array_equal(mask, kernel != 0.0), name
        assert np.count_nonzero(kernel) == left_by_tfmot(kernel.size, 0.8), name
        assert not np.signbit(kernel[~mask]).any(), name
        our_kernel, our_mask = equals[name]
        assert np.array_equal(mask, our_mask), name
        np.testing.assert_allclose(kernel, our_kernel, rtol=1e-3, atol=1e-5, err_msg=name)
    result, other = theirs.round(1).read_result(), ours.round(1).read_result()
    missing = {name for name, value in vars(other).items() if value and not getattr(result, name)}
    assert missing == {"training_engines"}  # tfmot is none of them
    assert result.config.pruning_engine == "tfmot"
    added = result.versions.items() - other.versions.items()
    assert dict(added) == {name: version(name) for name in ("tensorflow-model-optimization", "tf-keras")}
    for name in ("sparsity", "target_sparsity", "metric_before", "metric_after_pruning"):
        assert getattr(result, name) == getattr(other, name), name
    assert result.metric_at_end == pytest.approx(measured_accuracy_percent(load_model(theirs.round(1))))
    header = [(run.round(1).path / "history.csv").read_text().splitlines()[0] for run in (ours, theirs)]
    assert header[0] == header[1]
    assert len(loss_history(theirs.round(1))) == 3
    assert not left_over(theirs)


GRADUAL = {
    "init_from": "dense",
    "regime": "gradual",
    "schedule": "polynomial",
    "target_sparsity": 0.85,
    "frequency": 2,
    "ramp_fraction": 0.75,  # 9 of 12 steps: tfmot's last update is at step 8
    "epochs": (3,),
    **TFMOT,
}


@functools.cache
def gradual_run(runs):
    assert runs.dense
    return runs.run("gradual_tfmot", **GRADUAL)


@pytest.fixture
def gradual(runs):
    return gradual_run(runs)


def test_gradual_ends_at_the_target(gradual):
    for name, (kernel, mask) in kernels_of(gradual.round(1)).items():
        assert np.array_equal(mask, kernel != 0.0), name
        assert np.count_nonzero(kernel) == left_by_tfmot(kernel.size, 0.85), name
    result = gradual.round(1).read_result()
    assert result.steps == 12
    measured = measured_accuracy_percent(load_model(gradual.round(1)))
    assert result.metric_at_end == pytest.approx(measured)


def interrupting(epoch, step):
    """tfmot's callback, but for an exception in a step of an epoch, both from 1."""

    class Interrupting(engine().tfmot.sparsity.keras.UpdatePruningStep):
        def on_epoch_begin(self, number, logs=None):
            self.epoch = number + 1

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch + 1) == (epoch, step):
                raise Interrupted

    return Interrupting


def test_an_interrupted_run_ends_as_one_that_was_not(runs, gradual, monkeypatch):
    """Two steps, and an update, after the checkpoint of step 4."""
    config = without_rounds(runs, gradual, "gradual_tfmot_interrupted", 1)
    with monkeypatch.context() as patch:
        patch.setattr(engine().tfmot.sparsity.keras, "UpdatePruningStep", interrupting(2, 2))
        with pytest.raises(Interrupted):
            run_experiment(config, log=lambda line: None)
    run = RunFolder(config.folder)
    checkpoint = read_checkpoint(run.round(1).path)
    assert checkpoint.epochs_done == 1
    wrapper = sparsity.pruned_layers(checkpoint.load_model())[0]
    assert int(wrapper.pruning_step) == 4
    assert 0.3 < 1.0 - float(ops.mean(ops.cast(wrapper.masks[0], "float32"))) < 0.8
    lines = []
    run_experiment(config, log=lines.append)
    assert f"{config.experiment} round 1: goes on after epoch 1" in lines
    assert_same_rounds(run, gradual, (0, 1))
    assert loss_history(run.round(1)) == loss_history(gradual.round(1))
    assert not left_over(run)


def test_a_loss_that_is_no_number(runs):
    assert runs.dense
    flags = {"epochs": (2,), "lr_boundaries_epochs": (1,), "lr_factor": 1e40, "init_from": "dense"}
    config = runs.config("diverges_tfmot", regime="one_shot", target_sparsity=0.5, **flags, **TFMOT)
    with pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    message = str(caught.value)
    assert message.startswith("diverges_tfmot round 1: the ")
    assert f"Last good checkpoint: {config.folder / 'round_01' / 'checkpoint_0001.keras'}" in message


def error_of(runs, **flags):
    config = runs.config("bad_tfmot", **{**TFMOT, **flags})
    with pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    assert "\n" not in str(caught.value)
    assert not config.folder.exists()
    return str(caught.value)


ONE_SHOT = {"regime": "one_shot", "target_sparsity": 0.5}


def test_a_ramp_shorter_than_the_frequency(runs):
    assert runs.dense
    message = error_of(runs, **{**GRADUAL, "frequency": 10})
    assert message.startswith("--frequency=10: must be at most 9, the steps of the ramp")


def test_a_start_whose_layers_are_sparser_than_the_first_update(runs):
    """A global threshold has made some layers sparser than others."""
    assert runs.one_shot.round(1).finished
    message = error_of(runs, init_from="one_shot", regime="one_shot", target_sparsity=0.91)
    assert message.startswith("--pruning_engine=tfmot: must be tfprune for this start, because its layer 'st")


def test_another_backend(runs, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    message = error_of(runs, **ONE_SHOT)
    assert message.startswith("--pruning_engine=tfmot: must be tfprune with KERAS_BACKEND=jax")
    # Its networks can be evaluated there.
    prepare_backend(runs.config("any", **ONE_SHOT, **TFMOT))


def test_tfmot_is_not_installed(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    monkeypatch.delitem(sys.modules, "tfprune.experiments.tfmot.engine", raising=False)
    monkeypatch.delattr("tfprune.experiments.tfmot.engine", raising=False)
    message = error_of(runs, **ONE_SHOT)
    assert message.startswith("--pruning_engine=tfmot: ")
    assert "tensorflow_model_optimization" in message

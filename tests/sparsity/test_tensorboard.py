import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
)
from tfprune.sparsity.tensorboard import PruningSummaries

KERNEL = "first/kernel"


def read_scalars(folder):
    """Tag -> [(step, value)] of all event files in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    # Files of the same second are read in the order of their names, where 10 comes before 9.
    return {
        tag: [
            (event.step, float(make_ndarray(event.tensor_proto)))
            for event in sorted(events.Tensors(tag), key=lambda event: event.wall_time)
        ]
        for tag in events.Tags()["tensors"]
        if tag != "keras"  # The model's config.
    }


def tag_of(scalars, end):
    (tag,) = [tag for tag in scalars if tag.endswith(end)]
    return tag


@pytest.fixture
def fit(tmp_path, data):
    """A function that fits a model for some epochs of 3 batches; returns the scalars written."""

    def run(model, epochs, *, validate=False, callback_first=False, update=True, initial_epoch=0, **options):
        if not model.compiled:
            model.compile("sgd", "mse")
        x, y = data(3)
        callbacks = [PruningSummaries(str(tmp_path / "logs"), **options)]
        if update:
            callbacks.insert(1 if callback_first else 0, UpdatePruningStep())
        model.fit(
            x,
            y,
            batch_size=4,
            epochs=epochs,
            initial_epoch=initial_epoch,
            validation_data=(x, y) if validate else None,
            callbacks=callbacks,
            verbose=0,
        )
        return read_scalars(tmp_path / "logs" / "metrics")

    return run


@pytest.mark.parametrize("callback_first", [False, True])
def test_state_at_each_epoch_begin_and_after_the_last(mlp, fit, callback_first):
    schedule = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=6, power=1, frequency=3)
    scalars = fit(prune_low_magnitude(mlp(), schedule), 2, callback_first=callback_first)
    sparsity = scalars[tag_of(scalars, f"{KERNEL}/sparsity")]
    assert [step for step, _ in sparsity] == [0, 3, 6]
    # Before batch 3 to 40 %, before batch 6 to 80 %.
    np.testing.assert_allclose([value for _, value in sparsity], [0.0, 0.4, 0.8], atol=1e-6)
    scheduled = scalars[tag_of(scalars, f"{KERNEL}/schedule")]
    assert [step for step, _ in scheduled] == [0, 3, 6]
    np.testing.assert_allclose([value for _, value in scheduled], [0.0, 0.4, 0.8], atol=1e-6)
    assert len(scalars) == 2 * 3  # Two kernels, three curves each.


def test_threshold_is_the_smallest_magnitude_kept(mlp, fit, kernels_of, masks_of):
    model = prune_low_magnitude(mlp(), ConstantSparsity(0.5, begin_step=2, frequency=1))
    dense = kernels_of(model)[0]
    scalars = fit(model, 1)
    (_, before), (_, after) = scalars[tag_of(scalars, f"{KERNEL}/threshold")]
    assert before == pytest.approx(np.abs(dense).min(), rel=1e-6)
    kernel, mask = kernels_of(model)[0], masks_of(model)[0]
    assert after == pytest.approx(np.abs(kernel[mask]).min(), rel=1e-6) and after > before
    # The schedule asks for nothing before step 2.
    assert [step for step, _ in scalars[tag_of(scalars, f"{KERNEL}/schedule")]] == [3]


def test_a_second_fit_goes_on_counting(mlp, fit):
    model = prune_low_magnitude(mlp(), ConstantSparsity(0.5, begin_step=0, frequency=1))
    fit(model, 1)
    scalars = fit(model, 2, initial_epoch=1)
    assert [step for step, _ in scalars[tag_of(scalars, f"{KERNEL}/sparsity")]] == [0, 3, 3, 6]


def test_fixed_masks_are_written_against_the_optimizers_steps(mlp, fit):
    model = prune_low_magnitude(mlp(), None)
    prune_to(model, 0.5)
    scalars = fit(model, 2, update=False)
    assert scalars[tag_of(scalars, f"{KERNEL}/sparsity")] == [(0, 0.5), (3, 0.5), (6, 0.5)]
    assert not any(tag.endswith("/schedule") for tag in scalars)


def test_it_writes_what_kerass_callback_writes(mlp, fit, tmp_path):
    model = prune_low_magnitude(mlp(), ConstantSparsity(0.5, begin_step=0, frequency=1))
    fit(model, 2, validate=True, update_freq=1)
    train = read_scalars(tmp_path / "logs" / "train")
    assert [step for step, _ in train["epoch_loss"]] == [0, 1]
    assert len(train["batch_loss"]) == 6
    assert len(read_scalars(tmp_path / "logs" / "validation")["epoch_loss"]) == 2


def test_variables_of_the_same_path_have_curves_of_their_own(fit):
    def branch(name):
        inputs = keras.Input((10,))
        return keras.Model(inputs, layers.Dense(10, name="first")(inputs), name=name)

    inputs = keras.Input((10,))
    outputs = layers.Dense(4, name="last")(branch("a")(inputs) + branch("b")(inputs))
    model = prune_low_magnitude(keras.Model(inputs, outputs), None, layers="first")
    paths = [v.path for layer in pruned_layers(model) for v in layer.prunable_variables]
    assert paths[0] == paths[1]
    prune_to(model, 0.5)
    scalars = fit(model, 1, update=False)
    for path in (paths[0], f"{paths[0]}_2"):
        assert scalars[f"{path}/sparsity"] == [(0, 0.5), (3, 0.5)]
    assert len(scalars) == 4


def test_a_path_object_is_a_folder_too(tmp_path):
    assert PruningSummaries(tmp_path / "logs").log_dir == str(tmp_path / "logs")


@pytest.mark.parametrize("log_dir", ["", None, 3])
def test_no_folder_is_an_error(log_dir):
    with pytest.raises(ValueError, match="`log_dir` must be a non-empty string"):
        PruningSummaries(log_dir)


def test_of_a_model_without_pruned_layers_losses_alone_are_written(mlp, data, tmp_path):
    model = mlp()
    model.compile("sgd", "mse")
    callback = PruningSummaries(str(tmp_path / "logs"))
    model.fit(*data(3), verbose=0, callbacks=[callback])
    assert read_scalars(tmp_path / "logs" / "train") and not (tmp_path / "logs" / "metrics").exists()


def test_a_loop_of_ones_own_writes_before_each_epoch(mlp, data, tmp_path):
    """As tfmot's guide does it: neither the start nor the end of training is told."""
    model = prune_low_magnitude(mlp(), ConstantSparsity(0.5, begin_step=0))
    model.compile("sgd", "mse", run_eagerly=True)
    step, summaries = UpdatePruningStep(), PruningSummaries(tmp_path)
    for callback in (step, summaries):
        callback.set_model(model)
    step.on_train_begin()
    x, y = data(1)
    for _ in range(3):
        summaries.on_epoch_begin(epoch=-1)
        for _ in range(2):
            step.on_train_batch_begin(batch=-1)
            model.train_on_batch(x, y)
        step.on_epoch_end(batch=-1)
    scalars = read_scalars(tmp_path / "metrics")
    assert scalars[tag_of(scalars, "first/kernel/sparsity")] == [(0, 0.0), (2, 0.5), (4, 0.5)]

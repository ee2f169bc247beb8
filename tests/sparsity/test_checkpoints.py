"""Files written during `fit`: exact zeros and the right step in each, and a resume that changes nothing."""

import functools
import gc
import io
import pathlib
import shutil
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.sparsity import (
    PolynomialDecay,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
    strip_pruning,
)

pytestmark = pytest.mark.slow

BACKEND = keras.backend.backend()
BATCHES, EPOCHS = 3, 3
STEPS = BATCHES * EPOCHS


def numpy_of(value):
    return np.array(ops.convert_to_numpy(value))


def masks_of(model):
    return [numpy_of(mask) for layer in pruned_layers(model) for mask in layer.masks]


def kernels_of(model):
    return [numpy_of(v) for layer in pruned_layers(model) for v in layer.prunable_variables]


def step_of(model):
    return int(numpy_of(pruned_layers(model)[0].pruning_step))


def assert_zeros_are(masks, kernels):
    assert len(masks) == len(kernels) == 2
    for mask, kernel in zip(masks, kernels, strict=True):
        np.testing.assert_array_equal(kernel == 0, ~mask)


def dense_model():
    # Not a Sequential: Keras's `load_model` gives one read from Orbax other paths, and so fresh weights.
    inputs = keras.Input((10,))
    hidden = layers.Dense(10, activation="tanh", name="first")(inputs)
    return keras.Model(inputs, layers.Dense(4, name="second")(hidden))


def start(optimizer="adam", schedule="linear"):
    """The model with which each run starts."""
    keras.utils.set_random_seed(3)
    if schedule == "linear":  # 12, 24, ... 60 % at steps 3 to 7, so that each step's masks differ.
        schedule = PolynomialDecay(0.0, 0.6, begin_step=2, end_step=7, frequency=1, power=1)
    model = prune_low_magnitude(dense_model(), schedule)
    compile_model(model, optimizer)
    return model


def compile_model(model, optimizer="adam"):
    optimizer = {"adam": keras.optimizers.Adam, "muon": keras.optimizers.Muon}[optimizer](0.05)
    # Operation by operation is the quickest for a few steps, but not on JAX.
    model.compile(optimizer, "mse", run_eagerly=BACKEND != "jax")


def epoch_data():
    rng = np.random.default_rng(1)
    shape = (4 * BATCHES,)
    return rng.normal(size=(*shape, 10)).astype("float32"), rng.normal(size=(*shape, 4)).astype("float32")


def stream(begin=0):
    """The batches of a whole run in order, after the first `begin`."""
    return tuple(np.concatenate([part] * EPOCHS)[4 * begin :] for part in epoch_data())


class Watch(keras.callbacks.Callback):
    """Records the masks that each batch meets."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def on_train_batch_begin(self, batch, logs=None):
        self.masks.append(masks_of(self.model))


def fit(model, x, y, *callbacks, epochs=1):
    watch = Watch()
    model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks, watch])
    return watch.masks


def assert_same_masks(found, expected):
    assert len(found) == len(expected)
    for masks, others in zip(found, expected, strict=True):
        for mask, other in zip(masks, others, strict=True):
            np.testing.assert_array_equal(mask, other)


@functools.cache
def uninterrupted():
    """The masks at each step, and the kernels at the end, of a run that nothing interrupts."""
    model = start()
    masks = fit(model, *epoch_data(), UpdatePruningStep(), epochs=EPOCHS)
    removed = [int(np.count_nonzero(~step_masks[0])) for step_masks in masks]
    assert removed == [0, 0, 12, 24, 36, 48, 60, 60, 60]
    return masks, kernels_of(model)


class Save(keras.callbacks.Callback):
    """Calls `model.save` after each batch, or after each epoch."""

    def __init__(self, folder, after):
        super().__init__()
        self.folder, self.after, self.step = folder, after, 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.after == "batch":
            self.model.save(self.folder / f"{self.step}.keras")

    def on_epoch_end(self, epoch, logs=None):
        if self.after == "epoch":
            self.model.save(self.folder / f"{self.step}.keras")


class KeepBackups(keras.callbacks.BackupAndRestore):
    """Keeps each file that `BackupAndRestore` writes over the one before."""

    def _save_model(self):
        super()._save_model()
        kept = pathlib.Path(self.backup_dir).parent / f"{len(list(self.folder.iterdir()))}.weights.h5"
        shutil.copy(self._weights_path, kept)

    @property
    def folder(self):
        return pathlib.Path(self.backup_dir).parent


# Kind -> the callback that writes into a folder, and step -> the file written after it. Two batches apart
# are 2, 4, 6 and 8.
def model_checkpoint(suffix, **options):
    def make(folder):
        path = str(folder / ("{epoch}_{batch}" + suffix if "save_freq" in options else "{epoch}" + suffix))
        return keras.callbacks.ModelCheckpoint(path, **options)

    if "save_freq" in options:
        return make, {2: f"1_2{suffix}", 4: f"2_1{suffix}", 6: f"2_3{suffix}", 8: f"3_2{suffix}"}
    return make, {3: f"1{suffix}", 6: f"2{suffix}", 9: f"3{suffix}"}


def backup(save_freq, steps):
    def make(folder):
        return KeepBackups(folder / "backup", save_freq=save_freq, delete_checkpoint=False)

    # The n-th file's name counts the backup folder, too.
    return make, {step: f"{n}.weights.h5" for n, step in enumerate(steps, start=1)}


def orbax(save_freq, names):
    def make(folder):
        pytest.importorskip("orbax.checkpoint")
        return keras.callbacks.OrbaxCheckpoint(str(folder), save_freq=save_freq, max_to_keep=None)

    return make, names


KINDS = {
    "checkpoint_epoch": model_checkpoint(".keras"),
    "checkpoint_epoch_weights": model_checkpoint(".weights.h5", save_weights_only=True),
    "checkpoint_batch": model_checkpoint(".keras", save_freq=2),
    "checkpoint_batch_weights": model_checkpoint(".weights.h5", save_freq=2, save_weights_only=True),
    "backup_epoch": backup("epoch", [3, 6, 9]),
    "backup_batch": backup(2, [2, 4, 6, 8]),
    "orbax_epoch": orbax("epoch", {3: "0", 6: "1", 9: "2"}),
    "orbax_batch": orbax(2, {2: "2", 4: "4", 6: "6", 8: "8"}),
    "save_epoch": (lambda folder: Save(folder, "epoch"), {s: f"{s}.keras" for s in (3, 6, 9)}),
    "save_batch": (lambda folder: Save(folder, "batch"), {s: f"{s}.keras" for s in range(1, STEPS + 1)}),
}


def write(kind, saver_first, model, folder):
    """Trains, and returns step -> file."""
    make, names = KINDS[kind]
    folder.mkdir()
    callbacks = [make(folder), UpdatePruningStep()]
    fit(model, *epoch_data(), *(callbacks if saver_first else callbacks[::-1]), epochs=EPOCHS)
    return {step: folder / name for step, name in names.items()}


def load(path, tmp_path):
    """The model as it was when the file was written, optimizer and all."""
    if path.name.endswith(".weights.h5"):
        model = start()
        model.optimizer.build(model.trainable_variables)
        model.load_weights(path)
        return model
    if path.is_dir():  # Keras reads the latest step of a folder.
        path = shutil.copytree(path, tmp_path / f"only_{path.name}" / path.name, dirs_exist_ok=True).parent
    model = keras.models.load_model(path)
    model.run_eagerly = BACKEND != "jax"
    return model


def raw_arrays(path):
    """The masks and the kernels as they stand in an HDF5 file, whatever loading makes of them."""
    content = path.read_bytes()
    if path.suffix == ".keras":
        content = zipfile.ZipFile(path).read("model.weights.h5")
    arrays = []
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(
            lambda name, item: (
                arrays.append(item[()])
                if isinstance(item, h5py.Dataset) and not name.startswith("optimizer")
                else None
            )
        )
    matrices = sorted((array for array in arrays if array.ndim == 2), key=lambda array: -array.size)
    return [m for m in matrices if m.dtype == bool], [m for m in matrices if m.dtype != bool]


ORDERS = {"saver_first": True, "saver_last": False}
SAVER_FIRST = pytest.mark.parametrize("saver_first", ORDERS.values(), ids=ORDERS)


@pytest.mark.parametrize(
    "kind, saver_first",
    [pytest.param(kind, first, id=f"{kind}-{order}") for kind in KINDS for order, first in ORDERS.items()],
)
def test_every_file_is_exact_and_resumes_as_if_nothing_happened(kind, saver_first, tmp_path):
    masks, kernels = uninterrupted()
    files = write(kind, saver_first, start(), tmp_path / "files")
    for step, path in files.items():
        model = load(path, tmp_path)
        assert step_of(model) == step, path.name
        assert_same_masks([masks_of(model)], [masks[step - 1]])
        assert_zeros_are(masks_of(model), kernels_of(model))
        if path.is_file():
            assert_zeros_are(*raw_arrays(path))
    if not saver_first:
        return  # The files are the same in both orders.
    step = 6 if 6 in files else 4  # In mid-schedule.
    model = load(files[step], tmp_path)
    assert_same_masks(fit(model, *stream(step), UpdatePruningStep()), masks[step:])
    for kernel, expected in zip(kernels_of(model), kernels, strict=True):
        np.testing.assert_allclose(kernel, expected, atol=1e-5)
    assert step_of(model) == STEPS


@SAVER_FIRST
@pytest.mark.parametrize("kind", ["checkpoint_batch", "orbax_epoch", "orbax_batch"])
def test_files_are_exact_where_the_optimizer_moves_removed_weights(kind, saver_first, tmp_path):
    # Muon's update of a weight depends on the others', so that one without gradient moves too.
    files = write(kind, saver_first, start("muon"), tmp_path / "files")
    for step in (4, 8) if 4 in files else files:
        model = load(files[step], tmp_path)
        assert_zeros_are(masks_of(model), kernels_of(model))
        if files[step].is_file():
            assert_zeros_are(*raw_arrays(files[step]))


@SAVER_FIRST
def test_a_file_after_an_epoch_of_unknown_length_has_its_count(saver_first, tmp_path):
    x, y = epoch_data()
    saver = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    callbacks = [saver, UpdatePruningStep()] if saver_first else [UpdatePruningStep(), saver]
    model = start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras: the generator ran out of data.
        batches = ((x[i : i + 4], y[i : i + 4]) for i in range(0, len(x), 4))
        model.fit(batches, verbose=0, callbacks=callbacks)
    model = load(tmp_path / "1.keras", tmp_path)
    assert step_of(model) == BATCHES
    assert_same_masks(fit(model, *stream(BATCHES), UpdatePruningStep()), uninterrupted()[0][BATCHES:])


class Interrupt(keras.callbacks.Callback):
    """Stops a fit after so many batches, as an exception does."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise InterruptedError


@SAVER_FIRST
def test_backup_and_restore_goes_on_from_the_last_epoch(saver_first, tmp_path):
    masks, kernels = uninterrupted()

    def run(model, *more):
        callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup"), UpdatePruningStep()]
        callbacks = callbacks if saver_first else callbacks[::-1]
        return fit(model, *epoch_data(), *callbacks, *more, epochs=EPOCHS)

    with pytest.raises(InterruptedError):
        run(start(), Interrupt(after=5))
    model = start()
    assert_same_masks(run(model), masks[3:])
    for kernel, expected in zip(kernels_of(model), kernels, strict=True):
        np.testing.assert_allclose(kernel, expected, atol=1e-5)


@SAVER_FIRST
def test_backup_and_restore_goes_on_from_a_batch(saver_first, tmp_path):
    masks, kernels = uninterrupted()

    def run(model, begin, *more):
        saver = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=2)
        callbacks = [saver, UpdatePruningStep()] if saver_first else [UpdatePruningStep(), saver]
        return fit(model, *stream(begin), *callbacks, *more)

    with pytest.raises(InterruptedError):
        run(start(), 0, Interrupt(after=5))
    model = start()
    # Keras begins the epoch anew; the data must begin at the fifth batch.
    assert_same_masks(run(model, 4), masks[4:])
    for kernel, expected in zip(kernels_of(model), kernels, strict=True):
        np.testing.assert_allclose(kernel, expected, atol=1e-5)


def test_a_model_saved_after_an_interrupted_fit_goes_on(tmp_path):
    masks, _ = uninterrupted()
    model = start()
    with pytest.raises(InterruptedError):
        fit(model, *stream(), UpdatePruningStep(), Interrupt(after=5))
    gc.collect()  # The callback is gone.
    model.save(tmp_path / "model.keras")
    model = load(tmp_path / "model.keras", tmp_path)
    assert_same_masks(fit(model, *stream(5), UpdatePruningStep()), masks[5:])


def test_the_interrupted_model_itself_goes_on():
    masks, _ = uninterrupted()
    model = start()
    with pytest.raises(InterruptedError):
        fit(model, *stream(), UpdatePruningStep(), Interrupt(after=5))
    assert_same_masks(fit(model, *stream(5), UpdatePruningStep()), masks[5:])


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@SAVER_FIRST
def test_the_best_weights_come_back_with_their_masks(saver_first, optimizer, monkeypatch):
    masks, _ = uninterrupted()
    stop = keras.callbacks.EarlyStopping("score", mode="max", patience=9, restore_best_weights=True)
    # The second epoch is the best.
    scores = iter([1, 3, 2])
    monkeypatch.setattr(stop, "get_monitor_value", lambda logs: next(scores))
    callbacks = [stop, UpdatePruningStep()] if saver_first else [UpdatePruningStep(), stop]
    model = start(optimizer)
    fit(model, *epoch_data(), *callbacks, epochs=EPOCHS)
    if optimizer == "adam":
        assert_same_masks([masks_of(model)], [masks[5]])
    assert_zeros_are(masks_of(model), kernels_of(model))
    assert np.count_nonzero(~masks_of(model)[0]) == 48


def attention():
    query = keras.Input((5, 8))
    return keras.Model(query, layers.MultiHeadAttention(2, 4)(query, query))


def recurrent():
    return keras.Sequential([keras.Input((5, 8)), layers.Bidirectional(layers.LSTM(4))])


def nested_with_equal_names():
    inputs = keras.Input((8,))
    parts = [keras.Sequential([keras.Input((8,)), layers.Dense(8, name="dense")], name=n) for n in "ab"]
    return keras.Model(inputs, parts[1](parts[0](inputs)))


@pytest.mark.parametrize("make", [attention, recurrent, nested_with_equal_names])
def test_the_state_tree_that_orbax_saves_has_every_mask(make):
    model = prune_low_magnitude(make(), None)
    model.compile("adam", "mse")
    prune_to(model, 0.5)
    leaves = keras.tree.flatten(model.get_state_tree("numpy_array"))
    assert sum(np.asarray(leaf).dtype == bool for leaf in leaves) == len(masks_of(model)) > 1


def rewind(model, path):
    """Lottery-ticket rewinding: the weights of an earlier checkpoint under the present masks."""
    masks = [numpy_of(mask) for layer in pruned_layers(model) for mask in layer.masks]
    model.load_weights(path)  # The masks and the count of steps of that time, too.
    for variable, mask in zip((m for layer in pruned_layers(model) for m in layer.masks), masks, strict=True):
        variable.assign(mask)
    prune_to(model, 0.0)  # Removes no more; the weights that the masks remove become zero.


def test_rewinding_to_an_earlier_checkpoint_of_the_pruned_model(tmp_path):
    x, y = epoch_data()
    model = start(schedule=None)
    fit(model, x, y)
    model.save_weights(tmp_path / "early.weights.h5")
    early = kernels_of(model)
    for sparsity in (0.3, 0.6):
        fit(model, x, y, epochs=2)
        prune_to(model, sparsity)
        masks = masks_of(model)
        rewind(model, tmp_path / "early.weights.h5")
        assert_same_masks([masks_of(model)], [masks])
        assert [np.count_nonzero(~mask) for mask in masks] == [100 * sparsity, 40 * sparsity]
        for kernel, mask, value in zip(kernels_of(model), masks, early, strict=True):
            np.testing.assert_array_equal(kernel, np.where(mask, value, 0))
        assert_zeros_are(masks, kernels_of(model))
        compile_model(model)
    fit(model, x, y, epochs=2)
    assert_zeros_are(masks, kernels_of(model))


def test_rewinding_to_the_dense_models_checkpoint(tmp_path):
    dense = dense_model()
    dense.save_weights(tmp_path / "dense.weights.h5")
    early = numpy_of(dense.get_layer("first").kernel)
    model = prune_low_magnitude(dense, None)
    for layer in pruned_layers(model):
        for variable in layer.prunable_variables:
            variable.assign(variable + np.random.default_rng(0).normal(size=variable.shape))
    prune_to(model, 0.5)
    strip_pruning(model).load_weights(tmp_path / "dense.weights.h5")  # Shares the model's variables.
    prune_to(model, 0.0)
    np.testing.assert_array_equal(kernels_of(model)[0], np.where(masks_of(model)[0], early, 0))
    assert_zeros_are(masks_of(model), kernels_of(model))

"""Trains a small pruned model on some devices and writes what came of it; a program of test_distribution.

python distributed_training.py HOW FOLDER [PROCESS_ID ADDRESS], where HOW is one of

    mirrored        tf.distribute.MirroredStrategy with two logical CPUs
    two_devices     JAX, keras.distribution.DataParallel with two host devices
    two_processes   JAX, DataParallel with two processes of one device, of which this is number PROCESS_ID
"""

import contextlib
import pathlib
import sys

import keras
import numpy as np
from keras import layers, ops

from tfprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    RigL,
    UpdatePruningStep,
    prune_low_magnitude,
    pruned_layers,
)

BATCHES, BATCH_SIZE, EPOCHS = 4, 8, 2
# What is pruned how: arguments of `prune_low_magnitude`, and of `UpdatePruningStep`.
LINEAR = {"begin_step": 2, "end_step": 7, "frequency": 1, "power": 1}
GROWING = {"begin_step": 2, "end_step": 7, "frequency": 2}
RUNS = {
    "global": lambda: dict(pruning_schedule=PolynomialDecay(0.0, 0.6, **LINEAR), scope="global"),
    # Random masks first, layer by layer; then gradients decide.
    "rigl": lambda: dict(pruning_schedule=ConstantSparsity(0.6, **GROWING), regrowth=RigL(0.5)),
}


class Watch(keras.callbacks.Callback):
    """Records the masks that each batch meets, and how many removed weights are not exactly zero."""

    def __init__(self):
        super().__init__()
        self.masks, self.wrong = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.masks.append(np.concatenate([mask.ravel() for mask in masks_of(self.model)]))

    def on_train_batch_end(self, batch, logs=None):
        kernels = kernels_of(self.model)
        self.wrong.append(
            sum(np.count_nonzero(k[~m]) for k, m in zip(kernels, masks_of(self.model), strict=True))
        )


def masks_of(model):
    return [np.array(ops.convert_to_numpy(mask)) for layer in pruned_layers(model) for mask in layer.masks]


def kernels_of(model):
    return [
        np.array(ops.convert_to_numpy(variable))
        for layer in pruned_layers(model)
        for variable in layer.prunable_variables
    ]


def batches():
    rng = np.random.default_rng(1)
    shape = (BATCHES, BATCH_SIZE)
    return rng.normal(size=(*shape, 10)).astype("float32"), rng.normal(size=(*shape, 4)).astype("float32")


def train(run, path, scope=contextlib.nullcontext, part=slice(None)):
    """Trains on `part` of each batch, with the model made in `scope`, and writes the run to `path`.npz."""
    x, y = batches()
    with scope():
        keras.utils.set_random_seed(7)
        inputs = keras.Input((10,))
        hidden = layers.Dense(10, activation="tanh", name="first")(inputs)
        outputs = layers.Dense(4, name="second")(hidden)
        model = keras.Model(inputs, outputs)
        # By NumPy: other tests' processes draw starting values in a way of their own.
        rng = np.random.default_rng(7)
        model.set_weights([rng.normal(0.0, 0.3, weights.shape) for weights in model.get_weights()])
        model = prune_low_magnitude(model, **RUNS[run]())
        model.compile(keras.optimizers.Adam(0.02), "mse")
    watch = Watch()
    local = x[:, part].reshape(-1, 10), y[:, part].reshape(-1, 4)
    history = model.fit(
        *local,
        batch_size=len(local[0]) // BATCHES,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[UpdatePruningStep(gradient_data=[(x[0], y[0])]), watch],
    )
    masks, kernels = masks_of(model), kernels_of(model)
    np.savez(
        path,
        masks=np.stack(watch.masks),
        wrong=watch.wrong,
        losses=history.history["loss"],
        last_masks=np.concatenate([mask.ravel() for mask in masks]),
        kernels=np.concatenate([kernel.ravel() for kernel in kernels]),
        steps=[int(ops.convert_to_numpy(layer.pruning_step)) for layer in pruned_layers(model)],
    )


def main(how, folder, process_id="0", address=""):
    scope, part = contextlib.nullcontext, slice(None)
    if how == "mirrored":
        import tensorflow as tf

        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        devices, scope = strategy.num_replicas_in_sync, strategy.scope
    else:
        if how == "two_processes":
            import jax

            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            keras.distribution.initialize(address, num_processes=2, process_id=int(process_id))
            half = BATCH_SIZE // 2
            part = slice(half * int(process_id), half * (int(process_id) + 1))
        devices = len(keras.distribution.list_devices("cpu"))
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    if devices != 2:
        raise RuntimeError(f"Two devices are needed. Received: {devices}")
    for run in RUNS:
        train(run, pathlib.Path(folder) / f"{run}_{process_id}.npz", scope, part)


if __name__ == "__main__":
    main(*sys.argv[1:])

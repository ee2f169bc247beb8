"""Runs small experiments on some devices; a program of test_devices.

python run_on_devices.py HOW FOLDER EXPERIMENTS [PROCESS_INDEX ADDRESS], where EXPERIMENTS are names of
EXPERIMENTS below with commas between them, and HOW is one of

    one             one device
    mirrored        TensorFlow, two logical CPUs
    two_devices     JAX, two host devices
    two_processes   JAX, two processes of one device, of which this is number PROCESS_INDEX

With DIE_AT=EXPERIMENT,EPOCH,STEP in its environment (counted from 1) the process kills itself there.
"""

import os
import pathlib
import signal
import sys

import keras

from tests.support import quick_backend
from tests.support.small_experiments import Runs, small_resnet18
from tfprune.experiments.devices import ONE_DEVICE, Devices
from tfprune.experiments.methods import method
from tfprune.experiments.run import run_experiment

# The last batches are smaller: 48 of 64 images, and 36.
DATA = {"train_examples": 240, "test_examples": 100, "batch_size": 64}
PRUNED = {"init_from": "dense", "scope": "global"}
EXPERIMENTS = {
    "dense": {"epochs": (1,)},
    "iterative": {
        **PRUNED,
        "regime": "iterative",
        "schedule": "geometric",
        "target_sparsity": 0.8,
        "rounds": 2,
        "epochs": (2, 1),
        "batchnorm_after_pruning": "recalibrate",
        "batchnorm_batches": 3,
    },
    # One epoch: in a second one Adam makes more of the rounding than there is to compare.
    "taught": {
        **PRUNED,
        "regime": "one_shot",
        "target_sparsity": 0.8,
        "distill_from": "dense",
        "epochs": (1,),
    },
    "gradual": {
        **PRUNED,
        "regime": "gradual",
        "schedule": "polynomial",
        "target_sparsity": 0.8,
        "frequency": 2,
        "score": "taylor",
        "gradient_batches": 2,
        "epochs": (2,),
    },
}


class Die(keras.callbacks.Callback):
    def __init__(self, epoch, step):
        super().__init__()
        self.place = (epoch - 1, step - 1)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            os.kill(os.getpid(), signal.SIGKILL)


def die_at(experiment, epoch, step):
    fit = method.fit

    def dying_fit(model, settings, *, folder, callbacks, **arguments):
        if folder.parent.name == experiment:
            callbacks = [*callbacks, Die(int(epoch), int(step))]
        return fit(model, settings, folder=folder, callbacks=callbacks, **arguments)

    method.fit = dying_fit


def run(folder, names, devices=ONE_DEVICE):
    for name in names:
        run_experiment(Runs(folder).config(name, **DATA, **EXPERIMENTS[name]), devices=devices)


def main(how, folder, names, process_index="0", address=""):
    devices = Devices(data_parallel=how in ("mirrored", "two_devices"))
    if how == "mirrored":
        import tensorflow as tf

        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    if how == "two_processes":
        devices = Devices(
            distributed=True, coordinator_address=address, process_count=2, process_index=int(process_index)
        )
    if "DIE_AT" in os.environ:
        die_at(*os.environ["DIE_AT"].split(","))
    quick_backend.prepare()
    with small_resnet18():
        run(pathlib.Path(folder), names.split(","), devices)
    if devices.count != (1 if how == "one" else 2):
        raise RuntimeError(f"Two devices are needed. Received: {devices.count}")


if __name__ == "__main__":
    main(*sys.argv[1:])

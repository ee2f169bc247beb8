"""`tfprune-train` with the tests' small network.

With STOP_AT=ROUND,EPOCH,STEP and STOP_FILE=PATH it writes the file at that step (all counted from 1, rounds
as the folders) and waits there, to be killed.
"""

import os
import pathlib
import time

import keras

from tests.support import quick_backend
from tests.support.small_experiments import small_resnet18
from tfprune.bin import train
from tfprune.experiments.methods import method


class Stop(keras.callbacks.Callback):
    def __init__(self, epoch, step):
        super().__init__()
        self.stop_at = (epoch - 1, step - 1)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.stop_at:
            pathlib.Path(os.environ["STOP_FILE"]).write_text("here")
            time.sleep(600)


def stop_at(place):
    number, epoch, step = map(int, place.split(","))
    fit = method.fit

    def stopping_fit(model, settings, *, folder, callbacks, **arguments):
        if folder.name == f"round_{number:02d}":
            callbacks = [*callbacks, Stop(epoch, step)]
        return fit(model, settings, folder=folder, callbacks=callbacks, **arguments)

    method.fit = stopping_fit


if __name__ == "__main__":
    if "STOP_AT" in os.environ:
        stop_at(os.environ["STOP_AT"])
    quick_backend.prepare()
    with small_resnet18():
        train.run()

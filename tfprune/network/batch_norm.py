"""BatchNorm over a batch that several devices share."""

import contextlib
from collections.abc import Iterator

import keras

from tfprune.network.graph import all_layers


def over_replicas(model: keras.Model) -> bool:
    """Returns whether a `tf.distribute` strategy gives several copies of the model a part of the batch each.

    On JAX one program sees the whole batch, however many devices compute it.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    return model.distribute_strategy.num_replicas_in_sync > 1


@contextlib.contextmanager
def batch_norm_synchronized(model: keras.Model, synchronized: bool) -> Iterator[None]:
    """Sets `synchronized` of every BatchNorm layer inside the block; afterwards it is as before.

    A synchronized layer takes the statistics of the whole batch, another one those of each copy's part. Do
    not save a model inside the block: Keras builds a synchronized layer on TensorFlow alone.
    """
    layers = [part for part in all_layers(model) if isinstance(part, keras.layers.BatchNormalization)]
    before = [layer.synchronized for layer in layers]
    try:
        for layer in layers:
            layer.synchronized = synchronized
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.synchronized = value

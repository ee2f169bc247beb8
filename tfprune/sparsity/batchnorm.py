"""What becomes of BatchNorm when a round prunes at once: `--batchnorm_after_pruning`.

The moving statistics are the unpruned network's, so that right after pruning they fit nothing; training
brings them up to date in some tens of steps. And a filter that has lost all its weights still puts out its
`beta`, and until the statistics follow a multiple of the mean that it had.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from tfprune import sparsity
from tfprune.network.batch_norm import batch_norm_synchronized, over_replicas
from tfprune.network.graph import Graph, all_layers, functional

if TYPE_CHECKING:  # `config` imports this module.
    from tfprune.runs.config import ExperimentConfig

AFTER_PRUNING = ("keep", "reset_removed", "recalibrate")


def adapt_batchnorm(
    config: "ExperimentConfig", model: keras.Model, train_batches: Callable[[int], Any]
) -> None:
    """Does what `--batchnorm_after_pruning` says, once the masks are new.

    Args:
        config: The experiment.
        model: The compiled, pruned network.
        train_batches: Makes the batches of a number of epochs.
    """
    if config.batchnorm_after_pruning == "reset_removed":
        reset_removed(model)
    elif config.batchnorm_after_pruning == "recalibrate":
        # At least one batch an epoch.
        recalibrate(
            model, itertools.islice(train_batches(config.batchnorm_batches), config.batchnorm_batches)
        )


def reset_removed(model: keras.Model) -> dict[str, int]:
    """Makes the BatchNorm of output filters that have no weight left silent.

    For such a filter `beta` becomes 0, the moving mean 0 and the moving variance 1, so that its channel
    is 0 in training and in inference, until training moves `beta`. Filters of layers with a bias are left
    out: their output is not zero.

    Args:
        model: A functional model with pruned layers.

    Returns:
        How many filters of each pruned layer were silenced; layers without any, or without a BatchNorm of
        their own, are left out.
    """
    counts = {}
    for wrapper, norm in _normalized(model):
        mask = ops.convert_to_numpy(wrapper.masks[0])
        removed = ~mask.any(axis=tuple(range(mask.ndim - 1)))
        if not removed.any() or getattr(wrapper.layer, "use_bias", False):
            continue
        for variable, silent in ((norm.beta, 0.0), (norm.moving_mean, 0.0), (norm.moving_variance, 1.0)):
            if variable is not None:
                variable.assign(np.where(removed, silent, ops.convert_to_numpy(variable)))
        counts[wrapper.layer.name] = int(removed.sum())
    return counts


def recalibrate(model: keras.Model, batches: Iterable[Any]) -> None:
    """Measures the moving statistics of every BatchNorm anew, without training.

    They become the mean and the variance of the layer's inputs over all the batches together, while the
    network runs in training mode, each layer on what batch statistics make of the one before it:

    ```
    mean = sum(n_b * mean_b) / sum(n_b)
    variance = sum(n_b * (variance_b + mean_b**2)) / sum(n_b) - mean**2
    ```

    Args:
        model: Functional and compiled; no weight of it moves.
        batches: (inputs, labels), `n_b` examples each.

    Raises:
        ValueError: Without a batch.

    Source: arXiv:2007.02491 (after pruning); arXiv:2105.07576 (exact averages).
    """
    norms = [x for x in all_layers(model) if isinstance(x, keras.layers.BatchNormalization)]
    sums = [[0.0, 0.0] for _ in norms]
    total = 0
    with _batch_statistics_kept(norms), batch_norm_synchronized(model, over_replicas(model)):
        # A training step of Keras's, for it knows of compilation, precision and several devices.
        still = keras.Model(model.inputs, model.outputs)
        still.compile(_Still(), loss=model.loss, jit_compile=model.jit_compile)
        for images, labels in batches:
            images, labels = ops.convert_to_numpy(images), ops.convert_to_numpy(labels)
            still.train_on_batch(images, labels)
            count = len(images)
            total += count
            for norm, added in zip(norms, sums, strict=True):
                mean = ops.convert_to_numpy(norm.moving_mean).astype("float64")
                variance = ops.convert_to_numpy(norm.moving_variance).astype("float64")
                added[0] += count * mean
                added[1] += count * (variance + mean**2)
    if not total:
        raise ValueError("`batches` must have at least one batch. Received: none")
    for norm, (means, squares) in zip(norms, sums, strict=True):
        mean = means / total
        norm.moving_mean.assign(mean.astype("float32"))
        norm.moving_variance.assign(np.maximum(squares / total - mean**2, 0.0).astype("float32"))


class _Still(keras.optimizers.Optimizer):
    """An optimizer that moves nothing."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0, name="still")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Does nothing."""


@contextlib.contextmanager
def _batch_statistics_kept(norms: list[keras.layers.BatchNormalization]) -> Iterator[None]:
    """With a momentum of 0 the moving statistics are the last batch's."""
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _normalized(
    model: keras.Model,
) -> list[tuple[sparsity.PruneLowMagnitude, keras.layers.BatchNormalization]]:
    """Pairs each pruned layer with the BatchNorm that takes its output, and no other."""
    graph = Graph(functional(model))
    pairs = []
    for norm in graph.operations:
        producers = graph.producers(norm)
        if isinstance(norm, keras.layers.BatchNormalization) and len(producers) == 1:
            (wrapper,) = producers
            if isinstance(wrapper, sparsity.PruneLowMagnitude) and len(wrapper.masks) == 1:
                pairs.append((wrapper, norm))
    return pairs

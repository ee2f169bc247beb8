"""BatchNorm right after pruning.

The moving statistics are those of the network before, so that right after pruning they fit nothing; training
brings them up to date in some tens of steps. And a filter that has lost all its weights still puts out its
`beta`, and until the statistics follow a multiple of the mean that it had.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfprune.network.batch_norm import batch_norm_synchronized, over_replicas
from tfprune.network.calibration import Probe, kept, to_numpy, variable_scope
from tfprune.network.graph import Graph, all_layers, functional
from tfprune.network.kinds import prunable
from tfprune.network.optimizers import Still
from tfprune.sparsity.apply import pruned_layers
from tfprune.sparsity.wrapper import PruneLowMagnitude, measured


def reset_removed(model: keras.Model) -> dict[str, int]:
    """Makes the BatchNorm of output channels that have no weight left silent.

    For such a channel `beta` becomes 0, the moving mean 0 and the moving variance 1, so that it is 0 in
    training and in inference, until training moves `beta`. The BatchNorm must take the output of a pruned
    layer and of no other. Layers whose output is not zero without weights are left out: those with a bias,
    or with an activation that does not map 0 to 0.

    Example:

    ```python
    prune_to(model, 0.995, scope="global")
    reset_removed(model)
    ```

    Args:
        model: A built functional or Sequential model with pruned layers; nested models are opened.

    Returns:
        The name of each pruned layer that had such channels -> how many there were. Layers without any, or
        without a BatchNorm of their own, are left out.

    Raises:
        ValueError: If the model is subclassed or not built, so that its connections are not known.
    """
    graph = functional(model)
    if graph is None:
        raise ValueError(
            "`model` must be a built functional or Sequential model, whose layers' connections are known. "
            f"Received: model={model!r}"
        )
    counts = {}
    for wrapper, norm in _normalized(graph):
        removed = _removed_channels(wrapper)
        fits = removed.shape == tuple(norm.moving_mean.shape)
        if not (fits and removed.any() and _is_zero_without_weights(wrapper.layer)):
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

    Nothing else of the model changes. Under a `tf.distribute` strategy the statistics of a batch are those of
    the whole batch, not of one replica's part.

    Example:

    ```python
    prune_to(model, 0.9)
    recalibrate(model, train_data.take(32))
    ```

    Args:
        model: A compiled model of any kind; its loss is computed, but moves no weight.
        batches: Of the form (x, y) or (x, y, sample_weight), as for `fit`, of `n_b` examples each.

    Raises:
        ValueError: If the model is not compiled, or if there is no batch.

    Source: arXiv:2007.02491 (after pruning); arXiv:2105.07576 (exact averages).
    """
    if not getattr(model, "compiled", False):
        raise ValueError(f"`model` must be compiled: it runs training steps. Received: model={model!r}")
    norms = [layer for layer in all_layers(model) if isinstance(layer, layers.BatchNormalization)]
    sums = [[0.0, 0.0] for _ in norms]
    total = 0
    wrappers = pruned_layers(model)
    masks = {id(mask) for wrapper in wrappers for mask in wrapper.masks}
    state = [*model.non_trainable_variables, *model.metrics_variables]
    with (
        kept([variable for variable in state if id(variable) not in masks]),
        _batch_statistics_kept(norms),
        measured(wrappers),
        batch_norm_synchronized(model, over_replicas(model)),
    ):
        with variable_scope(model):
            probe = Probe(model, Still())
        for batch in batches:
            x, y, weight = keras.utils.unpack_x_y_sample_weight(to_numpy(batch))
            probe.train_on_batch(x, y, weight)
            count = len(keras.tree.flatten(x)[0])
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


@contextlib.contextmanager
def _batch_statistics_kept(norms: list[layers.BatchNormalization]) -> Iterator[None]:
    """Gives BatchNorm a momentum of 0, with which the moving statistics are those of the last batch."""
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _normalized(model: keras.Model) -> list[tuple[PruneLowMagnitude, layers.BatchNormalization]]:
    """Pairs each pruned layer with the BatchNorm that takes its output, and no other."""
    graph = Graph(model)
    pairs = []
    for norm in graph.operations:
        producers = graph.producers(norm)
        if isinstance(norm, layers.BatchNormalization) and len(producers) == 1:
            (wrapper,) = producers
            if isinstance(wrapper, PruneLowMagnitude) and len(wrapper.masks) == 1:
                pairs.append((wrapper, norm))
    return pairs


def _removed_channels(wrapper: PruneLowMagnitude) -> np.ndarray:
    """Returns for each output channel of a pruned layer whether no weight of it is left."""
    (kernel,), (mask,) = prunable(wrapper.layer), wrapper.masks
    mask = ops.convert_to_numpy(mask)
    if len(kernel.output_axes) != 1:
        return np.zeros(0, bool)
    (channels,) = kernel.output_axes
    return ~mask.any(axis=tuple(axis for axis in range(mask.ndim) if axis != channels % mask.ndim))


def _is_zero_without_weights(layer: keras.layers.Layer) -> bool:
    """Returns whether the output of a layer is zero where it has no weight."""
    if getattr(layer, "use_bias", False):
        return False
    activation = getattr(layer, "activation", None)
    return activation is None or not ops.convert_to_numpy(activation(ops.zeros((1, 1)))).any()

"""tfmot's `prune_registry`."""

import keras

from tfprune.network.kinds import give_prunable_weights, is_known
from tfprune.tfmot.python.core.sparsity.keras import prunable_layer

__all__ = ["PruneRegistry", "prunable_layer"]


class PruneRegistry:
    """The layers that can be wrapped though they do not say themselves what may be pruned."""

    @classmethod
    def supports(cls, layer: keras.layers.Layer) -> bool:
        """Returns whether a layer and those inside it are of Keras's own classes, or of subclasses."""
        return is_known(layer)

    @classmethod
    def make_prunable(cls, layer: keras.layers.Layer) -> keras.layers.Layer:
        """Returns a layer that now has a `get_prunable_weights`.

        Raises:
            ValueError: If `supports` is False.
        """
        if not cls.supports(layer):
            raise ValueError(f"`layer` must be of a class of Keras's own. Received: layer={layer!r}")
        give_prunable_weights(layer)
        return layer

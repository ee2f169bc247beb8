"""What layers keep besides their weights: vocabularies, and what is computed from statistics."""

import tempfile

import keras

from tfprune.network.graph import all_layers


def copy_state(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Gives a layer of the same configuration, which has its weights, the rest of what another has learned.

    That is what Keras saves apart from the weights of `keras.layers.Layer.weights`: assets, such as the
    vocabulary that `StringLookup.adapt` found, and variables of a class's own. What `Normalization` computes
    from its weights is computed anew.

    Args:
        old: The layer that has it; its inner layers are those of `new`.
        new: The layer that gets it.
    """
    for ours, theirs in zip(all_layers(old), all_layers(new), strict=True):
        if not ours.weights and type(ours).save_own_variables is not keras.layers.Layer.save_own_variables:
            store: dict[str, object] = {}
            ours.save_own_variables(store)
            theirs.load_own_variables(store)
        if hasattr(ours, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                ours.save_assets(folder)
                theirs.load_assets(folder)
        if isinstance(theirs, keras.layers.Normalization):
            theirs.finalize_state()

"""tfmot's `compat`, where its examples find Keras: here Keras 3."""

import keras

__all__ = ["keras"]

"""`tensorflow_model_optimization.sparsity`."""

from tfprune.tfmot.sparsity import keras

__all__ = ["keras"]

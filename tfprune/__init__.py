"""tfprune: magnitude pruning for Keras 3, and the experiments that prove it."""

__version__ = "0.1.0"

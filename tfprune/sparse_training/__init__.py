"""Training at the cost of what is left: kernels that skip the weights that were removed."""

import tfprune.backend  # noqa: F401  (before the modules that import Keras)
from tfprune.sparse_training.errors import UnsupportedError
from tfprune.sparse_training.trainer import SparseTrainer, check

__all__ = ["SparseTrainer", "UnsupportedError", "check"]

"""tfmot's `pruning_callbacks`."""

from tfprune.sparsity import PruningSummaries, UpdatePruningStep
from tfprune.tfmot.python.core.sparsity.keras import pruning_wrapper

__all__ = ["PruningSummaries", "UpdatePruningStep", "pruning_wrapper"]

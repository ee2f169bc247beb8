"""tfmot's `pruning_wrapper`."""

from tfprune.sparsity import PruneLowMagnitude
from tfprune.sparsity import pruned_layers as collect_prunable_layers

__all__ = ["PruneLowMagnitude", "collect_prunable_layers"]

"""tfmot's `pruning_callbacks`."""

from tfprune.sparsity import PruningSummaries, UpdatePruningStep

__all__ = ["PruningSummaries", "UpdatePruningStep"]

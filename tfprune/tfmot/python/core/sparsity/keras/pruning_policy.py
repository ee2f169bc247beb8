"""tfmot's `pruning_policy`."""

from tfprune.sparsity import PruneForLatencyOnXNNPack, PruningPolicy

__all__ = ["PruneForLatencyOnXNNPack", "PruningPolicy"]

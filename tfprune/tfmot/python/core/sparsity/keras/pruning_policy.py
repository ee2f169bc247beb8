"""tfmot's `pruning_policy`."""

from tfprune.sparsity import PruneForLatencyOnXNNPack, PruningPolicy
from tfprune.tfmot.python.core.sparsity.keras import pruning_wrapper

__all__ = ["PruneForLatencyOnXNNPack", "PruningPolicy", "pruning_wrapper"]

"""tfmot's `prune`."""

from tfprune.sparsity import prune_low_magnitude, prune_scope, strip_pruning

__all__ = ["prune_low_magnitude", "prune_scope", "strip_pruning"]

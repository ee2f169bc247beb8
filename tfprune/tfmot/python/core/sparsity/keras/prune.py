"""tfmot's `prune`."""

from tfprune.sparsity import prune_low_magnitude, prune_scope, strip_pruning
from tfprune.tfmot.python.core.sparsity.keras import pruning_schedule as pruning_sched
from tfprune.tfmot.python.core.sparsity.keras import pruning_wrapper

__all__ = ["prune_low_magnitude", "prune_scope", "pruning_sched", "pruning_wrapper", "strip_pruning"]

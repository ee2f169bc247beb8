"""tfmot's `pruning_wrapper`."""

from tfprune.sparsity import PruneLowMagnitude
from tfprune.sparsity import pruned_layers as collect_prunable_layers
from tfprune.tfmot.python.core.sparsity.keras import prunable_layer, prune_registry
from tfprune.tfmot.python.core.sparsity.keras import pruning_schedule as pruning_sched

__all__ = [
    "PruneLowMagnitude",
    "collect_prunable_layers",
    "prunable_layer",
    "prune_registry",
    "pruning_sched",
]

"""Magnitude pruning for any Keras 3 model, with the names of `tfmot.sparsity.keras`."""

from tfprune.sparsity.apply import pruned_layers
from tfprune.sparsity.callbacks import UpdatePruningStep
from tfprune.sparsity.prune import prune_low_magnitude, prune_to, strip_pruning
from tfprune.sparsity.registry import PrunableLayer
from tfprune.sparsity.schedules import (
    ConstantSparsity,
    GeometricDecay,
    PolynomialDecay,
    PruningSchedule,
)
from tfprune.sparsity.summary import Summary, summarize
from tfprune.sparsity.wrapper import PruneLowMagnitude

__all__ = [
    "ConstantSparsity",
    "GeometricDecay",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneLowMagnitude",
    "PruningSchedule",
    "Summary",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_to",
    "pruned_layers",
    "strip_pruning",
    "summarize",
]

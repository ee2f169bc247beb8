"""Pruning for any Keras 3 model, with the names of `tfmot.sparsity.keras`."""

from tfprune.network.kinds import PrunableLayer
from tfprune.sparsity.apply import pruned_layers
from tfprune.sparsity.at_once import prune_to
from tfprune.sparsity.batchnorm import recalibrate, reset_removed
from tfprune.sparsity.policies import PruneForLatencyOnXNNPack, PruningPolicy
from tfprune.sparsity.prune import prune_low_magnitude, prune_scope, strip_pruning
from tfprune.sparsity.pruner import Pruner, UpdatePruningStep
from tfprune.sparsity.regrowth import SET, Regrowth, RigL
from tfprune.sparsity.schedules import (
    ConstantSparsity,
    GeometricDecay,
    PolynomialDecay,
    PruningSchedule,
)
from tfprune.sparsity.scores import Gradients, Tensor, needs_gradients
from tfprune.sparsity.summary import Summary, summarize
from tfprune.sparsity.tensorboard import PruningSummaries
from tfprune.sparsity.wrapper import PruneLowMagnitude

__all__ = [
    "SET",
    "ConstantSparsity",
    "GeometricDecay",
    "Gradients",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruneLowMagnitude",
    "Pruner",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "Regrowth",
    "RigL",
    "Summary",
    "Tensor",
    "UpdatePruningStep",
    "needs_gradients",
    "prune_low_magnitude",
    "prune_scope",
    "prune_to",
    "pruned_layers",
    "recalibrate",
    "reset_removed",
    "strip_pruning",
    "summarize",
]

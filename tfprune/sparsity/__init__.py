"""Pruning for any Keras 3 model, with the names of `tfmot.sparsity.keras`."""

import tfprune.backend  # noqa: F401  (before the modules that import Keras)
from tfprune.network.kinds import PrunableLayer
from tfprune.sparsity.apply import pruned_layers
from tfprune.sparsity.batchnorm import recalibrate, reset_removed
from tfprune.sparsity.learned import CS, DST, Learning
from tfprune.sparsity.model_masks import masks_of, set_masks
from tfprune.sparsity.patterns import Blocks, Channels, Groups, MOfN, Pattern
from tfprune.sparsity.policies import PruneForLatencyOnXNNPack, PruningPolicy
from tfprune.sparsity.prune import prune_low_magnitude, prune_scope, prune_to, strip_pruning
from tfprune.sparsity.pruner import Pruner, UpdatePruningStep
from tfprune.sparsity.quantize import quantize_aware
from tfprune.sparsity.regrowth import SET, Regrowth, RigL
from tfprune.sparsity.schedules import (
    AlternatingSparsity,
    ByEpoch,
    ConstantSparsity,
    GeometricDecay,
    PolynomialDecay,
    PruningSchedule,
)
from tfprune.sparsity.scores import Gradients, Tensor, needs_gradients
from tfprune.sparsity.search.result import SearchResult
from tfprune.sparsity.search.search import search_sparsities
from tfprune.sparsity.summary import Summary, summarize
from tfprune.sparsity.tensorboard import PruningSummaries
from tfprune.sparsity.with_data import DataReport, prune_with_data
from tfprune.sparsity.wrapper import PruneLowMagnitude

__all__ = [
    "CS",
    "DST",
    "SET",
    "AlternatingSparsity",
    "Blocks",
    "ByEpoch",
    "Channels",
    "ConstantSparsity",
    "DataReport",
    "GeometricDecay",
    "Gradients",
    "Groups",
    "Learning",
    "MOfN",
    "Pattern",
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
    "SearchResult",
    "Summary",
    "Tensor",
    "UpdatePruningStep",
    "masks_of",
    "needs_gradients",
    "prune_low_magnitude",
    "prune_scope",
    "prune_to",
    "prune_with_data",
    "pruned_layers",
    "quantize_aware",
    "recalibrate",
    "reset_removed",
    "search_sparsities",
    "set_masks",
    "strip_pruning",
    "summarize",
]

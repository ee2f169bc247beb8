"""tfmot's `pruning_schedule`."""

from tfprune.sparsity import ConstantSparsity, PolynomialDecay, PruningSchedule

__all__ = ["ConstantSparsity", "PolynomialDecay", "PruningSchedule"]

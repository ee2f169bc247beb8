"""tfmot's `prunable_layer`."""

from tfprune.sparsity import PrunableLayer

__all__ = ["PrunableLayer"]

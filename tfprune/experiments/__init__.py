"""The experiments: rounds of training and pruning, one after the other, in a folder."""

from tfprune.extras import extra

with extra("experiments"):  # Of all modules of the package, which Python imports after this one.
    import tensorflow as _tensorflow  # noqa: F401

"""The experiments: rounds of training and pruning, one after the other, in a folder."""

from tfprune.extras import extra

with extra("experiments"):  # Of all modules of the package, which Python imports after this one.
    import tfprune.backend  # noqa: F401, I001  (says more than TensorFlow, which loads Keras, too)
    import tensorflow as _tensorflow  # noqa: F401

import tfprune.backend  # noqa: F401  (before the modules that import Keras)

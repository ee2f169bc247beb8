"""The channels of a model: which go together, which change no output, and how it is built without some."""

import tfprune.backend  # noqa: F401  (before the modules that import Keras)

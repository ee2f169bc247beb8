"""The channels of a model: which go together, what is fixed, and which change no output."""

import tfprune.backend  # noqa: F401  (before the modules that import Keras)

"""The error of a model that the sparse trainer cannot train."""

from tfprune.errors import UserError


class UnsupportedError(UserError, ValueError):
    """A model, an optimizer or an option that the sparse trainer does not take; the message says why.

    It is a `ValueError` too, which is what the library raises on an argument. Keras can train the model.
    """

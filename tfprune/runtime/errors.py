"""The runtime's errors. All are `ValueError`s: the runtime stands alone, without the project's own."""


class GraphError(ValueError):
    """A network that breaks a rule of the graph; the message names the node and the rule."""


class FileFormatError(ValueError):
    """A file that is not a sound `model.tfprune`; the message names the file and what is wrong."""

"""Which values of a graph cannot be negative: a zero padding is then none to a maximum."""

from tfprune.runtime.graph import (
    Activation,
    Add,
    Concatenate,
    Conv,
    Flatten,
    GlobalPool,
    Graph,
    Multiply,
    Pool,
)

_NONNEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax")


def nonnegative_values(graph: Graph) -> list[bool]:
    """Returns for each node whether its value is known to have no number below zero.

    To the maximum over its windows a pool's own padding and explicit zeros (ResNet's stem) are then the same.

    Args:
        graph: The network.
    """
    known: list[bool] = []
    for node in graph.nodes:
        match node:
            case Conv(activation=activation) | Activation(activation=activation):
                known.append(activation in _NONNEGATIVE)
            case Add(activation=activation):
                sum_of_such = activation == "linear" and all(known[source] for source in node.inputs)
                known.append(activation in _NONNEGATIVE or sum_of_such)
            case Pool() | GlobalPool() | Multiply() | Concatenate() | Flatten():
                known.append(all(known[source] for source in node.inputs))
            case _:
                known.append(False)
    return known

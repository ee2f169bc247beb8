"""Operations that are done in one pass over memory: a graph's nodes, grouped.

A sum of values, normalized ones among them, and the activation behind it are one unit; so are a convolution
and the relu behind it. The values inside a unit are never in memory.
"""

import dataclasses
from collections import Counter

from tfprune.sparse_training.graph import Activation, Add, Affine, BatchNorm, Conv, Graph, Node
from tfprune.sparse_training.kernels.activations import LINEAR

# What convolutions apply, and the derivative of to gradients, and where it ends; 0: nowhere.
RELUS = {"relu": 0.0, "relu6": 6.0}
_IN_SUMS = (Activation, Add, Affine, BatchNorm)


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """A term of a sum.

    Attributes:
        value: The index of the node that makes the value.
        scaling: Its normalization or affine function; None: none.
    """

    value: int
    scaling: BatchNorm | Affine | None


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """One node, the nodes of a sum, or a convolution and its relu.

    Attributes:
        output: The index of the node whose value the unit makes.
        node: That node, or the convolution.
        terms: Of a sum; else none.
        activation: Of a sum or a convolution; `LINEAR` for none.
        slope: Of `leaky_relu`.
    """

    output: int
    node: Node
    terms: tuple[Term, ...] = ()
    activation: str = LINEAR
    slope: float = 0.0

    @property
    def inputs(self) -> tuple[int, ...]:
        """Returns the values that the unit reads, one for each use."""
        return tuple(term.value for term in self.terms) or self.node.inputs


def units_of(graph: Graph) -> list[Unit]:
    """Groups the nodes of a graph.

    Args:
        graph: The graph.

    Returns:
        The units, each after those that make its inputs.
    """
    nodes = graph.nodes
    uses = Counter(index for node in nodes for index in node.inputs)
    uses[len(nodes) - 1] += 1  # The caller's.
    absorbed: set[int] = set()

    def absorb(index: int, kinds: type | tuple[type, ...]) -> bool:
        """Takes a node, whose value nobody else reads, into the unit of the one behind it."""
        if not isinstance(nodes[index], kinds) or uses[index] != 1:
            return False
        absorbed.add(index)
        return True

    def sum_of(output: int) -> Unit:
        activation, slope, top = LINEAR, 0.0, output
        if isinstance(nodes[output], Activation):
            activation, slope, top = nodes[output].function, nodes[output].slope, nodes[output].inputs[0]
            if activation in RELUS and absorb(top, Conv):
                return Unit(output, nodes[top], (), activation)
            if not absorb(top, (Add, BatchNorm, Affine)):
                return Unit(output, nodes[output], (Term(top, None),), activation, slope)
        if not isinstance(nodes[top], Add):
            return Unit(output, nodes[output], (Term(nodes[top].inputs[0], nodes[top]),), activation, slope)
        terms = []
        for value in nodes[top].inputs:
            if absorb(value, (BatchNorm, Affine)):
                terms.append(Term(nodes[value].inputs[0], nodes[value]))
            else:
                terms.append(Term(value, None))
        return Unit(output, nodes[output], tuple(terms), activation, slope)

    units = []
    for index in reversed(range(len(nodes))):
        if index in absorbed:
            continue
        units.append(sum_of(index) if isinstance(nodes[index], _IN_SUMS) else Unit(index, nodes[index]))
    return units[::-1]

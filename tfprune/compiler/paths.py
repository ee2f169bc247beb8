"""Chooses for each convolution the path that is faster on this machine."""

import dataclasses

import numpy as np

from tfprune import runtime
from tfprune.compiler.eight_bits import with_steps, without_steps
from tfprune.errors import UserError
from tfprune.runtime.graph import FLOAT_PATHS, INTEGER_PATH, Conv, Graph, Recurrent


def choose_paths(graph: Graph, rounds: int = 5) -> Graph:
    """Measures every convolution and recurrent cell on each of its paths and takes the fastest one.

    The network runs on one thread, the whole of it on one path and then on the next, in turn, so that other
    work of the machine meets all. The first round is not counted. The image is noise: only the shape of a
    convolution and the places of its zeros matter.

    Where convolutions read values of 8 bits (`eight_bits`), the network with those that are faster so, that
    with all of them and that in float32 are then measured as a whole, and the fastest is taken: what
    converting values costs is in none of the convolutions' own times.

    Args:
        graph: The network. The `path` and `costs` of its convolutions are overwritten.
        rounds: Measurements of each path, at least 1. A cost is their median.

    Returns:
        The same network with `path` and `costs`, microseconds of each path, in every convolution; with values
        of 8 bits only where they pay.

    Raises:
        UserError: The runtime cannot run the network.
        ValueError: `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1. Received: rounds={rounds}")
    plain, steps, convolutions = without_steps(graph)
    same = list(range(len(plain.nodes)))
    ways = {path: (on_path(plain, path), same) for path in FLOAT_PATHS}
    if convolutions:
        ways[INTEGER_PATH] = with_steps(plain, steps, convolutions)
    medians = _node_times([way for way, _ in ways.values()], rounds)
    times = {
        path: [own[place] for place in places]
        for (path, (_, places)), own in zip(ways.items(), medians, strict=True)
    }
    nodes, faster = list(plain.nodes), []
    for index, node in enumerate(nodes):
        if isinstance(node, Conv | Recurrent):
            paths = [path for path in times if path in FLOAT_PATHS or index in convolutions]
            costs = {path: times[path][index] for path in paths}
            nodes[index] = dataclasses.replace(node, path=min(FLOAT_PATHS, key=costs.get), costs=costs)
            if min(costs, key=costs.get) == INTEGER_PATH:
                faster.append(index)
    plain = dataclasses.replace(plain, nodes=tuple(nodes))
    choices = [plain]
    for some in {tuple(faster), tuple(convolutions)} - {()}:
        choices.append(with_steps(plain, steps, some)[0])
    if len(choices) == 1:
        return plain
    totals = [sum(own) for own in _node_times(choices, rounds)]
    return choices[int(np.argmin(totals))]


def _node_times(graphs: list[Graph], rounds: int) -> list[list[float]]:
    """Returns the microseconds of each network's nodes, medians over rounds, in which they take turns."""
    try:
        models = [runtime.Model(graph, threads=1) for graph in graphs]
    except runtime.GraphError as error:
        raise UserError(f"the sparse runtime cannot run the network: {error}") from error
    rng = np.random.default_rng(0)
    noise = {
        name: rng.uniform(0, 255, (1, *shape)).astype(np.float32) for name, shape in models[0].inputs.items()
    }
    times: list[list[list[float]]] = [[] for _ in models]
    for counted in [False, *[True] * rounds]:
        for model, own in zip(models, times, strict=True):
            measured = model.time_nodes(noise, rounds=1)
            if counted:
                own.append(measured)
    return [np.median(own, axis=0).tolist() for own in times]


def on_path(graph: Graph, path: str) -> Graph:
    """Returns the same network with all convolutions that compute in float32 on one path.

    Args:
        graph: The network.
        path: One of `FLOAT_PATHS`.
    """
    nodes = [
        dataclasses.replace(node, path=path)
        if isinstance(node, Conv | Recurrent) and node.path != INTEGER_PATH
        else node
        for node in graph.nodes
    ]
    return dataclasses.replace(graph, nodes=tuple(nodes))

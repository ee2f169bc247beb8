"""Chooses for each convolution the path that is faster on this machine."""

import dataclasses

import numpy as np

from tfprune import runtime
from tfprune.errors import UserError
from tfprune.runtime.graph import PATHS, Conv, Graph, Recurrent


def choose_paths(graph: Graph, rounds: int = 5) -> Graph:
    """Measures every convolution and recurrent cell on both paths and takes the faster one.

    The network runs on one thread, the whole of it on one path and then on the other, in turn, so that other
    work of the machine meets both. The first round is not counted. The image is noise: only the shape of a
    convolution and the places of its zeros matter.

    Args:
        graph: The network. The `path` and `costs` of its convolutions are overwritten.
        rounds: Measurements of each path, at least 1. A cost is their median.

    Returns:
        The same network with `path` and `costs`, microseconds of each path, in every convolution.

    Raises:
        UserError: The runtime cannot run the network.
        ValueError: `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1. Received: rounds={rounds}")
    try:
        models = {path: runtime.Model(on_path(graph, path), threads=1) for path in PATHS}
    except runtime.GraphError as error:
        raise UserError(f"the sparse runtime cannot run the network: {error}") from error
    rng = np.random.default_rng(0)
    noise = {
        name: rng.uniform(0, 255, (1, *shape)).astype(np.float32)
        for name, shape in models["sparse"].inputs.items()
    }
    times: dict[str, list[list[float]]] = {path: [] for path in PATHS}
    for counted in [False, *[True] * rounds]:
        for path, model in models.items():
            measured = model.time_nodes(noise, rounds=1)
            if counted:
                times[path].append(measured)
    medians = {path: np.median(measured, axis=0).tolist() for path, measured in times.items()}
    nodes = list(graph.nodes)
    for index, node in enumerate(nodes):
        if isinstance(node, Conv | Recurrent):
            costs = {path: medians[path][index] for path in PATHS}
            nodes[index] = dataclasses.replace(node, path=min(PATHS, key=costs.get), costs=costs)
    return dataclasses.replace(graph, nodes=tuple(nodes))


def on_path(graph: Graph, path: str) -> Graph:
    """Returns the same network with all convolutions on one path.

    Args:
        graph: The network.
        path: One of `PATHS`.
    """
    nodes = [
        dataclasses.replace(node, path=path) if isinstance(node, Conv | Recurrent) else node
        for node in graph.nodes
    ]
    return dataclasses.replace(graph, nodes=tuple(nodes))

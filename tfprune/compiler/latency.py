"""The times of networks in the sparse runtime, whole and by operation, of one example on one thread."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfprune import runtime
from tfprune.compiler.compile import compile_model
from tfprune.compiler.paths import choose_paths
from tfprune.runtime.graph import Graph
from tfprune.runtime.model import thread_seconds
from tfprune.timing import SHORT_TURN_SECONDS, time_rounds

_ROUNDS, _WHOLE_ROUNDS = 9, 31


def compiled(model: Any, sizes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """Compiles a model as it is, each kernel on the path that is faster here.

    Args:
        model: A built functional or Sequential model.
        sizes: As of `compile_model`.

    Raises:
        UserError: If the runtime cannot run the model.
    """
    return choose_paths(compile_model(model, shrink=False, sizes=sizes), _ROUNDS)


def operation_times(graph: Graph) -> list[tuple[str, float]]:
    """Returns the name of each operation of a network and its milliseconds, those of the faster path."""
    model, example = _loaded(graph)
    return [
        (node.name, 1e-3 * min([*(getattr(node, "costs", None) or {}).values()] or [microseconds]))
        for node, microseconds in zip(graph.nodes, model.time_nodes(example, _ROUNDS), strict=True)
    ]


def network_times(graphs: Mapping[str, Graph]) -> dict[str, float]:
    """Measures whole networks by turns; each takes the milliseconds of its fastest turn.

    Only what the one thread computes counts, on a machine that does other things, too.
    """
    calls = {name: _call(graph) for name, graph in graphs.items()}
    timed = time_rounds(
        calls,
        _WHOLE_ROUNDS,
        pause_seconds=0.0,
        least_turn_seconds=SHORT_TURN_SECONDS,
        clock=thread_seconds,
    )
    return {name: 1e3 * min(turns) for name, turns in timed.seconds.items()}


def _loaded(graph: Graph) -> tuple[runtime.Model, dict[str, np.ndarray]]:
    model = runtime.Model(graph, threads=1)
    return model, {name: np.zeros((1, *shape), np.float32) for name, shape in model.inputs.items()}


def _call(graph: Graph) -> Callable[[], Any]:
    model, example = _loaded(graph)
    return lambda: model(example)

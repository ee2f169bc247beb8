"""Values of 8 bits: which there may be in a graph, how large their steps are, and the graph with them.

A value that is known not to be below zero is rounded to 0 to 255 steps, without a zero point, and
convolutions that read it multiply whole numbers (the graph's `Quantize` and path `"int8"`).

The step is, of `_CANDIDATES` ends of the range, the one with the smallest mean squared error over a sample of
the value's numbers on calibration images: numbers beyond the end lose what is beyond it, those within half
a step at most. PyTorch's `HistogramObserver` chooses by the same measure; TFLite takes the largest number,
which a single outlier makes large for all.
"""

import dataclasses
import math
from collections.abc import Collection

import numpy as np

from tfprune import runtime
from tfprune.errors import UserError
from tfprune.runtime.graph import (
    FLOAT_PATHS,
    INTEGER_PATH,
    LARGEST_UINT8,
    MAX_PRODUCTS,
    STEPS,
    Conv,
    Flatten,
    Graph,
    Output,
    Quantize,
    nonnegative_values,
)

# The ends of the range that are compared: whole shares of the largest number.
_CANDIDATES = 100
# Numbers of each value that the choice looks at.
_SAMPLE = 2**16
# Numbers that the outputs of a pass over the images may have at most.
_AT_ONCE = 2**24


def with_values_of_8_bits(graph: Graph, images: np.ndarray | dict[str, np.ndarray]) -> Graph:
    """Returns a network whose convolutions read values of 8 bits wherever they can.

    `choose_paths` then leaves those where it pays.

    Args:
        graph: The network, of one input.
        images: Calibration images like those that it will see, `[n, ...]` as it takes them, or by the
            input's name; a few hundred do.

    Returns:
        The network; the same where no convolution reads a value that cannot be below zero.

    Raises:
        UserError: There is no image, they do not fit, a value is not finite on them, or the network has
            several inputs.
    """
    if len(graph.inputs) != 1:
        raise UserError(f"values of 8 bits are for networks of one input. Received: {len(graph.inputs)}")
    if isinstance(images, dict):
        (images,) = images.values()
    if not len(images):
        raise UserError("`calibration` must have at least one image. Received: none")
    possible = _possible(graph)
    sources = sorted({graph.nodes[index].inputs[0] for index in possible})
    steps = _steps(graph, sources, images)
    return with_steps(graph, steps, [index for index in possible if graph.nodes[index].inputs[0] in steps])[0]


def with_steps(
    graph: Graph, steps: dict[int, float], convolutions: Collection[int]
) -> tuple[Graph, list[int]]:
    """Puts some convolutions on the path `"int8"`.

    Args:
        graph: A network without `Quantize`.
        steps: Index of a node -> the step of its value.
        convolutions: The indices of those whose input has a step.

    Returns:
        The network, and the place of each node in it.
    """
    rounded = {graph.nodes[index].inputs[0] for index in convolutions}
    # Where all that read a value can read its steps, it need not be there in float32.
    only_steps = rounded - {result.node for result in graph.results(graph.shapes())}
    for index, node in enumerate(graph.nodes):
        for position, source in enumerate(node.inputs):
            reads_steps = index in convolutions and (position == 0 or source in rounded)
            if not reads_steps:
                only_steps.discard(source)
    nodes, places, places_of_steps = [], [], {}
    for index, node in enumerate(graph.nodes):
        inputs = [places[source] for source in node.inputs]
        if index in convolutions:
            inputs[0] = places_of_steps[node.inputs[0]]
            inputs[1:] = [places_of_steps[s] if s in only_steps else places[s] for s in node.inputs[1:]]
            node = dataclasses.replace(node, path=INTEGER_PATH)
        places.append(len(nodes))
        nodes.append(dataclasses.replace(node, inputs=tuple(inputs)))
        if index in rounded:
            places_of_steps[index] = len(nodes)
            nodes.append(Quantize(f"{node.name}/steps", (places[index],), steps[index]))
    outputs = [dataclasses.replace(output, node=places[output.node]) for output in graph.outputs]
    return Graph(tuple(nodes), tuple(outputs)), places


def without_steps(graph: Graph) -> tuple[Graph, dict[int, float], list[int]]:
    """Takes a network apart that `with_values_of_8_bits` made.

    Returns:
        The network in float32, index of a node -> the step of its value, and the indices of the convolutions
        on the path `"int8"`, which are on the path `"sparse"` now.
    """
    nodes, places, steps, convolutions = [], [], {}, []
    for node in graph.nodes:
        if isinstance(node, Quantize):
            places.append(places[node.inputs[0]])
            steps[places[-1]] = node.step
            continue
        if isinstance(node, Conv) and node.path == INTEGER_PATH:
            node = dataclasses.replace(node, path=FLOAT_PATHS[0])
            convolutions.append(len(nodes))
        nodes.append(dataclasses.replace(node, inputs=tuple(places[source] for source in node.inputs)))
        places.append(len(nodes) - 1)
    outputs = [dataclasses.replace(output, node=places[output.node]) for output in graph.outputs]
    return Graph(tuple(nodes), tuple(outputs)), steps, convolutions


def _possible(graph: Graph) -> list[int]:
    """Returns the convolutions that whole numbers could compute."""
    shapes, nonnegative = graph.shapes(), nonnegative_values(graph)
    return [
        index
        for index, node in enumerate(graph.nodes)
        if isinstance(node, Conv)
        and nonnegative[node.inputs[0]]
        and (1, 1) not in (shapes[index][:2], shapes[node.inputs[0]][:2])
        and math.prod(node.kernel.shape[:3]) <= MAX_PRODUCTS
    ]


def _steps(graph: Graph, sources: list[int], images: np.ndarray) -> dict[int, float]:
    """Returns the steps of values, without those that are zero on all images."""
    shapes = graph.shapes()
    flat = [Flatten(f"{index}", (index,)) for index in sources]
    outputs = [
        Output(str(index), len(graph.nodes) + place, (math.prod(shapes[index]),))
        for place, index in enumerate(sources)
    ]
    try:
        model = runtime.Model(Graph((*graph.nodes, *flat), tuple(outputs) or graph.outputs))
    except runtime.GraphError as error:
        raise UserError(f"the sparse runtime cannot run the network: {error}") from error
    numbers = sum(math.prod(shapes[index]) for index in sources)
    at_once = max(1, min(len(images), _AT_ONCE // max(1, numbers)))
    samples: dict[int, list[np.ndarray]] = {index: [] for index in sources}
    largest = dict.fromkeys(sources, 0.0)
    rng = np.random.default_rng(0)
    each = -(-_SAMPLE * at_once // len(images))
    for start in range(0, len(images), at_once):
        try:
            found = model(images[start : start + at_once])
        except ValueError as error:
            raise UserError(f"`calibration` does not fit the network: {error}") from error
        found = found if isinstance(found, dict) else {str(index): found for index in sources}
        for index in sources:
            values = found[str(index)].reshape(-1)
            if not np.isfinite(values).all():
                raise UserError(f"{graph.nodes[index].name!r} is not finite on the `calibration` images")
            largest[index] = max(largest[index], float(values.max()))
            samples[index].append(values[rng.integers(len(values), size=min(each, len(values)))])
    chosen = {index: _step(np.concatenate(samples[index]), largest[index]) for index in sources}
    return {index: step for index, step in chosen.items() if step is not None}


def _step(sample: np.ndarray, largest: float) -> float | None:
    """Returns the step with the smallest mean squared error; None for a value that float32 cannot step."""
    steps = largest / LARGEST_UINT8 * np.arange(1, _CANDIDATES + 1) / _CANDIDATES
    steps = [float(step) for step in steps.astype(np.float32) if STEPS[0] <= step <= STEPS[1]]
    errors = [np.square(np.clip(np.rint(sample / s), 0, LARGEST_UINT8) * s - sample).mean() for s in steps]
    return steps[int(np.argmin(errors))] if steps else None

"""Takes weights and masks from one network into another of the same architecture."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune import sparsity
from tfprune.network.graph import Step, computed_graph, evaluate, inner_layers, walk
from tfprune.reading import reason_of


@dataclass(frozen=True)
class Part:
    """A layer that has weights, without what is inside it.

    Attributes:
        name: The layer's.
        layer: The layer, no pruning wrapper.
        variables: Its own weights.
    """

    name: str
    layer: keras.layers.Layer
    variables: list[keras.Variable]


class MisfitError(ValueError):
    """Two networks are not of the same architecture; the message says where."""


def weighted_layers(model: keras.Model) -> list[Part]:
    """Returns the layers of a model that have weights, at any depth, in its order."""
    found = []
    for layer in walk(model):
        if not isinstance(layer, sparsity.PruneLowMagnitude):
            inside = {id(weight) for inner in inner_layers(layer) for weight in inner.weights}
            own = [weight for weight in layer.weights if id(weight) not in inside]
            if own:
                found.append(Part(layer.name, layer, own))
    return found


def paired(
    source: keras.Model, target: keras.Model, but: Iterable[keras.layers.Layer] = ()
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Returns the weights of a network, each with its counterpart in another of the same architecture.

    Layers are counterparts by their names or, where names differ, which Keras makes up anew for each
    instance, by their order.

    Args:
        source: A network, with or without pruning wrappers.
        target: Another.
        but: Layers of `target` that are left out, with their counterparts.

    Raises:
        MisfitError: If a layer has no counterpart, or one of other shapes.
    """
    theirs, ours = weighted_layers(source), weighted_layers(target)
    left_out = {id(layer) for layer in but}
    if not _same_names(theirs, ours):
        if len(theirs) != len(ours):
            raise MisfitError(
                _unknown(theirs, ours, {part.name for part in ours if id(part.layer) in left_out})
            )
    else:
        by_name = {part.name: part for part in theirs}
        theirs = [by_name[part.name] for part in ours]
    pairs = []
    for old, new in zip(theirs, ours, strict=True):
        if id(new.layer) in left_out:
            continue
        if len(old.variables) != len(new.variables):
            raise MisfitError(f"its {old.name} has {len(old.variables)} weights, not {len(new.variables)}")
        for one, other in zip(old.variables, new.variables, strict=True):
            if tuple(one.shape) != tuple(other.shape):
                raise MisfitError(
                    f"its {old.name}/{one.name} has shape {tuple(one.shape)}, not {tuple(other.shape)}"
                )
            pairs.append((one, other))
    return pairs


def copy(pairs: Iterable[tuple[Any, Any]], masks: dict[int, Any], into: dict[int, Any]) -> None:
    """Copies weights, and the masks that they have.

    Args:
        pairs: As from `paired`.
        masks: Those of the first weights.
        into: Those of the second ones; the others there stay.
    """
    for old, new in pairs:
        new.assign(ops.convert_to_numpy(old))
        if id(old) in masks:
            into[id(new)].assign(np.asarray(ops.convert_to_numpy(masks[id(old)])))


def on_data_of(source: keras.Model, network: keras.Model) -> keras.Model:
    """Returns a network for the data of another one, with its own layers and weights.

    Args:
        source: A functional or Sequential network.
        network: A network for the data: its inputs count, and its layers that know the data's statistics.

    Returns:
        A functional network; layers that scale by fixed numbers are those of `network` of the same names.

    Raises:
        ValueError: If the layers do not take such inputs.
    """
    fixed = {layer.name: layer for layer in walk(network) if _scales_by_fixed_numbers(layer)}

    def call(step: Step) -> list[Any]:
        operation = step.operation
        if _scales_by_fixed_numbers(operation):
            operation = fixed.get(operation.name, operation)
        return keras.tree.flatten(operation(*step.args, **step.kwargs))

    graph = computed_graph(source)
    inputs = [
        keras.Input(batch_shape=new.shape, dtype=new.dtype, name=old.name)
        for old, new in zip(source.inputs, network.inputs, strict=True)
    ]
    try:
        outputs = evaluate(graph, inputs, call)
    except Exception as error:
        raise ValueError(reason_of(error)) from error
    return keras.Model(
        keras.tree.pack_sequence_as(graph.input, inputs),
        keras.tree.pack_sequence_as(graph.output, outputs),
        name=source.name,
    )


def _scales_by_fixed_numbers(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Normalization) and not layer.weights


def _same_names(theirs: list[Part], ours: list[Part]) -> bool:
    names = [part.name for part in theirs]
    return len(set(names)) == len(names) and sorted(names) == sorted(part.name for part in ours)


def _unknown(theirs: list[Part], ours: list[Part], but: set[str]) -> str:
    old, new = {part.name for part in theirs}, {part.name for part in ours}
    unknown = sorted((old ^ new) - but)
    if not unknown:
        return f"it has {len(theirs)} layers with weights, not {len(ours)}"
    return f"it {'has no' if unknown[0] in new else 'has a'} layer {unknown[0]!r}"

"""Brings numbers from a Keras model to the engine and back: weights, moving statistics, optimizer slots.

All are float32 on both sides, so that nothing is lost on the way.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from tfprune.network.optimizers import decays, named_slots, public_class
from tfprune.sparse_training import optimizers
from tfprune.sparse_training.engine import Engine
from tfprune.sparse_training.errors import UnsupportedError
from tfprune.sparse_training.graph import BatchNorm, Graph, Kernel, Vector
from tfprune.sparse_training.trace import Traced
from tfprune.training.optimizer import TorchAdam

_RULES = {
    keras.optimizers.Adam: optimizers.Adam,
    keras.optimizers.AdamW: optimizers.Adam,
    keras.optimizers.SGD: optimizers.SGD,
    TorchAdam: optimizers.TorchAdam,
}
# Option -> the value that changes nothing.
_OPTIONS = {
    "amsgrad": False,
    "use_ema": False,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}


def rule_of(optimizer: Any) -> optimizers.Optimizer:
    """Returns the engine's optimizer that computes what a Keras optimizer does.

    Args:
        optimizer: Of the model.

    Raises:
        UnsupportedError: The sparse trainer does not know it, or one of its options.
    """
    # A subclass may compute something else.
    rule = _RULES.get(public_class(optimizer))
    if rule is None:
        raise UnsupportedError(
            "`optimizer` must be Adam, AdamW, SGD or tfprune's TorchAdam for the sparse trainer."
            f" Received: {type(optimizer).__name__}"
        )
    for name, plain in _OPTIONS.items():
        given = getattr(optimizer, name, plain)
        if given != plain:
            raise UnsupportedError(
                f"optimizer {type(optimizer).__name__}: `{name}` must be {plain} for the sparse trainer."
                f" Received: {name}={given!r}"
            )
    numbers = {field.name: getattr(optimizer, field.name) for field in dataclasses.fields(rule)}
    if isinstance(optimizer, TorchAdam):
        numbers["weight_decay"] = optimizer.l2_weight_decay
    return rule(**numbers)


def update_of(engine: Engine, traced: Traced, optimizer: keras.optimizers.Optimizer) -> optimizers.Update:
    """Returns the update of an engine's parameters by an optimizer, with the slots of the Keras optimizer."""
    learning = {name: traced.variables[name] for name in engine.slices}
    factors = {}
    if isinstance(optimizer, TorchAdam):
        factors = {name: optimizer.multiplier_of(variable) for name, variable in learning.items()}
    without = {name for name, variable in learning.items() if not decays(optimizer, variable)}
    update = optimizers.Update(engine, rule_of(optimizer), factors=factors, without_decay=without)
    read_slots(update, engine, traced, optimizer)
    return update


def alike(one: Graph, other: Graph) -> bool:
    """Returns whether two graphs differ in nothing but numbers that an engine takes: values that learn.

    Args:
        one: A graph.
        other: Another one.
    """
    return len(one.nodes) == len(other.nodes) and all(
        _alike(a, b) for a, b in zip(one.nodes, other.nodes, strict=True)
    )


def _alike(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if not dataclasses.is_dataclass(one):
        return one == other
    taken = {"moving_mean", "moving_variance"} if isinstance(one, BatchNorm) else set()
    if isinstance(one, Kernel | Vector) and one.trainable:
        taken = {"values"}
    names = [field.name for field in dataclasses.fields(one) if field.name not in taken]
    return all(_alike(getattr(one, name), getattr(other, name)) for name in names)


def read_weights(engine: Engine, graph: Graph) -> None:
    """Gives an engine the weights and moving statistics of a graph that is like its own."""
    for parameter in graph.parameters:
        if parameter.trainable:
            engine.values[engine.slice_of(parameter.name)] = parameter.values
    for node in graph.nodes:
        if isinstance(node, BatchNorm):
            moving = engine.moving(node.moving_name)
            moving.mean[:], moving.variance[:] = node.moving_mean, node.moving_variance
    engine.refresh()


def read_slots(
    update: optimizers.Update, engine: Engine, traced: Traced, optimizer: keras.optimizers.Optimizer
) -> None:
    """Fills the slots of the engine's optimizer from the Keras optimizer's."""
    for parameter in _learning(engine):
        slots = named_slots(optimizer, traced.variables[parameter.name])
        for name, values in update.slots.items():
            values[engine.slice_of(parameter.name)] = _kept(parameter, slots[name])


def write_weights(engine: Engine, traced: Traced) -> None:
    """Gives the Keras model the engine's weights, removed ones being exactly 0, and moving statistics."""
    for parameter in _learning(engine):
        _assign(parameter, traced.variables[parameter.name], engine.values[engine.slice_of(parameter.name)])
    for name, statistics in traced.statistics.items():
        moving = engine.moving(name)
        statistics.mean.assign(moving.mean.copy())
        statistics.variance.assign(moving.variance.copy())


def write_slots(
    update: optimizers.Update, engine: Engine, traced: Traced, optimizer: keras.optimizers.Optimizer
) -> None:
    """Gives the Keras optimizer the engine's slots, those of removed weights being 0."""
    for parameter in _learning(engine):
        slots = named_slots(optimizer, traced.variables[parameter.name])
        for name, values in update.slots.items():
            _assign(parameter, slots[name], values[engine.slice_of(parameter.name)])


def _learning(engine: Engine) -> list[Kernel | Vector]:
    return [parameter for parameter in engine.graph.parameters if parameter.trainable]


def _kept(parameter: Kernel | Vector, variable: keras.Variable) -> np.ndarray:
    values = np.asarray(keras.ops.convert_to_numpy(variable)).reshape(-1)
    positions = getattr(parameter, "positions", None)
    return values if positions is None else values[positions]


def _assign(parameter: Kernel | Vector, variable: keras.Variable, values: np.ndarray) -> None:
    # A new array each time: backends may keep it.
    positions = getattr(parameter, "positions", None)
    if positions is None:
        whole = values.copy()
    else:
        whole = np.zeros(parameter.size, np.float32)
        whole[positions] = values
    variable.assign(whole.reshape(tuple(variable.shape)))

"""Drafts the nodes of a functional or Sequential Keras model, those of nested models too."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from tfprune.compiler.draft import Call, Draft, Value
from tfprune.compiler.layers import add_call, entry_of
from tfprune.errors import UserError
from tfprune.network.graph import Step, computed_graph, evaluate
from tfprune.sparsity import PruneLowMagnitude


def trace(draft: Draft, model: Any, inputs: Sequence[Value], prefix: str = "") -> list[Value]:
    """Drafts the nodes of a model.

    Args:
        draft: The draft to append to.
        model: The functional model, as `computed_graph` returns it.
        inputs: A value for each of `model.inputs`.
        prefix: The path that goes before the layers' names.

    Returns:
        A value for each of `model.outputs`.

    Raises:
        UserError: The runtime cannot run a layer.
    """
    return evaluate(model, inputs, lambda step: _outputs(draft, step, prefix))


def _outputs(draft: Draft, step: Step, prefix: str) -> list[Value]:
    """Drafts one call of a layer; returns its outputs."""
    operation = step.operation
    call = Call(prefix + operation.name, operation, step.args, len(step.outputs[0].shape))
    if isinstance(operation, PruneLowMagnitude):
        raise UserError(
            f"layer {call.name!r} ({type(operation).__name__}) is wrapped for pruning:"
            " take `tfprune.sparsity.strip_pruning(model)` first"
        )
    if step.kwargs.get("training"):
        raise call.refuse("it is called with training=True")
    constants = {name: value for name, value in step.kwargs.items() if name != "training"}
    given = any(value is not None for value in keras.tree.flatten(constants))
    if given or (isinstance(operation, keras.Layer) and len(step.args) != 1):
        raise call.refuse(f"it must be called with its inputs only. Received: {sorted(constants)}")
    graph = computed_graph(operation)
    if graph is not None:
        return trace(draft, graph, _nested_inputs(call, graph), call.name + "/")
    return [Value(add_call(draft, call), call.rank, _makes_integers(call))]


def _makes_integers(call: Call) -> bool:
    """Returns whether a call gives integers; refuses to compute with integers, which the runtime cannot."""
    if not any(value.integer for value in call.inputs):
        return False
    made = entry_of(call).of_integers
    if made:
        return made == "integers"
    # What a Keras tensor says of its type does not hold here: layers say that they make floats of integers.
    operands = keras.tree.flatten(call.arguments)
    floats = any(
        not operand.integer if isinstance(operand, Value) else _is_float(operand) for operand in operands
    )
    if isinstance(call.operation, keras.Layer) or not floats:
        raise call.refuse("its input must be floating-point numbers: rescale the pixels first")
    return False


def _is_float(constant: Any) -> bool:
    return "float" in str(getattr(constant, "dtype", type(constant)))


def _nested_inputs(call: Call, graph: Any) -> list[Value]:
    given, wanted = call.inputs, graph.inputs
    if isinstance(call.arguments[0], dict) or len(given) != len(wanted):
        raise call.refuse(
            f"a nested model must be called with a tensor, or a list of its {len(wanted)} inputs"
        )
    inputs = []
    for value, inner in zip(given, wanted, strict=True):
        if value.rank != len(inner.shape):
            raise call.refuse(f"its input must have {len(inner.shape)} axes. Received: {value.rank}")
        integer = "float" not in str(inner.dtype)
        if integer and not value.integer:
            raise call.refuse(f"it casts its input to {inner.dtype}")
        # A model casts what it is called with to its input's type.
        inputs.append(dataclasses.replace(value, integer=integer))
    return inputs

"""Drafts the nodes of a functional or Sequential Keras model, those of nested models too."""

from collections.abc import Sequence
from typing import Any

from tfprune.compiler.draft import Call, Draft
from tfprune.compiler.layers import add_call, entry_of, takes_named_arguments
from tfprune.errors import UserError
from tfprune.network.drafts import Value
from tfprune.network.graph import Step, computed_graph, evaluate
from tfprune.network.kinds import builtin_layer
from tfprune.network.wrapping import Wrapping


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
    for layer in model.layers:
        if makes_mask(layer):
            raise UserError(
                f"layer {prefix + layer.name!r} ({type(layer).__name__}): the sparse runtime cannot run it:"
                " it makes a mask of time steps, of which the layers behind it would have to know"
            )
    return evaluate(model, inputs, lambda step: _outputs(draft, step, prefix))


def makes_mask(layer: Any) -> bool:
    """Returns whether a layer tells those behind it which time steps to leave out."""
    return builtin_layer(layer) == "Masking" or getattr(layer, "mask_zero", False) is True


def _outputs(draft: Draft, step: Step, prefix: str) -> list[Value]:
    """Drafts one call of a layer; returns its outputs."""
    operation = step.operation
    named = {name: value for name, value in step.kwargs.items() if name != "training"}
    shape = tuple(step.outputs[0].shape)
    call = Call(prefix + operation.name, operation, step.args, shape, named)
    if isinstance(operation, Wrapping):
        raise UserError(
            f"layer {call.name!r} ({type(operation).__name__}) is wrapped for pruning:"
            " take `tfprune.sparsity.strip_pruning(model)` first"
        )
    # Whatever a layer was called with, `training=False` overrules it at inference.
    if not takes_named_arguments(call):
        call.check_arguments(named)
    graph = computed_graph(operation)
    if graph is not None:
        return trace(draft, graph, call.nested_inputs(graph), call.name + "/")
    integers = entry_of(call).makes_integers(call)
    return [
        Value(node, len(tensor.shape), integers)
        for node, tensor in zip(add_call(draft, call), step.outputs, strict=True)
    ]

"""Drafts the nodes of a functional or Sequential Keras model, those of nested models too."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from tfprune.compiler.draft import Call, Draft
from tfprune.compiler.layers import add_call, check_booleans, entry_of, takes_named_arguments
from tfprune.compiler.masks import check_masks, output_masks
from tfprune.errors import UserError
from tfprune.network.drafts import Value
from tfprune.network.graph import Step, computed_graph, evaluate
from tfprune.network.masks import Masks, layer_of_mask, returns_its_input
from tfprune.network.wrapping import Wrapping


def trace(draft: Draft, model: Any, inputs: Sequence[Value]) -> list[Value]:
    """Drafts the nodes of a model.

    Args:
        draft: The draft to append to.
        model: The functional model, as `computed_graph` returns it.
        inputs: A value for each of `model.inputs`.

    Returns:
        A value for each of `model.outputs`.

    Raises:
        UserError: The runtime cannot run a layer.
    """
    return _Tracer(draft).trace(model, inputs, "")


class _Tracer:
    """The draft of a model in the making.

    Args:
        draft: The draft to append to.
    """

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._masks = Masks(lambda argument: isinstance(argument, Value))

    def trace(self, model: Any, inputs: Sequence[Value], prefix: str) -> list[Value]:
        """Drafts the nodes of a model whose layers' names begin with a prefix."""
        return evaluate(model, inputs, lambda step: self._outputs(step, prefix))

    def _outputs(self, step: Step, prefix: str) -> Sequence[Value]:
        """Drafts one call of a layer or an operation; returns its outputs."""
        operation = step.operation
        name, shape = prefix + operation.name, tuple(step.outputs[0].shape)
        if isinstance(operation, Wrapping):
            raise UserError(
                f"layer {name!r} ({type(operation).__name__}) is wrapped for pruning:"
                " take `tfprune.sparsity.strip_pruning(model)` first"
            )
        named = {name: value for name, value in step.kwargs.items() if name != "training"}
        call = Call(name, operation, step.args, shape, named)
        graph = computed_graph(operation)
        if graph is None:
            entry_of(call)  # What none knows is refused for that, however it is called.
        if not isinstance(operation, keras.Layer):
            call.check_arguments(named)
            check_booleans(call)
            return self._made(call, step)
        # Whatever a layer was called with, `training=False` overrules it at inference.
        given = self._masks.given(operation, step.args, step.kwargs)
        call = dataclasses.replace(call, arguments=given.arguments, named=given.named, masks=given.masks)
        if not takes_named_arguments(call):
            call.check_arguments(call.named)
        if graph is not None:
            inputs = call.nested_inputs(graph)
            # A structure of masks is like that of the inputs.
            for value, mask in zip(inputs, keras.tree.flatten(given.masks.get("mask")), strict=False):
                if mask is not None:
                    self._masks.attach(value, mask)
            return self.trace(graph, inputs, name + "/")
        check_booleans(call)
        check_masks(call)
        outputs = self._made(call, step)
        if returns_its_input(operation):
            outputs = call.inputs
        maker = layer_of_mask(operation)
        of_maker = dataclasses.replace(call, operation=maker)
        self._masks.hand_on(maker, outputs, lambda: output_masks(self._draft, of_maker, given.previous))
        return outputs

    def _made(self, call: Call, step: Step) -> list[Value]:
        """Drafts a call; returns its outputs."""
        integers = entry_of(call).makes_integers(call)
        is_layer = isinstance(call.operation, keras.Layer)
        return [
            Value(node, len(tensor.shape), integers, boolean=not is_layer and tensor.dtype == "bool")
            for node, tensor in zip(add_call(self._draft, call), step.outputs, strict=True)
        ]

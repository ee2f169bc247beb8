"""Nodes of recurrent layers, and of layers that are called for each time step."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.compiler.arithmetic import add_affine, combine, read
from tfprune.compiler.convolutions import unknown_activation
from tfprune.compiler.draft import Call, Draft
from tfprune.compiler.masks import as_column, keep_steps, mask_of_steps
from tfprune.compiler.shapes import select
from tfprune.network.activations import Form, form_of_function
from tfprune.network.drafts import Value
from tfprune.network.kinds import builtin_layer
from tfprune.network.masks import shown_when_masked
from tfprune.runtime.graph import ACROSS_CHANNELS, Concatenate, Conv, Recurrent

# Name of a cell's class, or of the layer that has one -> the runtime's cell.
_CELLS = {"SimpleRNNCell": "simple", "LSTMCell": "lstm", "GRUCell": "gru"}
# A layer that a `TimeDistributed` may have -> whether it goes along the last axis but one, which is then not
# the time, or computes each position by itself.
_DISTRIBUTED = {
    **dict.fromkeys(
        (
            "Activation",
            "AlphaDropout",
            "BatchNormalization",
            "Dense",
            "Dropout",
            "ELU",
            "GaussianDropout",
            "GaussianNoise",
            "Identity",
            "LayerNormalization",
            "LeakyReLU",
            "RMSNormalization",
            "ReLU",
            "Rescaling",
            "Softmax",
            "UnitNormalization",
        ),
        False,
    ),
    **dict.fromkeys(
        (
            "AveragePooling1D",
            "Conv1D",
            "Cropping1D",
            "DepthwiseConv1D",
            "MaxPooling1D",
            "SeparableConv1D",
            "UpSampling1D",
            "ZeroPadding1D",
        ),
        True,
    ),
}


def add_recurrent(draft: Draft, call: Call) -> list[int]:
    """Adds an `LSTM`, a `GRU`, a `SimpleRNN` or an `RNN` of their cells."""
    source, states = _given(call)
    mask = _mask(draft, call, source)
    return _add_layer(draft, call, call.operation, call.name, source.node, states, mask)


def add_bidirectional(draft: Draft, call: Call) -> list[int]:
    """Adds a `Bidirectional` of such a layer."""
    layer = call.operation
    source, states = _given(call)
    mask = _mask(draft, call, source)
    half = len(states) // 2
    both = [
        _add_layer(draft, call, inner, f"{call.name}/{inner.name}", source.node, given, mask)
        for inner, given in (
            (_inner(call, layer.forward_layer), states[:half]),
            (_inner(call, layer.backward_layer), states[half:]),
        )
    ]
    (forward, *states), (backward, *others) = both
    if layer.return_sequences:
        backward = _reversed(draft, call, backward)
    merged: list[int]
    match layer.merge_mode:
        case "concat":
            merged = [draft.add(Concatenate(call.name, (forward, backward), 2), call)]
        case "sum":
            merged = [combine(draft, call, "add", forward, backward)]
        case "ave":
            merged = [add_affine(draft, call, combine(draft, call, "add", forward, backward), 0.5, 0.0)]
        case "mul":
            merged = [combine(draft, call, "multiply", forward, backward)]
        case _:
            merged = [forward, backward]
    return [*merged, *states, *others]


def _inner(call: Call, layer: Any) -> Any:
    if builtin_layer(layer) not in ("LSTM", "GRU", "SimpleRNN", "RNN"):
        raise call.refuse(f"its layers must be LSTM, GRU, SimpleRNN or RNN. Received: {type(layer).__name__}")
    return layer


def _given(call: Call) -> tuple[Value, list[Value]]:
    """Returns the signal and the first states, flat, that a layer is called with."""
    given = dict(zip(("sequences", "initial_state"), call.arguments, strict=False)) | call.named
    signal, states = given["sequences"], keras.tree.flatten(given.get("initial_state"))
    states = [state for state in states if state is not None]
    if not isinstance(signal, Value) or not all(isinstance(state, Value) for state in states):
        raise call.refuse("it must be called with a signal, and first states that are tensors, if any")
    if signal.rank != 3:
        raise call.refuse(f"its input must be a signal [n, time, channels]. Received: {signal.rank} axes")
    return signal, states


def _mask(draft: Draft, call: Call, signal: Value) -> int | None:
    """Returns the vector of a layer's mask; None where it has none."""
    (mask,) = keras.tree.flatten(call.masks.get("mask")) or [None]
    return mask_of_steps(draft, call, mask, draft.shapes[signal.node][1])


def _add_layer(
    draft: Draft,
    call: Call,
    layer: Any,
    name: str,
    source: int,
    states: Sequence[Value],
    mask: int | None,
) -> list[int]:
    """Adds a recurrent layer.

    Args:
        draft: The draft.
        call: The call that asks for it.
        layer: The layer, perhaps inside another.
        name: Its path.
        source: The signal.
        states: The first states of all its cells; none: zeros.
        mask: The vector of its mask, if it has one.

    Returns:
        Its output, and the last states where it returns them.
    """
    if layer.stateful:
        raise call.refuse("`stateful` must be False. Received: stateful=True")
    if layer.go_backwards:
        source = _reversed(draft, call, source)
        mask = None if mask is None else _reversed(draft, call, mask, axis=2)
    cells = _cells(call, layer.cell, f"{name}/{layer.cell.name}")
    counts = [2 if _CELLS[type(cell).__name__] == "lstm" else 1 for _, cell in cells]
    if states and len(states) != sum(counts):
        raise call.refuse(f"it must be called with {sum(counts)} first states. Received: {len(states)}")
    waiting, last = list(states), []
    for (path, cell), count in zip(cells, counts, strict=True):
        first, waiting = [state.node for state in waiting[:count]], waiting[count:]
        node = _add_cell(draft, call, cell, path, source, first, mask, layer.return_state)
        _, time, channels = draft.shapes[node]
        units = channels // (count if layer.return_state else 1)
        source = (
            node if units == channels else select(draft, call, node, {2: range(channels - units, channels)})
        )
        if layer.return_state:
            ends = select(draft, call, node, {1: [time - 1]})
            # Of the memory and the state of an LSTM, Keras returns the state first.
            last += [
                select(draft, call, ends, {2: range(start, start + units)})
                for start in range(channels - units, -1, -units)
            ]
    made = source if mask is None else _shown(draft, call, layer, source, mask, bool(states))
    if not layer.return_sequences:
        made = select(draft, call, made, {1: [draft.shapes[made][1] - 1]})
    return [made, *last]


def _shown(draft: Draft, call: Call, layer: Any, states: int, mask: int, first: bool) -> int:
    """Adds what a layer shows of the states of its last cell, which stay where its mask is 0.

    Args:
        draft: The draft.
        call: The call that asks for it.
        layer: The layer.
        states: The states.
        mask: The vector of its mask.
        first: Whether first states are given.
    """
    shown = shown_when_masked(layer)
    if shown == "zeros":
        return keep_steps(draft, call, states, mask)
    if shown == "state" or not first:
        return states
    signal, one = as_column(draft, call, mask), np.ones((1, 1, 1, 1))
    begun = Recurrent(f"{call.name}/begun", (signal,), "simple", one, np.zeros(1), "nonzero", "linear")
    return combine(draft, call, "multiply", states, draft.add(begun, call))


def _cells(call: Call, cell: Any, path: str) -> list[tuple[str, Any]]:
    """Returns the cells of a layer that work on one another's states, and the path of each."""
    name = builtin_layer(cell)
    if name == "StackedRNNCells":
        return [pair for inner in cell.cells for pair in _cells(call, inner, f"{path}/{inner.name}")]
    if name not in _CELLS:
        raise call.refuse(f"its cells must be {', '.join(_CELLS)}. Received: {type(cell).__name__}")
    return [(path, cell)]


def _add_cell(
    draft: Draft,
    call: Call,
    cell: Any,
    path: str,
    source: int,
    first: list[int],
    mask: int | None,
    memory: bool,
) -> int:
    """Adds what a cell takes of the signal, a dense layer, and the loop over it.

    Args:
        draft: The draft.
        call: The call that asks for it.
        cell: The cell.
        path: Its name, with those of the layers around it.
        source: The signal.
        first: Its first states; none: zeros.
        mask: The vector of a mask, if there is one.
        memory: Whether the memory of an LSTM is wanted.
    """
    kind = _CELLS[type(cell).__name__]
    kernel, own = read(call, cell.kernel), read(call, cell.recurrent_kernel)
    width = own.shape[1]
    bias = read(call, cell.bias).reshape(-1, width) if cell.use_bias else np.zeros((1, width))
    if kind == "gru" and not cell.reset_after:
        kind = "gru_reset_before"
    activation = _value_by_value(call, cell.activation)
    gates = Form("linear") if kind == "simple" else _value_by_value(call, cell.recurrent_activation)
    signal = draft.add(
        Conv(f"{path}/kernel", (source,), kernel=kernel.reshape(1, 1, -1, width), bias=bias[0]), call
    )
    return draft.add(
        Recurrent(
            f"{path}/recurrent",
            (signal, *first) if mask is None else (signal, *first, mask),
            kind,
            own.reshape(1, 1, -1, width),
            bias[1] if len(bias) > 1 else np.zeros(width),
            activation.name,
            gates.name,
            activation.settings,
            gates.settings,
            memory and kind == "lstm",
            masked=mask is not None,
        ),
        call,
    )


def _value_by_value(call: Call, function: Any) -> Form:
    form = form_of_function(function, call.refuse)
    if form is None or form.name in ACROSS_CHANNELS:
        raise unknown_activation(call, function)
    return form


def _reversed(draft: Draft, call: Call, source: int, axis: int = 1) -> int:
    return select(draft, call, source, {axis: range(draft.shapes[source][axis])[::-1]})


def distributed(rule_of: Callable[[Call], Callable[[Draft, Call], Any]]) -> Callable[[Draft, Call], int]:
    """Makes the rule of a `TimeDistributed` layer.

    Args:
        rule_of: Returns the rule of a call.
    """

    def add_distributed(draft: Draft, call: Call) -> int:
        inner, value = call.operation.layer, call.input
        name = f"{call.name}/{inner.name}"
        along = _DISTRIBUTED.get(builtin_layer(inner) or "")
        axes = np.atleast_1d(getattr(inner, "axis", -1)).tolist()
        at_once = along is not None and axes == [-1] and (not along or value.rank == 4)
        if inner.weights and not at_once:
            raise call.refuse(
                f"its layer must be one of {', '.join(sorted(_DISTRIBUTED))}, on the last axis, or have no"
                f" weights. Received: {type(inner).__name__}"
            )
        # Of a mask each call of the layer inside gets a step.
        takes_mask = "mask" in inspect.signature(inner.call).parameters
        if call.masks.get("mask") is not None and takes_mask and builtin_layer(inner) != "BatchNormalization":
            raise call.refuse(f"its layer must take no mask. Received: {type(inner).__name__}")
        call = dataclasses.replace(call, masks={})
        if at_once:
            return rule_of(of_inner := dataclasses.replace(call, name=name, operation=inner))(draft, of_inner)
        if value.rank < 3:
            raise call.refuse(f"its input must have a time axis. Received: {value.rank} axes")
        axis, steps = 4 - value.rank, []
        for step in range(draft.shapes[value.node][axis]):
            node = select(draft, call, value.node, {axis: [step]})
            one = dataclasses.replace(value, node=node, rank=value.rank - 1)
            of_step = Call(name, inner, (one,), (call.shape[0], *call.shape[2:]))
            steps.append(rule_of(of_step)(draft, of_step))
        return _stacked(draft, call, steps)

    return add_distributed


def _stacked(draft: Draft, call: Call, steps: list[int]) -> int:
    axis = 4 - call.rank
    return steps[0] if len(steps) == 1 else draft.add(Concatenate(call.name, tuple(steps), axis), call)

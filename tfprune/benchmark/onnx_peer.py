"""A graph as an ONNX file, with dense kernels, for ONNX Runtime and MNN."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tfprune.runtime.graph import (
    ACTIVATIONS,
    CELLS,
    Activation,
    Add,
    Combine,
    Concatenate,
    Constant,
    Conv,
    Embedding,
    Flatten,
    Gather,
    GlobalPool,
    Graph,
    Input,
    MatMul,
    Multiply,
    Node,
    Normalize,
    Pool,
    Quantize,
    Recurrent,
    nonnegative_values,
)

_OPSET = 17
_IR_VERSION = 8
_COMBINATIONS = {"add": "Add", "multiply": "Mul", "maximum": "Max", "minimum": "Min"}
_PLAIN = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hard_silu": "HardSwish",
    "abs": "Abs",
    "exponential": "Exp",
    "log": "Log",
    "reciprocal": "Reciprocal",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "sqrt": "Sqrt",
}


def to_onnx(graph: Graph, image_type: str = "uint8") -> onnx.ModelProto:
    """Converts a graph to ONNX.

    Its input `image` is `[n, height, width, channels]` with any n, transposed once to the channels-first
    layout of ONNX's convolutions; its output `logits` is float32 `[n, classes]`.

    Args:
        graph: The network.
        image_type: The type of the input: `"uint8"` or `"float32"`.

    Returns:
        The model, checked.
    """
    types = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
    if image_type not in types:
        raise ValueError(f"`image_type` must be uint8 or float32. Received: image_type={image_type!r}")
    shapes = graph.shapes()
    writer = _Writer(graph, image_type)
    values: list[str] = []
    for index, node in enumerate(graph.nodes):
        values.append(writer.write(index, node, [values[source] for source in node.inputs]))
    classes = shapes[-1][2]
    writer.emit("Reshape", [values[-1], writer.constant(np.array([-1, classes]))], "logits")
    image = helper.make_tensor_value_info("image", types[image_type], ["n", *shapes[0]])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])
    body = helper.make_graph(writer.nodes, "tfprune", [image], [logits], writer.constants)
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="tfprune"
    )
    onnx.checker.check_model(model)
    return model


class _Writer:
    """Collects ONNX nodes and constants; names every value after its place."""

    def __init__(self, graph: Graph, image_type: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._image_type = image_type
        self._nonnegative = nonnegative_values(graph)
        self._shapes = graph.shapes()

    def constant(self, array: np.ndarray) -> str:
        """Adds a constant and returns its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def emit(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Adds a node and returns the name of its value."""
        output = output or f"value_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, inputs, [output], name=f"{kind}_{len(self.nodes)}", **attributes)
        )
        return output

    def write(self, index: int, node: Node, inputs: list[str]) -> str:
        """Adds the nodes that compute a node of the graph, and returns the name of its value."""
        match node:
            case Input():
                return self._input(node)
            case Conv():
                return self._conv(node, inputs)
            case Pool():
                return self._pool(node, inputs[0])
            case GlobalPool():
                return self.emit(f"Global{'Max' if node.kind == 'max' else 'Average'}Pool", inputs)
            case Quantize():  # Peers compute in float32.
                return inputs[0]
            case Add():
                return self._activate(self._sum(inputs), node.activation, node.settings)
            case Multiply():
                return self.emit("Mul", inputs)
            case Combine():
                return self.emit(_COMBINATIONS[node.operation], inputs)
            case Constant():
                zeros = self.emit("Mul", [self._batch(), self._number(0)])
                return self.emit("Add", [zeros, self.constant(node.value.transpose(2, 0, 1)[None])])
            case Concatenate():
                return self.emit("Concat", inputs, axis=(2, 3, 1)[node.axis])
            case Gather():
                return self._gather(node, inputs[0])
            case MatMul():
                left = self.emit("Transpose", [inputs[0]], perm=[0, 2, 3, 1])
                right = self.emit("Transpose", [inputs[1]], perm=[0, 2, 1, 3])
                return self.emit("Transpose", [self.emit("MatMul", [left, right])], perm=[0, 3, 1, 2])
            case Normalize():
                return self._normalize(node, inputs[0])
            case Embedding():
                return self._embedding(node, inputs[0])
            case Recurrent():
                return self._recurrent(node, inputs)
            case Activation():
                return self._activate(inputs[0], node.activation, node.settings)
            case Flatten():
                rows_first = self.emit("Transpose", inputs, perm=[0, 2, 3, 1])
                return self.emit("Reshape", [rows_first, self.constant(np.array([0, -1, 1, 1]))])
        raise TypeError(f"no ONNX for a {type(node).__name__}")

    def _input(self, node: Input) -> str:
        pixels = "image"
        if self._image_type != "float32":
            pixels = self.emit("Cast", [pixels], to=TensorProto.FLOAT)
        value = self.emit("Transpose", [pixels], perm=[0, 3, 1, 2])
        value = self.emit("Mul", [value, self.constant(node.scale.reshape(1, -1, 1, 1))])
        return self.emit("Add", [value, self.constant(node.shift.reshape(1, -1, 1, 1))])

    def _conv(self, node: Conv, inputs: list[str]) -> str:
        kernel = np.asarray(node.kernel).transpose(3, 2, 0, 1)
        value = self.emit(
            "Conv",
            [inputs[0], self.constant(kernel), self.constant(node.bias)],
            kernel_shape=list(node.kernel.shape[:2]),
            strides=list(node.strides),
            pads=_pads(node.padding),
            dilations=list(node.dilation),
            group=node.groups,
        )
        return self._activate(self._sum([value, *inputs[1:]]), node.activation, node.settings)

    def _pool(self, node: Pool, value: str) -> str:
        window = {"kernel_shape": list(node.size), "strides": list(node.strides)}
        if node.kind == "average":
            return self.emit(
                "AveragePool",
                [value],
                pads=_pads(node.padding),
                count_include_pad=int(node.padding_counts),
                **window,
            )
        pads = _pads(node.padding)
        if node.padding_counts and any(pads) and not self._nonnegative[node.inputs[0]]:
            full = [0, 0, *pads[:2], 0, 0, *pads[2:]]
            value = self.emit("Pad", [value, self.constant(np.array(full))])
            pads = [0, 0, 0, 0]
        return self.emit("MaxPool", [value], pads=pads, **window)

    def _batch(self) -> str:
        """Returns a number of each image, `[n, 1, 1, 1]`."""
        image = "image"
        if self._image_type != "float32":
            image = self.emit("Cast", [image], to=TensorProto.FLOAT)
        return self.emit("ReduceMax", [image], axes=[1, 2, 3])

    def _gather(self, node: Gather, value: str) -> str:
        rows, columns, channels = map(np.array, (node.rows, node.columns, node.channels))
        places = rows[:, None] + columns + channels[:, None, None]
        flat = self.emit("Transpose", [value], perm=[0, 2, 3, 1])
        flat = self.emit("Reshape", [flat, self.constant(np.array([0, -1]))])
        return self.emit("Gather", [flat, self.constant(places)], axis=1)

    def _normalize(self, node: Normalize, value: str) -> str:
        channels = len(node.scale)
        split = [0, node.groups, channels // node.groups, *self._shapes[node.inputs[0]][:2]]
        x = self.emit("Reshape", [value, self.constant(np.array(split))])
        axes = [2] if node.over == "pixel" else [2, 3, 4]
        if node.centered:
            x = self.emit("Sub", [x, self.emit("ReduceMean", [x], axes=axes)])
        variance = self.emit("ReduceMean", [self.emit("Mul", [x, x])], axes=axes)
        deviation = self.emit("Sqrt", [self.emit("Add", [variance, self._number(node.epsilon)])])
        x = self.emit("Div", [x, deviation])
        x = self.emit("Reshape", [x, self.constant(np.array([0, channels, *split[3:]]))])
        x = self.emit("Mul", [x, self.constant(node.scale.reshape(1, -1, 1, 1))])
        return self.emit("Add", [x, self.constant(node.shift.reshape(1, -1, 1, 1))])

    def _sum(self, values: list[str]) -> str:
        total = values[0]
        for value in values[1:]:
            total = self.emit("Add", [total, value])
        return total

    def _embedding(self, node: Embedding, value: str) -> str:
        rows = node.kernel.shape[2]
        numbers = self.emit("Squeeze", [value, self.constant(np.array([2]))])
        numbers = self.emit("Transpose", [numbers], perm=[0, 2, 1])
        above = self.emit("GreaterOrEqual", [numbers, self._number(-rows)])
        known = self.emit("And", [above, self.emit("Less", [numbers, self._number(rows)])])
        places = self.emit("Where", [known, numbers, self._number(0)])
        places = self.emit("Cast", [places], to=TensorProto.INT64)
        made = self.emit("Gather", [self.constant(np.asarray(node.kernel)[0, 0]), places], axis=0)
        known = self.emit("Unsqueeze", [known, self.constant(np.array([3]))])
        made = self.emit("Where", [known, made, self._number(np.nan)])
        return self.emit("Transpose", [made], perm=[0, 3, 1, 2])

    def _recurrent(self, node: Recurrent, inputs: list[str]) -> str:
        """Adds a cell's steps one by one; ONNX's own cells multiply the signal, and have few activations."""
        gates, units = len(CELLS[node.cell]), node.units
        steps = self._shapes[node.inputs[0]][1]
        kernel, bias = self.constant(np.asarray(node.kernel)[0, 0]), self.constant(node.bias)

        def rows(value: str) -> str:
            """Returns `[n, channels, 1, columns]` as `[n, columns, channels]`."""
            flat = self.emit("Squeeze", [value, self.constant(np.array([2]))])
            return self.emit("Transpose", [flat], perm=[0, 2, 1])

        def opened(value: str) -> str:
            return self._activate(value, node.gate_activation, node.gate_settings)

        def shown(value: str) -> str:
            return self._activate(value, node.activation, node.settings)

        signal, first, mask = node.parts(inputs)
        first = [rows(value) for value in first]
        if not first:
            number = self.emit("Squeeze", [self._batch(), self.constant(np.array([3]))])
            zeros = self.constant(np.zeros((1, 1, units), np.float32))
            first = [self.emit("Mul", [number, zeros])] * 2
        state, memory = first[0], first[-1]
        masks: list[str | None] = [None] * steps
        if mask is not None:
            kept = self._nonzero(self.emit("Reshape", [mask, self.constant(np.array([0, 1, -1]))]))
            masks = [*self._split(kept, 2, steps)]
        made = []
        for x, mask in zip(self._split(rows(signal), 1, steps), masks, strict=True):
            before = state, memory
            r = self.emit("Add", [self.emit("MatMul", [state, kernel]), bias])
            both = self._split(self.emit("Add", [x, r]), 2, gates)
            if node.cell == "simple":
                state = shown(both[0])
            elif node.cell == "lstm":
                kept = self.emit("Mul", [opened(both[1]), memory])
                memory = self.emit("Add", [kept, self.emit("Mul", [opened(both[0]), shown(both[2])])])
                state = self.emit("Mul", [opened(both[3]), shown(memory)])
            else:
                update, reset = opened(both[0]), opened(both[1])
                given, taken = self._split(x, 2, gates)[2], self._split(r, 2, gates)[2]
                if node.cell == "gru":
                    taken = self.emit("Mul", [reset, taken])
                else:
                    held = self.emit("MatMul", [self.emit("Mul", [reset, state]), kernel])
                    taken = self._split(self.emit("Add", [held, bias]), 2, gates)[2]
                new = shown(self.emit("Add", [given, taken]))
                # The state and the new one, by how far the gate is open.
                change = self.emit("Mul", [update, self.emit("Sub", [state, new])])
                state = self.emit("Add", [new, change])
            if mask is not None:
                state = self.emit("Where", [mask, state, before[0]])
                memory = self.emit("Where", [mask, memory, before[1]])
            made.append(self.emit("Concat", [memory, state], axis=2) if node.memory else state)
        value = self.emit("Transpose", [self.emit("Concat", made, axis=1)], perm=[0, 2, 1])
        return self.emit("Unsqueeze", [value, self.constant(np.array([2]))])

    def _split(self, value: str, axis: int, count: int) -> list[str]:
        """Adds a split into equal parts, and returns their names."""
        if count == 1:
            return [value]
        parts = [f"value_{len(self.nodes)}_{part}" for part in range(count)]
        name = f"Split_{len(self.nodes)}"
        self.nodes.append(helper.make_node("Split", [value], parts, name=name, axis=axis))
        return parts

    def _activate(self, value: str, activation: str, settings: tuple[float, ...]) -> str:
        settings = settings or ACTIVATIONS[activation]
        match activation:
            case "linear":
                return value
            case "relu6":
                return self._clip(value, 0, 6)
            case "leaky_relu":
                return self.emit("LeakyRelu", [value], alpha=settings[0])
            case "elu":
                return self.emit("Elu", [value], alpha=settings[0])
            case "celu":
                return self.emit("Celu", [value], alpha=settings[0])
            case "selu":
                return self.emit("Selu", [value], alpha=1.6732632423543772, gamma=1.0507009873554805)
            case "clip":
                return self._clip(value, *settings)
            case "mish":
                return self.emit("Mul", [value, self.emit("Tanh", [self.emit("Softplus", [value])])])
            case "gelu_tanh":
                cubed = self.emit("Mul", [self.emit("Mul", [value, value]), value])
                inner = self.emit("Add", [value, self.emit("Mul", [cubed, self._number(0.044715)])])
                twice = self.emit("Mul", [inner, self._number(2 * np.sqrt(2 / np.pi))])
                return self.emit("Mul", [value, self.emit("Sigmoid", [twice])])
            case "general_relu":
                slope, largest, threshold = map(self._number, settings)
                above = self.emit("Greater", [value, threshold])
                above = self.emit("Min", [self.emit("Where", [above, value, self._number(0)]), largest])
                below = self.emit("Relu", [self.emit("Sub", [threshold, value])])
                return self.emit("Sub", [above, self.emit("Mul", [below, slope])])
            case "nonzero":
                return self.emit("Cast", [self._nonzero(value)], to=TensorProto.FLOAT)
            case "threshold":
                above = self.emit("Greater", [value, self._number(settings[0])])
                return self.emit("Where", [above, value, self._number(settings[1])])
            case "hard_shrink" | "soft_shrink":
                bias = settings[0] if activation == "soft_shrink" else 0.0
                return self.emit("Shrink", [value], lambd=settings[0], bias=bias)
            case "tanh_shrink":
                return self.emit("Sub", [value, self.emit("Tanh", [value])])
            case "log_sigmoid":
                return self.emit("Neg", [self.emit("Softplus", [self.emit("Neg", [value])])])
            case "rsqrt":
                return self.emit("Reciprocal", [self.emit("Sqrt", [value])])
            case "sparse_plus":
                half = self.emit("Relu", [self.emit("Add", [value, self._number(1)])])
                bend = self.emit("Mul", [self.emit("Mul", [half, half]), self._number(0.25)])
                return self.emit("Where", [self.emit("Greater", [value, self._number(1)]), value, bend])
            case "sparse_sigmoid":
                half = self.emit("Mul", [self.emit("Add", [value, self._number(1)]), self._number(0.5)])
                return self._clip(half, 0, 1)
            case "square":
                return self.emit("Mul", [value, value])
            case "squareplus":
                squared = self.emit("Add", [self.emit("Mul", [value, value]), self._number(settings[0])])
                total = self.emit("Add", [value, self.emit("Sqrt", [squared])])
                return self.emit("Mul", [total, self._number(0.5)])
            case "hard_sigmoid":
                return self.emit("HardSigmoid", [value], alpha=1 / 6, beta=0.5)
            case "silu":
                return self.emit("Mul", [value, self.emit("Sigmoid", [value])])
            case "gelu":
                # The pattern that runtimes recognise: x * (1 + erf(x / sqrt 2)) * 0.5.
                erf = self.emit("Erf", [self.emit("Div", [value, self._number(np.sqrt(2))])])
                return self.emit(
                    "Mul",
                    [self.emit("Mul", [value, self.emit("Add", [erf, self._number(1)])]), self._number(0.5)],
                )
            case "softmax" | "log_softmax":
                return self.emit("Softmax" if activation == "softmax" else "LogSoftmax", [value], axis=1)
        return self.emit(_PLAIN[activation], [value])

    def _nonzero(self, value: str) -> str:
        return self.emit("Not", [self.emit("Equal", [value, self._number(0)])])

    def _clip(self, value: str, least: float, largest: float) -> str:
        return self.emit("Clip", [value, self._number(least), self._number(largest)])

    def _number(self, number: float) -> str:
        return self.constant(np.array(number, np.float32))


def _pads(padding: tuple[int, int, int, int]) -> list[int]:
    """Returns padding in ONNX's order: the beginnings, then the ends."""
    top, bottom, left, right = padding
    return [top, left, bottom, right]

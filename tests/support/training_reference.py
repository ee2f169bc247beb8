"""A slow engine in NumPy with the interface of `tfprune.sparse_training.engine.Engine`, to compare with.

It computes in float64, dense, one operation after the other, by the definitions in `graph`. Dropout draws
numbers of its own.
"""

from typing import NamedTuple

import numpy as np

from tfprune.sparse_training.graph import (
    Activation,
    Add,
    Affine,
    BatchNorm,
    Concatenate,
    Conv,
    Dropout,
    GlobalPool,
    Input,
    Kernel,
    Multiply,
    Pad,
    Pool,
    Shape,
)


class Moving(NamedTuple):
    mean: np.ndarray
    variance: np.ndarray


class ReferenceEngine:
    """Computes forward and backward passes of a graph."""

    def __init__(self, graph, batch_size, threads=None, seed=0):
        self.graph, self.batch_size, self.threads = graph, batch_size, threads or 1
        self.step = 0
        self._slices, self._whole = {}, {}
        parts, start = [], 0
        for parameter in graph.parameters:
            if parameter.trainable:
                self._slices[parameter.name] = slice(start, start + len(parameter.values))
                start += len(parameter.values)
                parts.append(parameter.values)
        self.values = np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float32)
        self.gradients = np.zeros_like(self.values)
        self._fixed = {p.name: np.array(p.values) for p in graph.parameters if not p.trainable}
        self._moving = {
            node.moving_name: Moving(node.moving_mean.copy(), node.moving_variance.copy())
            for node in graph.nodes
            if isinstance(node, BatchNorm)
        }
        self.refresh()

    def slice_of(self, name):
        return self._slices[name]

    def moving(self, name):
        return self._moving[name]

    def refresh(self):
        for parameter in self.graph.parameters:
            name = parameter.name
            values = self._fixed[name] if name in self._fixed else self.values[self._slices[name]]
            values = values.astype(np.float64)
            if isinstance(parameter, Kernel):
                whole = np.zeros(parameter.size)
                whole[slice(None) if parameter.positions is None else parameter.positions] = values
                values = whole.reshape(parameter.shape)
            self._whole[name] = values

    def forward(self, images, training=False):
        """Returns the last node's value; in training updates the moving statistics."""
        self._made, self._kept = [], []
        for node in self.graph.nodes:
            if isinstance(node, Input):
                pixels = np.asarray(images, np.float64).reshape(len(images), *node.shape)
                made, kept = pixels * node.scale + node.shift, None
            else:
                made, kept = self._forward(node, [self._made[i] for i in node.inputs], training)
            self._made.append(made)
            self._kept.append(kept)
        self.step += training
        output = self._made[-1].astype(np.float32)
        return output.reshape(len(output), -1) if output.shape[1:3] == (1, 1) else output

    def backward(self, output_gradients):
        """Fills `gradients`."""
        self._grad = {name: np.zeros_like(whole) for name, whole in self._whole.items()}
        found = [np.zeros_like(made) for made in self._made]
        found[-1] = np.asarray(output_gradients, np.float64).reshape(self._made[-1].shape)
        for number in range(len(self.graph.nodes) - 1, 0, -1):
            node = self.graph.nodes[number]
            given = self._backward(
                node,
                [self._made[i] for i in node.inputs],
                self._made[number],
                self._kept[number],
                found[number],
            )
            for index, gradient in zip(node.inputs, given, strict=True):
                found[index] = found[index] + gradient
        for parameter in self.graph.parameters:
            if parameter.trainable:
                gradient = self._grad[parameter.name].reshape(-1)
                positions = getattr(parameter, "positions", None)
                kept = gradient if positions is None else gradient[positions]
                self.gradients[self._slices[parameter.name]] = kept

    def _forward(self, node, inputs, training):
        x = inputs[0]
        match node:
            case Conv():
                made = sum(
                    _grouped(taken, self._whole[node.kernel.name][r, c], node.groups)
                    for r, c, taken in _taps(_padded(x, node.window.padding), node.window, made_of(node, x))
                )
                return (made if node.bias is None else made + self._whole[node.bias.name]), None
            case BatchNorm():
                return self._normalize(node, x, training)
            case Affine():
                return x * node.scale + node.shift, None
            case Activation():
                return _ACTIVATIONS[node.function][0](x, node.slope), None
            case Add():
                return sum(inputs), None
            case Multiply():
                return x * inputs[1], None
            case Concatenate():
                return np.concatenate(inputs, -1), None
            case GlobalPool(kind="average"):
                return x.mean((1, 2), keepdims=True), None
            case GlobalPool():
                return x.max((1, 2), keepdims=True), None
            case Pad():
                return _padded(x, node.padding), None
            case Pool():
                return _pool(node, x)
            case Dropout():
                return self._drop(node, x, training)

    def _backward(self, node, inputs, made, kept, gradient):
        x = inputs[0]
        match node:
            case Conv():
                return [self._convolution_gradients(node, x, gradient)]
            case BatchNorm():
                return [self._normalization_gradients(node, x, kept, gradient)]
            case Affine():
                return [gradient * node.scale]
            case Activation():
                return [gradient * _ACTIVATIONS[node.function][1](x, made, node.slope)]
            case Add():
                return [gradient] * len(inputs)
            case Multiply():
                second = gradient * x
                if inputs[1].shape != x.shape:
                    second = second.sum((1, 2), keepdims=True)
                return [gradient * inputs[1], second]
            case Concatenate():
                ends = np.cumsum([value.shape[-1] for value in inputs])[:-1]
                return np.split(gradient, ends, -1)
            case GlobalPool(kind="average"):
                return [np.broadcast_to(gradient / (x.shape[1] * x.shape[2]), x.shape)]
            case GlobalPool():
                chosen = x == made
                return [gradient * chosen / chosen.sum((1, 2), keepdims=True)]
            case Pad(padding=padding):
                return [_inner(gradient, padding)]
            case Pool():
                return [_pool_gradient(node, x, made, kept, gradient)]
            case Dropout():
                return [gradient * kept]

    def _convolution_gradients(self, node, x, gradient):
        name, padded = node.kernel.name, _padded(x, node.window.padding)
        back = np.zeros_like(padded)
        size = gradient.shape[1:3]
        for r, c, taken in _taps(padded, node.window, size):
            weights = self._whole[name][r, c]
            self._grad[name][r, c] += _grouped_outer(taken, gradient, node.groups)
            for _, _, place in _taps(back, node.window, size, only=(r, c)):
                place += _grouped_back(gradient, weights, node.groups)
        if node.bias is not None:
            self._grad[node.bias.name] += gradient.sum((0, 1, 2))
        return _inner(back, node.window.padding)

    def _normalize(self, node, x, training):
        moving = self._moving[node.moving_name]
        mean, variance = (np.asarray(part, np.float64) for part in moving)
        batch = training and not node.frozen
        if batch:
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            for part, new in zip(moving, (mean, variance), strict=True):
                part[:] = part * node.momentum + new * (1 - node.momentum)
        deviation = np.sqrt(variance + node.epsilon)
        normal = (x - mean) / deviation
        gamma = 1.0 if node.gamma is None else self._whole[node.gamma.name]
        beta = 0.0 if node.beta is None else self._whole[node.beta.name]
        return normal * gamma + beta, (normal, deviation, batch)

    def _normalization_gradients(self, node, x, kept, gradient):
        normal, deviation, batch = kept
        if node.gamma is not None:
            self._grad[node.gamma.name] += (gradient * normal).sum((0, 1, 2))
            scaled = gradient * self._whole[node.gamma.name]
        else:
            scaled = gradient
        if node.beta is not None:
            self._grad[node.beta.name] += gradient.sum((0, 1, 2))
        if batch:
            axes = (0, 1, 2)
            scaled = scaled - scaled.mean(axes) - normal * (scaled * normal).mean(axes)
        return scaled / deviation

    def _drop(self, node, x, training):
        if not training:
            return x, 1.0
        shape = (len(x), 1, 1, x.shape[3]) if node.whole_channels else x.shape
        shape = (len(x), 1, 1, 1) if node.whole_images else shape
        rng = np.random.default_rng([node.seed, self.step, self.graph.nodes.index(node)])
        kept = (rng.random(shape) >= node.rate) / (1 - node.rate)
        return x * kept, kept


def made_of(node, x):
    """The rows and columns that a window makes of a value."""
    return node.window.positions(Shape(*x.shape[1:]))


def _padded(x, padding, value=0.0):
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def _inner(x, padding):
    top, bottom, left, right = padding
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def _taps(padded, window, size, only=None):
    """Yields each position of a window with the numbers that it sees, `[n, rows, columns, channels]`."""
    for r in range(window.size[0]):
        for c in range(window.size[1]):
            if only is None or only == (r, c):
                top, left = r * window.dilation[0], c * window.dilation[1]
                rows = slice(top, top + (size[0] - 1) * window.strides[0] + 1, window.strides[0])
                columns = slice(left, left + (size[1] - 1) * window.strides[1] + 1, window.strides[1])
                yield r, c, padded[:, rows, columns]


def _split(x, groups):
    return x.reshape(*x.shape[:-1], groups, -1)


def _grouped(x, weights, groups):
    weights = weights.reshape(weights.shape[0], groups, -1)
    return np.einsum("nhwgi,igo->nhwgo", _split(x, groups), weights).reshape(*x.shape[:3], -1)


def _grouped_back(gradient, weights, groups):
    weights = weights.reshape(weights.shape[0], groups, -1)
    return np.einsum("nhwgo,igo->nhwgi", _split(gradient, groups), weights).reshape(*gradient.shape[:3], -1)


def _grouped_outer(x, gradient, groups):
    found = np.einsum("nhwgi,nhwgo->igo", _split(x, groups), _split(gradient, groups))
    return found.reshape(len(found), -1)


def _pool(node, x):
    size = made_of(node, x)
    if node.kind == "max":
        padded = _padded(x, node.window.padding, 0.0 if node.padding_counts else -np.inf)
        return np.max([taken for _, _, taken in _taps(padded, node.window, size)], 0), None
    padded = _padded(x, node.window.padding)
    ones = np.ones_like(padded) if node.padding_counts else _padded(np.ones_like(x), node.window.padding)
    count = sum(taken for _, _, taken in _taps(ones, node.window, size))
    return sum(taken for _, _, taken in _taps(padded, node.window, size)) / count, count


def _pool_gradient(node, x, made, count, gradient):
    """The gradient goes to the first of several maxima."""
    size, window = gradient.shape[1:3], node.window
    if node.kind == "max":
        padded = _padded(x, window.padding, 0.0 if node.padding_counts else -np.inf)
        back, left = np.zeros_like(padded), np.ones(gradient.shape, bool)
        for r, c, taken in _taps(padded, window, size):
            chosen = left & (taken == made)
            left &= ~chosen
            for _, _, place in _taps(back, window, size, only=(r, c)):
                place += gradient * chosen
        return _inner(back, window.padding)
    back = np.zeros_like(_padded(x, window.padding))
    for _, _, place in _taps(back, window, size):
        place += gradient / count
    return _inner(back, window.padding)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _hard(x):
    return np.clip(x / 6 + 0.5, 0, 1)


# Name -> the function of (x, slope), and its derivative of (x, result, slope).
_ACTIVATIONS = {
    "relu": (lambda x, s: np.maximum(x, 0), lambda x, y, s: x > 0),
    "relu6": (lambda x, s: np.clip(x, 0, 6), lambda x, y, s: (x > 0) & (x < 6)),
    "leaky_relu": (lambda x, s: np.where(x > 0, x, s * x), lambda x, y, s: np.where(x > 0, 1, s)),
    "sigmoid": (lambda x, s: _sigmoid(x), lambda x, y, s: y * (1 - y)),
    "tanh": (lambda x, s: np.tanh(x), lambda x, y, s: 1 - y * y),
    "silu": (lambda x, s: x * _sigmoid(x), lambda x, y, s: _sigmoid(x) * (1 + x * (1 - _sigmoid(x)))),
    "hard_sigmoid": (lambda x, s: _hard(x), lambda x, y, s: (np.abs(x) < 3) / 6),
    "hard_silu": (lambda x, s: x * _hard(x), lambda x, y, s: _hard(x) + x * (np.abs(x) < 3) / 6),
}

"""Networks computed in float64 by the definitions, forward and backward."""

import numpy as np

from tfprune.sparse_training.engine import Engine
from tfprune.sparse_training.graph import (
    Activation,
    Add,
    Affine,
    BatchNorm,
    Concatenate,
    Conv,
    Dropout,
    GlobalPool,
    Graph,
    Input,
    Multiply,
    Pad,
    Pool,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "relu": (lambda x, _: np.maximum(x, 0), lambda x, _: x > 0),
    "relu6": (lambda x, _: np.clip(x, 0, 6), lambda x, _: (x > 0) & (x < 6)),
    "leaky_relu": (lambda x, s: np.where(x > 0, x, s * x), lambda x, s: np.where(x > 0, 1, s)),
    "silu": (lambda x, _: x * sigmoid(x), lambda x, _: sigmoid(x) * (1 + x * (1 - sigmoid(x)))),
    "sigmoid": (lambda x, _: sigmoid(x), lambda x, _: sigmoid(x) * (1 - sigmoid(x))),
    "tanh": (lambda x, _: np.tanh(x), lambda x, _: 1 - np.tanh(x) ** 2),
    "hard_silu": (
        lambda x, _: x * np.clip(x + 3, 0, 6) / 6,
        lambda x, _: np.clip(x + 3, 0, 6) / 6 + x * (np.abs(x) < 3) / 6,
    ),
    "hard_sigmoid": (lambda x, _: np.clip(x + 3, 0, 6) / 6, lambda x, _: (np.abs(x) < 3) / 6),
}


class Reference:
    """A network's values and gradients.

    Attributes:
        values: The parameters by name; kernels whole.
        gradients: Their gradients, after `backward`.
        moving: Mean and variance by name.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.values = {p.name: whole(p, p.values) for p in graph.parameters}
        self.moving = {
            node.moving_name: [np.float64(node.moving_mean), np.float64(node.moving_variance)]
            for node in graph.nodes
            if isinstance(node, BatchNorm)
        }

    def forward(self, images, training):
        self.tape, self.training = [], training
        for node in self.graph.nodes:
            given = [self.tape[i] for i in node.inputs]
            self.tape.append(self._forward(node, images if isinstance(node, Input) else given))
        return self.tape[-1]

    def _forward(self, node, x):
        match node:
            case Input():
                return np.float64(x) * node.scale + node.shift
            case Conv():
                bias = self.values[node.bias.name] if node.bias else 0
                return convolve(x[0], self.values[node.kernel.name], node.window, node.groups) + bias
            case BatchNorm():
                mean, variance = self._statistics(node, x[0])
                if self.training and not node.frozen:
                    pair = self.moving[node.moving_name]
                    for i, new in enumerate((mean, variance)):
                        pair[i] = pair[i] * node.momentum + new * (1 - node.momentum)
                gamma = self.values[node.gamma.name] if node.gamma else 1
                beta = self.values[node.beta.name] if node.beta else 0
                return (x[0] - mean) / np.sqrt(variance + node.epsilon) * gamma + beta
            case Affine():
                return x[0] * node.scale + node.shift
            case Activation():
                return ACTIVATIONS[node.function][0](x[0], node.slope)
            case Add():
                return sum(x[1:], x[0])
            case Multiply():
                return x[0] * x[1]
            case Concatenate():
                return np.concatenate(x, -1)
            case Pool():
                return pool(node, x[0])
            case GlobalPool():
                reduce = np.max if node.kind == "max" else np.mean
                return reduce(x[0], (1, 2), keepdims=True)
            case Pad():
                top, bottom, left, right = node.padding
                return np.pad(x[0], ((0, 0), (top, bottom), (left, right), (0, 0)))
            case Dropout():
                return x[0]
        raise TypeError(node)

    def _statistics(self, node, x):
        if self.training and not node.frozen:
            mean = x.mean((0, 1, 2))
            return mean, ((x - mean) ** 2).mean((0, 1, 2))
        mean, variance = self.moving[node.moving_name]
        return mean, variance

    def backward(self, output_gradient):
        nodes = self.graph.nodes
        self.gradients = {name: np.zeros_like(value) for name, value in self.values.items()}
        flow = [np.zeros_like(value) for value in self.tape]
        flow[-1] = flow[-1] + output_gradient
        for index in reversed(range(len(nodes))):
            node = nodes[index]
            x = [self.tape[i] for i in node.inputs]
            if isinstance(node, Input):
                continue
            for source, part in zip(node.inputs, self._backward(node, x, index, flow[index]), strict=True):
                flow[source] = flow[source] + part
        for parameter in self.graph.parameters:
            if not parameter.trainable:
                del self.gradients[parameter.name]

    def _backward(self, node, x, index, d):
        match node:
            case Conv():
                if node.bias:
                    self.gradients[node.bias.name] += d.sum((0, 1, 2))
                kernel = self.values[node.kernel.name]
                dx, dw = convolve_backward(x[0], kernel, node.window, node.groups, d)
                self.gradients[node.kernel.name] += dw
                return [dx]
            case BatchNorm():
                # The moving statistics have moved already; a frozen one's have not.
                mean, variance = self._statistics(node, x[0])
                inverse = 1 / np.sqrt(variance + node.epsilon)
                normal = (x[0] - mean) * inverse
                gamma = self.values[node.gamma.name] if node.gamma else 1
                if node.gamma:
                    self.gradients[node.gamma.name] += (d * normal).sum((0, 1, 2))
                if node.beta:
                    self.gradients[node.beta.name] += d.sum((0, 1, 2))
                if node.frozen:
                    return [d * gamma * inverse]
                centered = d - d.mean((0, 1, 2)) - normal * (d * normal).mean((0, 1, 2))
                return [centered * gamma * inverse]
            case Affine():
                return [d * node.scale]
            case Activation():
                return [d * ACTIVATIONS[node.function][1](x[0], node.slope)]
            case Add():
                return [d] * len(x)
            case Multiply():
                second = d * x[0]
                if x[1].shape != x[0].shape:
                    second = second.sum((1, 2), keepdims=True)
                return [d * x[1], second]
            case Concatenate():
                return np.split(d, np.cumsum([value.shape[-1] for value in x])[:-1], -1)
            case Pool():
                return [pool_backward(node, x[0], self.tape[index], d)]
            case GlobalPool():
                if node.kind == "average":
                    return [np.broadcast_to(d / np.prod(x[0].shape[1:3]), x[0].shape)]
                hit = x[0] == self.tape[index]
                return [d * hit / hit.sum((1, 2), keepdims=True)]
            case Pad():
                top, bottom, left, right = node.padding
                height, width = d.shape[1:3]
                return [d[:, top : height - bottom, left : width - right]]
            case Dropout():
                return [d]
        raise TypeError(node)


def images_of(graph, count, seed=0):
    shape = graph.shapes()[0]
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def close(found, expected, tolerance=2e-4, scale=1e-3):
    scale = max(scale, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)


def check(graph, count=20, batch_size=None, threads=2, tolerance=2e-4):
    """Compares two steps of training and an evaluation with the reference."""
    engine = Engine(graph, batch_size or count, threads)
    reference = Reference(graph)
    images = images_of(graph, count)
    close(engine.forward(images).reshape(-1), reference.forward(images, training=False).reshape(-1))
    for step in range(2):
        images = images_of(graph, count, step)
        outputs = engine.forward(images, training=True)
        expected = reference.forward(images, training=True)
        close(outputs.reshape(-1), expected.reshape(-1), tolerance)
        gradient = np.random.default_rng(step).normal(size=outputs.shape).astype(np.float32)
        engine.backward(gradient)
        reference.backward(gradient.reshape(expected.shape))
        # A bias before a normalization has the gradient zero, but for rounding of its parts.
        largest = max(np.abs(gradient).max() for gradient in reference.gradients.values())
        for parameter in graph.parameters:
            if parameter.trainable:
                found = whole(parameter, engine.gradients[engine.slice_of(parameter.name)])
                wanted = reference.gradients[parameter.name]
                if getattr(parameter, "positions", None) is not None:
                    wanted = wanted * (whole(parameter, np.ones(len(parameter.values))) > 0)
                close(found, wanted, tolerance, largest / 20)
        for name, (mean, variance) in reference.moving.items():
            close(engine.moving(name).mean, mean)
            close(engine.moving(name).variance, variance)
    return engine


def whole(parameter, values):
    """Returns a parameter's numbers as float64, a kernel's with its zeros and shape."""
    if getattr(parameter, "shape", None) is None:
        return np.float64(values)
    full = np.zeros(parameter.size)
    full[slice(None) if parameter.positions is None else parameter.positions] = values
    return full.reshape(parameter.shape)


def windows(x, window, fill=0.0):
    """Yields tap, and the pixels that it meets at each position, as a view of the padded x."""
    rows, columns = window.positions(type("S", (), dict(height=x.shape[1], width=x.shape[2])))
    top, bottom, left, right = window.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    for i in range(window.size[0]):
        for j in range(window.size[1]):
            y, z = i * window.dilation[0], j * window.dilation[1]
            stop = y + (rows - 1) * window.strides[0] + 1, z + (columns - 1) * window.strides[1] + 1
            at = slice(y, stop[0], window.strides[0]), slice(z, stop[1], window.strides[1])
            yield (i, j), (slice(None), *at), padded


def convolve(x, kernel, window, groups):
    total = 0.0
    for (i, j), at, padded in windows(x, window):
        parts = np.split(padded[at], groups, -1)
        weights = np.split(kernel[i, j], groups, -1)
        total = total + np.concatenate([a @ b for a, b in zip(parts, weights, strict=True)], -1)
    return total


def convolve_backward(x, kernel, window, groups, d):
    dw = np.zeros_like(kernel)
    dx = None
    for (i, j), at, padded in windows(x, window):
        dx = np.zeros_like(padded) if dx is None else dx
        parts, outs = np.split(padded[at], groups, -1), np.split(d, groups, -1)
        weights = np.split(kernel[i, j], groups, -1)
        dw[i, j] = np.concatenate(
            [np.einsum("nyxi,nyxo->io", a, b) for a, b in zip(parts, outs, strict=True)], -1
        )
        dx[at] += np.concatenate([b @ w.T for b, w in zip(outs, weights, strict=True)], -1)
    return unpadded(dx, window), dw


def unpadded(x, window):
    top, bottom, left, right = window.padding
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def counts(node, x):
    """Returns the numbers that an average at each position is divided by."""
    if node.padding_counts:
        return np.prod(node.window.size)
    ones = np.ones((1, *x.shape[1:3], 1))
    return sum(padded[at] for _, at, padded in windows(ones, node.window))


def pool(node, x):
    if node.kind == "average":
        return sum(padded[at] for _, at, padded in windows(x, node.window)) / counts(node, x)
    fill = 0.0 if node.padding_counts else -np.inf
    return np.max([padded[at] for _, at, padded in windows(x, node.window, fill)], 0)


def pool_backward(node, x, y, d):
    dx, left = None, np.ones(y.shape, bool)
    for _, at, padded in windows(x, node.window, 0.0 if node.padding_counts else -np.inf):
        dx = np.zeros_like(padded) if dx is None else dx
        if node.kind == "average":
            dx[at] += d / counts(node, x)
            continue
        hit = left & (padded[at] == y)
        dx[at] += d * hit
        left &= ~hit
    return unpadded(dx, node.window)

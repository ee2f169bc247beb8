"""Networks to train, made node by node."""

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
    Graph,
    Input,
    Kernel,
    Multiply,
    Pad,
    Pool,
    Shape,
    Vector,
    Window,
)


class Builder:
    """Adds nodes; each method returns the index of its node."""

    def __init__(self, shape, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes = []
        channels = shape[-1]
        scale, shift = self.rng.uniform(0.5, 2, channels), self.rng.normal(size=channels)
        self.add(Input, (), shape=Shape(*shape), scale=np.float32(scale), shift=np.float32(shift))

    @property
    def graph(self):
        return Graph(tuple(self.nodes))

    def add(self, node, inputs, **fields):
        name = f"{node.__name__.lower()}{len(self.nodes)}"
        self.nodes.append(node(name=name, inputs=tuple(inputs), **fields))
        return len(self.nodes) - 1

    def shape(self, index):
        return Graph(tuple(self.nodes)).shapes()[index]

    def vector(self, name, channels, trainable=True, around=0.0):
        values = np.float32(around + self.rng.normal(size=channels) / 3)
        return Vector(f"{name}{len(self.nodes)}", values, trainable)

    def kernel(self, shape, density=1.0, trainable=True):
        size = int(np.prod(shape))
        positions = None
        if density < 1:
            positions = np.sort(self.rng.choice(size, max(1, round(density * size)), replace=False))
        kept = size if positions is None else len(positions)
        scale = 1.5 / np.sqrt(max(1, kept / shape[3]))
        values = np.float32(self.rng.normal(size=kept) * scale)
        return Kernel(f"kernel{len(self.nodes)}", shape, values, positions, trainable)

    def conv(
        self,
        x,
        outputs,
        size=3,
        strides=1,
        padding=None,
        density=1.0,
        bias=False,
        trainable=True,
        groups=1,
        dilation=1,
    ):
        channels = self.shape(x).channels
        if padding is None:
            padding = (size // 2,) * 4
        return self.add(
            Conv,
            (x,),
            kernel=self.kernel((size, size, channels // groups, outputs), density, trainable),
            bias=self.vector("bias", outputs, trainable) if bias else None,
            window=Window((size, size), (strides, strides), padding, (dilation, dilation)),
            groups=groups,
        )

    def dense(self, x, outputs, density=1.0, bias=True, trainable=True):
        height, width, channels = self.shape(x)
        return self.add(
            Conv,
            (x,),
            kernel=self.kernel((height, width, channels, outputs), density, trainable),
            bias=self.vector("bias", outputs, trainable) if bias else None,
            window=Window((height, width)),
        )

    def norm(self, x, frozen=False, trainable=True, gamma=True, beta=True):
        channels = self.shape(x).channels
        return self.add(
            BatchNorm,
            (x,),
            gamma=self.vector("gamma", channels, trainable, 1.0) if gamma else None,
            beta=self.vector("beta", channels, trainable) if beta else None,
            moving_name=f"moving{len(self.nodes)}",
            moving_mean=np.float32(self.rng.normal(size=channels) / 3),
            moving_variance=np.float32(self.rng.uniform(0.5, 2, channels)),
            epsilon=1e-3,
            momentum=0.9,
            frozen=frozen,
        )

    def affine(self, x):
        channels = self.shape(x).channels
        scale, shift = self.rng.uniform(-2, 2, channels), self.rng.normal(size=channels)
        return self.add(Affine, (x,), scale=np.float32(scale), shift=np.float32(shift))

    def activation(self, x, function="relu", slope=0.2):
        return self.add(Activation, (x,), function=function, slope=slope)

    def sum(self, *values):
        return self.add(Add, values)

    def product(self, x, y):
        return self.add(Multiply, (x, y))

    def concatenate(self, *values):
        return self.add(Concatenate, values)

    def pool(self, x, kind="max", size=2, strides=2, padding=(0, 0, 0, 0), counts=False):
        window = Window((size, size), (strides, strides), padding)
        return self.add(Pool, (x,), kind=kind, window=window, padding_counts=counts)

    def global_pool(self, x, kind="average"):
        return self.add(GlobalPool, (x,), kind=kind)

    def pad(self, x, padding):
        return self.add(Pad, (x,), padding=padding)

    def dropout(self, x, rate=0.5, whole_channels=False, seed=1):
        return self.add(Dropout, (x,), rate=rate, whole_channels=whole_channels, seed=seed)


def resnet(width=8, side=8, blocks=(1, 1), density=0.5, classes=5, seed=0):
    """Returns a ResNet of basic blocks with a stem of 3x3."""
    b = Builder((side, side, 3), seed)
    x = b.activation(b.norm(b.conv(0, width)))
    for stage, count in enumerate(blocks):
        for block in range(count):
            strides = 2 if stage and not block else 1
            outputs = width * 2**stage
            y = b.activation(b.norm(b.conv(x, outputs, strides=strides, density=density)))
            y = b.norm(b.conv(y, outputs, density=density))
            if strides > 1 or b.shape(x).channels != outputs:
                x = b.norm(b.conv(x, outputs, size=1, strides=strides))
            x = b.activation(b.sum(y, x))
    b.dense(b.global_pool(x), classes)
    return b.graph

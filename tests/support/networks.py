"""Small random networks that hold every kind of node."""

import numpy as np

from tfprune.runtime.graph import (
    ACROSS_CHANNELS,
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
    Output,
    Pool,
    Quantize,
    Recurrent,
    Shape,
)

# Those of version 1 of the file format, and all that are continuous and make no value much larger.
_FIRST = tuple(ACTIVATIONS)[:11]
_WILD = ("exponential", "hard_shrink", "log", "nonzero", "reciprocal", "rsqrt", "sqrt", "square", "threshold")
ELEMENTWISE = tuple(name for name in ACTIVATIONS if name not in (*ACROSS_CHANNELS, *_WILD))


def random_kernel(rng: np.random.Generator, shape: tuple[int, int, int, int], sparsity: float) -> np.ndarray:
    """Normal weights, each zero with probability `sparsity`, scaled so that values keep their size."""
    kept = rng.random(shape) >= sparsity
    scale = 1 / np.sqrt(max(1.0, np.prod(shape[:3]) * (1 - sparsity)))
    return (rng.normal(0.0, scale, shape) * kept).astype(np.float32)


def random_images(rng: np.random.Generator, graph: Graph, count: int, dtype: str = "float32") -> np.ndarray:
    """`count` images of the graph's size, values 0 to 255."""
    shape = (count, *graph.nodes[0].shape)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.uniform(0, 255, shape).astype(dtype)


def random_network(
    rng: np.random.Generator,
    extra: int = 4,
    sparsity: float | None = None,
    largest: int = 9,
    version: int = 2,
) -> Graph:
    """A valid graph with at least one node of every kind, and a vector of 2 to 6 classes at its end.

    Args:
        rng: Source of all choices.
        extra: Random operations besides one of each kind.
        sparsity: Of every kernel; `None`: another one for each.
        largest: The largest height and width of the image.
        version: That of a file that may hold it, or a later one. From 3 on some values have 8 bits, and their
            rounding, which is not continuous, makes results of other orders of summation differ.
    """
    return _Builder(rng, sparsity, largest, version).build(extra)


def several_ends(rng: np.random.Generator) -> Graph:
    """A graph of an image and a signal, with a vector, a signal and an image as its outputs."""
    ones = np.ones(3, np.float32)
    nodes = (
        Input("image", (), (5, 6, 3), ones, 0 * ones),
        Input("signal", (), (1, 6, 3), ones, 0 * ones, (6, 3)),
        Gather("rows", (1,), (0,) * 5, tuple(range(0, 18, 3)), (0, 1, 2)),
        Combine("larger", (0, 2), "maximum"),
        Conv(
            "conv", (3,), random_kernel(rng, (3, 3, 3, 4), 0.5), np.ones(4, np.float32), padding=(1, 1, 1, 1)
        ),
        Activation("shares", (4,), "softmax"),
        Flatten("flat image", (5,)),
        GlobalPool("kind", (4,), "max"),
        Flatten("flat signal", (1,)),
    )
    outputs = (Output("kind", 7, (4,)), Output("signal", 8, (6, 3)), Output("shares", 6, (5, 6, 4)))
    return Graph(nodes, outputs)


class _Builder:
    def __init__(self, rng: np.random.Generator, sparsity: float | None, largest: int, version: int):
        self.rng = rng
        self.version = version
        if version > 1:  # A few: each is code to compile, in each kind of kernel.
            self.functions = [str(name) for name in rng.choice(ELEMENTWISE, 5, replace=False)]
        self.sparsity = sparsity
        channels = self.pick(1, 4)
        self.nodes: list[Node] = []
        self.shapes: list[Shape] = []
        self.append(
            Input(
                "image",
                (),
                (self.pick(4, largest), self.pick(4, largest), channels),
                rng.uniform(0.004, 0.02, channels).astype(np.float32),
                rng.uniform(-1, 0, channels).astype(np.float32),
            )
        )

    def build(self, extra: int) -> Graph:
        kinds = [self.conv, self.residual, self.grouped, self.depthwise, self.pool, self.add, self.multiply]
        kinds += [self.scale, self.concatenate, self.activation]
        if self.version > 1:
            kinds += [
                self.combine,
                self.gather,
                self.joined,
                self.constant,
                self.normalize,
                self.shares,
                self.matmul,
                self.recurrent,
                self.embedding,
            ]
        if self.version > 2:
            kinds += [self.eight_bits, self.eight_bits]
        kinds += [kinds[self.rng.integers(len(kinds))] for _ in range(extra)]
        for index in self.rng.permutation(len(kinds)):
            kinds[index]()
        # One head on the global pool of one value and the flattened other: both kinds of vector.
        pooled = self.append(GlobalPool("head_pool", (self.any(),), self.choice("max", "average")))
        flat = self.append(Flatten("head_flatten", (len(self.nodes) - 2,)))
        vector = self.append(Concatenate("head_concatenate", (pooled, flat)))
        classes = self.pick(2, 6)
        self.append(
            Conv(
                "head",
                (vector,),
                self.kernel(1, 1, self.shapes[vector][2], classes),
                self.bias(classes),
                activation=self.choice("linear", "softmax"),
                path="dense",
            )
        )
        graph = Graph(tuple(self.nodes))
        graph.shapes()
        return graph

    def append(self, node: Node) -> int:
        self.nodes.append(node)
        self.shapes.append(node.output_shape([self.shapes[source] for source in node.inputs]))
        return len(self.nodes) - 1

    def pick(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def choice(self, *options):
        return options[self.rng.integers(len(options))]

    def any(self) -> int:
        """A value; the newest more often than the others."""
        return len(self.nodes) - 1 if self.rng.random() < 0.6 else self.pick(0, len(self.nodes) - 1)

    def like(self, source: int, axes: int = 3) -> int:
        """A value of the shape of another, perhaps itself, in its first axes."""
        shape = self.shapes[source][:axes]
        return int(self.rng.choice([i for i, other in enumerate(self.shapes) if other[:axes] == shape]))

    def name(self, kind: str) -> str:
        return f"{kind}_{len(self.nodes)}"

    def kernel(self, *shape: int) -> np.ndarray:
        sparsity = self.choice(0.0, 0.5, 0.9, 1.0) if self.sparsity is None else self.sparsity
        return random_kernel(self.rng, shape, sparsity)

    def bias(self, filters: int) -> np.ndarray:
        return self.rng.normal(0, 0.5, filters).astype(np.float32)

    def function(self) -> dict:
        """An activation, and settings that it may have."""
        if self.version == 1:
            return {"activation": self.choice(*_FIRST)}
        name = self.choice(*self.functions)
        settings = tuple(float(number) for number in self.rng.uniform(0.1, 1.5, len(ACTIVATIONS[name])))
        if name == "general_relu":
            settings = (settings[0], 2 * settings[1], 0.0)
        elif name == "clip":
            settings = (-settings[0], settings[1])
        return {"activation": name, "settings": settings if self.pick(0, 1) else ()}

    def window(self, source: int, largest: int) -> dict:
        """A random window that fits a value: its size, strides and padding."""
        height, width, _ = self.shapes[source]
        size = (self.pick(1, min(largest, height)), self.pick(1, min(largest, width)))
        # Strides shrink what there is: only while there is enough.
        strides = (self.pick(1, 2) if height > 4 else 1, self.pick(1, 2) if width > 4 else 1)
        padding = (*self.around(size[0]), *self.around(size[1]))
        return {"size": size, "strides": strides, "padding": padding}

    def around(self, size: int) -> tuple[int, int]:
        return (self.pick(0, size - 1), self.pick(0, size - 1))

    def any_conv(self, source: int, groups: int, filters: int) -> None:
        window = self.window(source, 3)
        rows, columns = window.pop("size")
        height, width, channels = self.shapes[source]
        top, bottom, left, right = window["padding"]
        # The widest dilation that still fits, up to 2.
        dilation = (
            2 if (rows - 1) * 2 < height + top + bottom and self.pick(0, 2) == 0 else 1,
            2 if (columns - 1) * 2 < width + left + right and self.pick(0, 2) == 0 else 1,
        )
        self.append(
            Conv(
                self.name("conv"),
                (source,),
                self.kernel(rows, columns, channels // groups, filters),
                self.bias(filters),
                dilation=dilation,
                groups=groups,
                **self.function(),
                path=self.choice("sparse", "dense"),
                costs={"sparse": float(self.pick(1, 99)), "dense": 2.5} if self.pick(0, 1) else {},
                **window,
            )
        )

    def conv(self) -> None:
        self.any_conv(self.any(), 1, self.pick(1, 9))

    def grouped(self) -> None:
        source = self.any()
        channels = self.shapes[source][2]
        groups = self.choice(*(g for g in range(1, channels + 1) if channels % g == 0))
        self.any_conv(source, groups, groups * self.pick(1, 3))

    def depthwise(self) -> None:
        source = self.any()
        self.any_conv(source, self.shapes[source][2], self.shapes[source][2] * self.pick(1, 2))

    def residual(self) -> None:
        source = self.any()
        residual = self.like(source, 2)
        size = self.choice(1, 3)
        filters = self.shapes[residual][2]
        self.append(
            Conv(
                self.name("residual"),
                (source, residual),
                self.kernel(size, size, self.shapes[source][2], filters),
                self.bias(filters),
                padding=(size // 2,) * 4,
                **self.function(),
                path=self.choice("sparse", "dense"),
            )
        )

    def eight_bits(self) -> None:
        """Convolutions of whole numbers, one behind another, the last with a residual; and their sum."""
        source = self.any()
        if self.shapes[source][:2] == (1, 1):
            source = 0
        steps = self.append(Quantize(self.name("steps"), (source,), 1 / 64))
        for activation in ("relu", "relu6"):
            channels = self.shapes[steps][2]
            groups = self.choice(*(g for g in range(1, channels + 1) if channels % g == 0))
            filters = groups * self.pick(1, 3)
            size, stride = self.pick(1, 3), 2 if min(self.shapes[steps][:2]) > 4 and self.pick(0, 1) else 1
            kernel, bias = self.kernel(size, size, channels // groups, filters), self.bias(filters)
            options = {
                "groups": groups,
                "padding": (size // 2,) * 4,
                "strides": (stride, stride),
                "path": "int8",
            }
            conv = Conv(self.name("whole"), (steps,), kernel, bias, activation=activation, **options)
            steps = self.append(Quantize(self.name("steps"), (self.append(conv),), 1 / 32))
        channels = self.shapes[steps][2]
        kernel, bias = self.kernel(1, 1, channels, channels), self.bias(channels)
        residual = self.choice(steps, steps - 1)
        self.append(Conv(self.name("whole"), (steps, residual), kernel, bias, path="int8", **self.function()))
        if self.pick(0, 1):
            self.append(Add(self.name("add"), (steps, len(self.nodes) - 1)))

    def pool(self) -> None:
        source = self.any()
        kind = self.choice("max", "average")
        self.append(
            Pool(
                self.name("pool"),
                (source,),
                kind,
                padding_counts=bool(self.pick(0, 1)),
                **self.window(source, 3),
            )
        )

    def add(self) -> None:
        source = self.any()
        sources = (source, *(self.like(source) for _ in range(self.pick(1, 2))))
        self.append(Add(self.name("add"), sources, **self.function()))

    def multiply(self) -> None:
        # A factor of at most 1: products of products would leave float32's range.
        source = self.any()
        factor = self.append(Activation(self.name("factor"), (self.like(source),), "tanh"))
        self.append(Multiply(self.name("multiply"), (source, factor)))

    def scale(self) -> None:
        source = self.any()
        pooled = self.append(GlobalPool(self.name("squeeze"), (source,), self.choice("max", "average")))
        gate = self.append(Activation(self.name("gate"), (pooled,), self.choice("sigmoid", "softmax")))
        self.append(Multiply(self.name("scale"), (source, gate)))

    def concatenate(self) -> None:
        source = self.any()
        sources = (source, *(self.like(source, 2) for _ in range(self.pick(1, 2))))
        if sum(self.shapes[i][2] for i in sources) <= 40:
            self.append(Concatenate(self.name("concatenate"), sources))

    def combine(self) -> None:
        """With another value of the shape, a number for each channel, for each pixel, or for all."""
        source = self.any()
        channels = self.shapes[source][2]
        kind = self.choice("same", "channel", "pixel", "one")
        if kind == "same":
            other = self.like(source)
        elif kind == "pixel":
            plane = self.kernel(1, 1, channels, 1)
            other = self.append(Conv(self.name("plane"), (source,), plane, self.bias(1)))
        else:
            vector = self.append(GlobalPool(self.name("vector"), (source,), "average"))
            weights = self.kernel(1, 1, channels, channels if kind == "channel" else 1)
            bias = self.bias(weights.shape[3])
            other = self.append(Conv(self.name("numbers"), (vector,), weights, bias))
        other = self.append(Activation(self.name("bounded"), (other,), "tanh"))
        operation = self.choice("add", "multiply", "maximum", "minimum")
        self.append(Combine(self.name("combine"), (source, other), operation))

    def gather(self) -> None:
        """Some of the rows, columns and channels, in any order; perhaps with the axes permuted."""
        source = self.any()
        shape = self.shapes[source]
        steps = (shape[1] * shape[2], shape[2], 1)
        axes = self.choice((0, 1, 2), (0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 1, 0))
        places = []
        for axis in axes:
            most = min(2 * shape[axis], 24)
            indices = self.choice(
                np.arange(shape[axis]),
                np.arange(shape[axis])[::-1],
                np.arange(self.pick(1, shape[axis])),
                self.rng.integers(shape[axis], size=self.pick(1, most)),
            )
            places.append(tuple(int(index) * steps[axis] for index in indices))
        if np.prod([len(axis) for axis in places]) <= 4000:
            self.append(Gather(self.name("gather"), (source,), *places))

    def joined(self) -> None:
        """Two values one below the other, or one beside the other."""
        source = self.any()
        axis = self.pick(0, 1)
        shape = list(self.shapes[source])
        if np.prod(shape) <= 2000:
            self.append(Concatenate(self.name("joined"), (source, self.like(source)), axis))

    def constant(self) -> None:
        source = self.any()
        values = self.rng.normal(size=self.shapes[source]).astype(np.float32)
        constant = self.append(Constant(self.name("constant"), (), values))
        self.append(Add(self.name("add"), (source, constant), **self.function()))

    def normalize(self) -> None:
        source = self.any()
        channels = self.shapes[source][2]
        groups = self.choice(*(g for g in range(1, channels + 1) if channels % g == 0))
        over = self.choice("pixel", "image")
        scale = self.rng.uniform(0.5, 1.5, channels).astype(np.float32)
        options = {"epsilon": 0.1, "scale": scale, "shift": self.bias(channels)}
        self.append(Normalize(self.name("norm"), (source,), over, groups, bool(self.pick(0, 1)), **options))

    def matmul(self) -> None:
        """With itself or another value of the height and channels, of bounded numbers."""
        source = self.any()
        shape = self.shapes[source]
        found = [i for i, other in enumerate(self.shapes) if (other[0], other[2]) == (shape[0], shape[2])]
        other = self.append(Activation(self.name("bounded"), (int(self.rng.choice(found)),), "tanh"))
        if self.shapes[other][1] * shape[0] * shape[1] <= 4000:
            self.append(MatMul(self.name("matmul"), (source, other)))

    def recurrent(self) -> None:
        """Along the rows of a value, or its pixels; its states are bounded."""
        source = self.any()
        height, width, channels = self.shapes[source]
        if height > 1:
            rows = self.pick(0, height - 1) * width * channels
            source = self.append(
                Gather(
                    self.name("row"),
                    (source,),
                    (rows,),
                    tuple(range(0, width * channels, channels)),
                    tuple(range(channels)),
                )
            )
        cell, units = self.choice(*CELLS), self.pick(1, 20)
        width = len(CELLS[cell]) * units
        bounded = self.append(Activation(self.name("bounded"), (source,), "tanh"))
        signal = Conv(self.name("signal"), (bounded,), self.kernel(1, 1, channels, width), self.bias(width))
        inputs = (self.append(signal),)
        if self.pick(0, 1):
            flat = self.append(GlobalPool(self.name("first"), (source,), "average"))
            for _ in range(2 if cell == "lstm" else 1):
                weights = self.kernel(1, 1, channels, units)
                state = Conv(self.name("state"), (flat,), weights, self.bias(units), activation="tanh")
                inputs = (*inputs, self.append(state))
        masked = bool(self.pick(0, 1))
        if masked:
            inputs = (*inputs, self.mask(inputs[0]))
        made = self.append(
            Recurrent(
                self.name("recurrent"),
                inputs,
                cell,
                self.kernel(1, 1, units, width),
                self.bias(width),
                self.choice("tanh", "silu", "leaky_relu"),
                self.choice("sigmoid", "hard_sigmoid"),
                memory=cell == "lstm" and bool(self.pick(0, 1)),
                path=self.choice("sparse", "dense"),
                masked=masked,
            )
        )
        # As many channels as before, for what comes next.
        channels, back = self.shapes[made][2], self.pick(1, 4)
        self.append(Conv(self.name("back"), (made,), self.kernel(1, 1, channels, back), self.bias(back)))

    def mask(self, signal: int) -> int:
        """A vector of a number for each column of a signal, some of them zeros."""
        _, columns, channels = self.shapes[signal]
        steps = tuple(range(0, columns * channels, channels))
        first = self.append(Gather(self.name("steps"), (signal,), (0,), (0,), steps))
        above = self.append(Activation(self.name("above"), (first,), "sigmoid"))
        some = self.rng.integers(2, size=(1, 1, columns)).astype(np.float32)
        some = self.append(Constant(self.name("some"), (), some))
        product = self.append(Multiply(self.name("product"), (above, some)))
        return self.append(Activation(self.name("mask"), (product,), "nonzero"))

    def shares(self) -> None:
        activation = self.choice("softmax", "log_softmax")
        self.append(Activation(self.name("shares"), (self.any(),), activation))

    def embedding(self) -> None:
        """Of what some of a value's numbers name."""
        source = self.any()
        flat = self.append(Flatten(self.name("flat"), (source,)))
        places = self.rng.integers(self.shapes[flat][2], size=self.pick(1, 9)).tolist()
        some = self.append(Gather(self.name("some"), (flat,), (0,), (0,), tuple(places)))
        bounded = self.append(Activation(self.name("bounded"), (some,), "hard_sigmoid"))
        rows, count = self.pick(3, 9), len(places)
        # 0 and 1, where a hard sigmoid ends, are not near a whole number.
        kernel = (np.eye(count)[None, None] * (rows - 1.5)).astype(np.float32)
        bias = np.full(count, 0.25, np.float32)
        numbers = self.append(Conv(self.name("numbers"), (bounded,), kernel, bias))
        self.append(Embedding(self.name("embedding"), (numbers,), self.kernel(1, 1, rows, self.pick(1, 5))))

    def activation(self) -> None:
        self.append(Activation(self.name("activation"), (self.any(),), **self.function()))

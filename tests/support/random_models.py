"""Random functional models of small tensors, of all that takes channels, hands them on or joins them.

A model grows step by step: each takes tensors that are there and adds others. What a step may do
depends on the shapes alone, so that every choice makes a model.
"""

import keras
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from keras import layers, ops

from tests.support import masked_twin

# There a part takes no negative step, and Keras's layer normalisation the last axis alone.
_ON_TORCH = keras.backend.backend() == "torch"


def examples(count, on_jax=None):
    """Returns the settings of a test that tries the same random models in each run.

    Args:
        count: How many.
        on_jax: How many on JAX, which compiles each operation of each model.
    """
    return settings(
        max_examples=on_jax if on_jax and keras.backend.backend() == "jax" else count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def models(draw, steps=10, channels_first=False, branches=False):
    """Draws a model, with random weights; with `branches`, every second step is one that ends in a join."""
    return Growing(draw, channels_first, branches).model(draw(st.integers(2, steps)))


class Growing:
    """A model that is being made.

    Args:
        draw: Draws from a strategy.
        channels_first: Whether images may have their channels first.
        branches: Whether every second step is a branch.
    """

    def __init__(self, draw, channels_first=False, branches=False):
        self._draw, self._branches = draw, branches
        self.first = channels_first and self.yes()
        self.format = {"data_format": "channels_first" if self.first else "channels_last"}
        self.axis = 1 if self.first else -1

    def model(self, steps):
        keras.utils.clear_session(free_memory=False)
        self.inputs = [self._input() for _ in range(self.number(1, 2))]
        self.tensors = [*self.inputs, *((conv if len(x.shape) > 3 else dense)(self, x) for x in self.inputs)]
        for _ in range(steps):
            self._step()
        outputs = [self._head(self.pick(self.tensors[-3:])) for _ in range(self.number(1, 2))]
        model = keras.Model(self.inputs, outputs)
        masked_twin.randomize(model, self.number(0, 99))
        return model

    def number(self, least, most):
        return self._draw(st.integers(least, most))

    def yes(self):
        return self._draw(st.booleans())

    def pick(self, some):
        some = list(some)
        return some[self.number(0, len(some) - 1)]

    def order(self, some):
        return self._draw(st.permutations(list(some)))

    def _input(self):
        kind = self.pick(("image", "image", "sequence", "vector"))
        size, channels = self.number(3, 6), self.number(1, 4)
        if kind == "image":
            return keras.Input((channels, size, size) if self.first else (size, size, channels))
        return keras.Input((size, channels) if kind == "sequence" else (channels + 2,))

    def _step(self):
        x = self.pick(self.tensors[-4:])
        rank = len(x.shape)
        here = _ANY + {2: _VECTORS, 3: _SEQUENCES, 4: _IMAGES}.get(rank, [])
        step = branch if self._branches and rank < 5 and self.yes() else self.pick(here)
        made = step(self, x)
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            sizes = tensor.shape[1:]
            whole = tensor.shape[0] is None and 1 <= len(sizes) <= 4 and None not in sizes
            if whole and 0 < np.prod(sizes) <= 2000:
                self.tensors.append(tensor)

    def _head(self, x):
        """Ends in a layer that takes channels, mostly, so that some may go."""
        if len(x.shape) > 2:
            x = self.pick(
                (lambda x: layers.Flatten()(x), lambda x: ops.mean(x, tuple(range(1, len(x.shape) - 1))))
            )(x)
        return layers.Dense(3)(x) if self.number(0, 4) else x

    def like(self, x, same=()):
        """Returns a tensor that has the shape of another, but for some axes."""

        def fits(y):
            return len(y.shape) == len(x.shape) and all(
                one == other
                for axis, (one, other) in enumerate(zip(x.shape, y.shape, strict=True))
                if axis not in same
            )

        return self.pick([y for y in self.tensors if fits(y)])


def _kernel(g, x):
    space = x.shape[2:] if g.first else x.shape[1:-1]
    return g.number(1, min(3, *space))


_ACTIVATIONS = (None, "relu", "sigmoid", "softplus", "tanh", "gelu", "hard_sigmoid", "elu")


def conv(g, x, filters=None):
    channels = x.shape[g.axis] if len(x.shape) == 4 else x.shape[-1]
    form = g.format if len(x.shape) == 4 else {}
    cls = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    groups = g.pick([n for n in (1, 1, 2, 3, 4) if channels % n == 0])
    stride = g.number(1, 2)
    return cls(
        filters or groups * g.number(1, 5),
        _kernel(g, x) if len(x.shape) == 4 else g.number(1, 3),
        padding="same",
        strides=stride if filters is None else 1,
        dilation_rate=g.number(1, 2) if stride == 1 else 1,
        groups=groups if filters is None else 1,
        use_bias=g.yes(),
        activation=g.pick(_ACTIVATIONS),
        **form,
    )(x)


def valid(g, x):
    return layers.Conv2D(g.number(1, 5), _kernel(g, x), **g.format)(x)


def transposed(g, x):
    if len(x.shape) == 3:
        return layers.Conv1DTranspose(g.number(1, 5), g.number(1, 3), strides=g.number(1, 2))(x)
    return layers.Conv2DTranspose(
        g.number(1, 5), _kernel(g, x), strides=g.number(1, 2), padding="same", **g.format
    )(x)


def depthwise(g, x):
    image = len(x.shape) == 4
    cls = layers.DepthwiseConv2D if image else layers.DepthwiseConv1D
    return cls(
        _kernel(g, x) if image else 2,
        padding="same",
        depth_multiplier=g.number(1, 2),
        activation=g.pick(_ACTIVATIONS),
        use_bias=g.yes(),
        **(g.format if image else {}),
    )(x)


def separable(g, x):
    image = len(x.shape) == 4
    cls = layers.SeparableConv2D if image else layers.SeparableConv1D
    return cls(
        g.number(1, 5),
        _kernel(g, x) if image else 2,
        padding="same",
        depth_multiplier=g.number(1, 2),
        **(g.format if image else {}),
    )(x)


def pool(g, x):
    name = g.pick(("Max", "Average"))
    if len(x.shape) == 3:
        return getattr(layers, f"{name}Pooling1D")(2, padding="same")(x)
    return getattr(layers, f"{name}Pooling2D")(2, padding="same", **g.format)(x)


def pad_or_crop(g, x):
    small = min(x.shape[2:] if g.first else x.shape[1:-1])
    kinds = [layers.ZeroPadding2D, layers.UpSampling2D] + ([layers.Cropping2D] if small > 2 else [])
    cls = g.pick(kinds)
    return cls(2 if cls is layers.UpSampling2D else 1, **g.format)(x)


def global_pool(g, x):
    name = g.pick(("Max", "Average"))
    if len(x.shape) == 3:
        return getattr(layers, f"Global{name}Pooling1D")(keepdims=g.yes())(x)
    return getattr(layers, f"Global{name}Pooling2D")(keepdims=g.yes(), **g.format)(x)


def norm(g, x):
    axis = g.axis if len(x.shape) == 4 else -1
    kind = g.pick(("batch", "batch", "layer", "group", "rms", "unit"))
    if kind == "batch":
        return layers.BatchNormalization(axis=axis, scale=g.yes(), center=g.yes())(x)
    if kind == "layer":
        axis = -1 if _ON_TORCH else axis
        return layers.LayerNormalization(axis=axis, scale=g.yes(), center=g.yes(), epsilon=0.1)(x)
    if kind == "rms":
        return layers.RMSNormalization(axis=axis, epsilon=0.1)(x)
    if kind == "unit":
        return layers.UnitNormalization(axis=axis)(x + 0.5)
    groups = g.pick([n for n in (1, 2, 3, 4, -1) if x.shape[axis] % n == 0])
    return layers.GroupNormalization(groups, axis=axis, scale=g.yes(), center=g.yes(), epsilon=0.1)(x)


def activation(g, x):
    return g.pick(
        (
            layers.ReLU(),
            layers.Activation("sigmoid"),
            layers.Activation("softplus"),
            layers.LeakyReLU(),
            layers.Dropout(0.5),
            layers.PReLU(shared_axes=tuple(range(1, len(x.shape) - 1)) or None),
            layers.PReLU(),
            layers.Softmax(axis=g.pick(range(1, len(x.shape)))),
            ops.tanh,
            ops.silu,
            ops.sigmoid,
            ops.abs,
            ops.square if np.prod(x.shape[1:]) < 50 else ops.relu,
            ops.cos,
            lambda x: ops.softmax(x, axis=-1),
            lambda x: ops.log_softmax(x, axis=-1),
            lambda x: ops.glu(x, axis=-1) if x.shape[-1] % 2 == 0 else x,
            lambda x: ops.leaky_relu(x, 0.3),
        )
    )(x)


def squeeze_and_excitation(g, x):
    y = layers.GlobalAveragePooling2D(keepdims=True, **g.format)(x)
    y = layers.Conv2D(g.number(1, 3), 1, activation="relu", **g.format)(y)
    y = layers.Conv2D(x.shape[g.axis], 1, activation=g.pick(("sigmoid", "hard_sigmoid")), **g.format)(y)
    return layers.Multiply()([x, y]) if g.yes() else x * y


def residual(g, x):
    y = norm(g, conv(g, x, x.shape[g.axis] if len(x.shape) == 4 else x.shape[-1]))
    return layers.Add()([x, y]) if g.yes() else x + y


def branch(g, x):
    """Joins a tensor with what layers make of it: a residual connection, a gate, a few more channels."""
    rank = len(x.shape)
    axis = g.axis if rank == 4 else -1

    def made(y, channels):
        return layers.Dense(channels, use_bias=g.yes())(y) if rank == 2 else conv(g, y, channels)

    y = x
    if rank > 2 and g.number(0, 3) == 0:
        y = ops.mean(y, tuple(a for a in range(1, rank) if a != axis % rank), keepdims=True)
    for channels in ([g.number(1, 4)] if g.yes() else []) + [x.shape[axis]]:
        y = made(y, channels)
        y = layers.BatchNormalization(axis=axis)(y) if g.yes() else y
    others = g.pick(([x, y], [y, x], [x, y, y]))
    kind = g.pick(("Add", "Multiply", "Subtract", "Concatenate", "ops"))
    if kind == "Concatenate" and x.shape == y.shape:
        return layers.Concatenate(axis=axis)(others)
    if kind == "ops":
        return g.pick((ops.add, ops.multiply, ops.subtract))(*others[:2])
    kind = "Add" if kind == "Concatenate" else kind
    return getattr(layers, kind)()(others[:2] if kind == "Subtract" else others)


def dense(g, x):
    return layers.Dense(g.number(1, 5), use_bias=g.yes(), activation=g.pick(_ACTIVATIONS))(x)


def einsum(g, x):
    if len(x.shape) == 2:
        return layers.EinsumDense(
            "ab,bcd->acd", (g.number(1, 3), g.number(1, 3)), bias_axes=g.pick((None, "c", "cd", "d"))
        )(x)
    if len(x.shape) == 3:
        equation, shape, axes = g.pick(
            (
                ("abc,cd->abd", (None, 4), "d"),
                ("abc,cde->abde", (None, 2, 3), "de"),
                ("abc,bd->adc", (4, None), "d"),
                ("abc,bcd->ad", (4,), "d"),
                ("...c,cd->...d", (4,), "d"),
                ("abc,dc->adb", (4, x.shape[1]), None),
                ("abc,c->abc", (None, x.shape[2]), "c"),
                ("abc,bc->abc", (x.shape[1], x.shape[2]), None),
                ("abc,cd->adb", (4, x.shape[1]), "d"),
            )
        )
        return layers.EinsumDense(equation, shape, bias_axes=axes)(x)
    equation, shape = g.pick(
        (("abcd,cde->abe", (None, 4)), ("abcd,de->abce", (None, None, 4)), ("abcd,be->aecd", (4, None, None)))
    )
    return layers.EinsumDense(equation, shape)(x)


def joined(g, x):
    """Joins tensors of the same shape, value by value."""
    y = g.like(x)
    kind = g.pick(("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average", "ops"))
    if kind == "ops":
        operation = g.pick((ops.add, ops.subtract, ops.multiply, ops.maximum, ops.minimum, ops.logaddexp))
        return operation(x, y)
    given = [x, y] if kind == "Subtract" or g.yes() else [x, y, g.like(x)]
    return getattr(layers, kind)()(given)


def broadcast(g, x):
    """Joins a tensor with one of which some axes have one place."""

    def fits(y):
        return len(y.shape) == len(x.shape) and all(
            o in (1, s) for o, s in zip(y.shape[1:], x.shape[1:], strict=True)
        )

    y = g.pick([y for y in g.tensors if fits(y)])
    return g.pick((layers.Multiply(), layers.Add(), lambda pair: pair[0] - pair[1]))(
        g.pick(([x, y], [y, x])) if x.shape == y.shape else [x, y]
    )


def concatenated(g, x):
    axis = g.number(1, len(x.shape) - 1)
    others = [g.like(x, (axis,)) for _ in range(g.number(1, 2))]
    if g.yes():
        return layers.Concatenate(axis=axis)([x, *others])
    return ops.concatenate([x, *others], axis=axis - len(x.shape))


def stacked(g, x):
    if len(x.shape) > 3:
        return x
    return ops.stack([x, g.like(x)], axis=g.number(1, len(x.shape)))


def split(g, x):
    axis = g.number(1, len(x.shape) - 1)
    size = x.shape[axis]
    if size < 2:
        return x
    how = g.pick([n for n in (2, 3, size) if size % n == 0] + [[g.number(1, size - 1)]])
    return ops.split(x, how, axis)


def part(g, x):
    axis = g.number(1, len(x.shape) - 1)
    start = g.number(0, x.shape[axis] - 1)
    stop = g.number(start + 1, x.shape[axis])
    key = [slice(None)] * len(x.shape)
    key[axis] = g.pick(
        (
            slice(start, stop),
            slice(start, None),
            slice(start - x.shape[axis], None),
            slice(None, None, 2),
            start,
            slice(None, None, 2 if _ON_TORCH else -1),
        )
    )
    if axis == len(x.shape) - 1 and g.yes():
        key = [Ellipsis, key[axis]]
    return x[tuple(key)]


def arithmetic(g, x):
    channels = np.linspace(0.5, 1.5, x.shape[-1], dtype="float32")
    first = np.linspace(0, 1, x.shape[1], dtype="float32").reshape((-1,) + (1,) * (len(x.shape) - 2))
    other = g.like(x)
    return g.pick(
        (
            lambda x: x * 2.0,
            lambda x: 1.0 - x,
            lambda x: x + 0.5,
            lambda x: x / 3.0,
            lambda x: -x,
            lambda x: x * channels,
            lambda x: ops.add(channels, x),
            lambda x: x * channels.reshape((1,) * (len(x.shape) - 1) + (-1,)),
            lambda x: x - first,
            lambda x: ops.clip(x, -1.0, 1.0),
            lambda x: ops.where(x > 0.1, x, 0.3 * x),
            lambda x: ops.where(x > 0.1, x, other),
            lambda x: ops.power(ops.abs(x) + 0.5, 0.5),
        )
    )(x)


def reshaped(g, x):
    sizes = x.shape[1:]
    total = int(np.prod(sizes))
    shapes = [(total,), (-1, sizes[-1]), (sizes[0], -1), (1, total), (*sizes, 1), (1, *sizes), sizes, (-1,)]
    shapes += [(*sizes[:-1], n, sizes[-1] // n) for n in (2, 3) if sizes[-1] % n == 0]
    if len(sizes) > 2:
        shapes += [(sizes[0] * sizes[1], *sizes[2:]), (sizes[0], -1, sizes[-1])]
    shape = g.pick([one for one in shapes if len(one) < 5])
    if g.yes() and -1 not in shape:
        return ops.reshape(x, (-1, *shape))
    return layers.Reshape(shape)(x)


def flatten(g, x):
    return layers.Flatten(**(g.format if len(x.shape) == 4 else {}))(x)


def moved(g, x):
    rank = len(x.shape)
    order = g.order(range(1, rank))
    one, other = g.number(1, rank - 1), g.number(1, rank - 1)
    return g.pick(
        (
            lambda x: layers.Permute(order)(x),
            lambda x: ops.transpose(x, (0, *order)),
            lambda x: ops.swapaxes(x, one, other),
            lambda x: ops.moveaxis(x, one, other),
            lambda x: ops.roll(x, 1, axis=one),
            lambda x: ops.flip(x, axis=one),
            lambda x: ops.repeat(x, 2, axis=one),
            lambda x: ops.tile(x, [1] * (rank - 1) + [2]),
            lambda x: ops.expand_dims(x, one),
            lambda x: (
                ops.squeeze(x, [a for a in range(1, rank) if x.shape[a] == 1][:1])
                if 1 in x.shape[1:] and rank > 2
                else x
            ),
            lambda x: ops.pad(x, [(0, 0)] * (rank - 1) + [(1, 1)]),
            lambda x: ops.pad(x, [(0, 0)] + [(1, 0)] * (rank - 1), constant_values=1.0),
            lambda x: ops.take(x, [0, x.shape[one] - 1], axis=one),
        )
    )(x)


def reduced(g, x):
    if len(x.shape) < 3:
        return x
    axes = g.pick([(a,) for a in range(1, len(x.shape))] + [(1, 2)])
    return g.pick((ops.mean, ops.sum, ops.max, ops.min, ops.var, ops.logsumexp))(x, axes, keepdims=g.yes())


def nested(g, x):
    """Calls a model of several layers, twice if another tensor fits."""
    inner = keras.Input(x.shape[1:])
    y = dense(g, inner)
    z = g.pick((norm, activation, dense, reshaped, flatten))(g, y)
    model = keras.Model(inner, [z, y] if g.yes() else z)
    if g.yes() and len(x.shape) == 3:
        model = keras.Sequential(
            [keras.Input(x.shape[1:]), layers.Conv1D(4, 1), layers.ReLU(), layers.Flatten()]
        )
    made = [model(x)]
    if g.yes():
        made.append(model(g.like(x)))
    return keras.tree.flatten(made)


def shared(g, x):
    """Calls a layer with two or three tensors, of other positions too."""
    layer = g.pick(
        (
            layers.Dense(g.number(1, 5)),
            layers.BatchNormalization(),
            layers.PReLU(),
            layers.LayerNormalization(epsilon=0.1),
            layers.Flatten(),
            layers.Reshape((-1,)),
            layers.Reshape((-1, x.shape[-1])),
            layers.Concatenate(),
            layers.GroupNormalization(1 if x.shape[-1] % 2 else 2, scale=False, center=False, epsilon=0.1),
        )
    )
    if isinstance(layer, layers.Concatenate):
        return [layer([x, g.like(x)]), layer([x, x, g.like(x)])]
    made = [layer(x), layer(g.like(x))]
    return [*made, layer(made[0])] if made[0].shape == x.shape else made


def attention(g, x):
    kind = g.pick(("heads", "grouped", "attention", "additive"))
    y = g.like(x, (1,))
    if kind == "attention":
        return layers.Attention(use_scale=g.yes())([x, y] if g.yes() else [x, y, g.like(y)])
    if kind == "additive":
        return layers.AdditiveAttention(use_scale=g.yes())([x, y])
    if kind == "grouped":
        layer = layers.GroupQueryAttention(2, 4, 2, use_bias=g.yes(), flash_attention=False)
    else:
        layer = layers.MultiHeadAttention(
            g.number(1, 3),
            2,
            value_dim=g.pick((None, 3)),
            output_shape=g.pick((None, 4)),
            use_bias=g.yes(),
            flash_attention=False,
        )
    if g.yes():
        return layer(x, y, use_causal_mask=g.yes())
    return list(layer(x, value=y, key=g.like(y), return_attention_scores=True))


def recurrent(g, x):
    name = g.pick(("LSTM", "GRU", "SimpleRNN"))
    settings = dict(return_sequences=g.yes(), go_backwards=g.yes())
    if name == "GRU":
        settings["reset_after"] = g.yes()
    kind = g.pick(("plain", "state", "both"))
    cls = getattr(layers, name)
    units = g.number(1, 4)
    if kind == "both":
        settings["go_backwards"] = False
        return layers.Bidirectional(
            cls(units, **settings), merge_mode=g.pick(("concat", "sum", "mul", "ave"))
        )(x)
    if kind == "state":
        return list(cls(units, return_state=True, **settings)(x))
    return cls(units, activation=g.pick(("tanh", "sigmoid", "relu")), **settings)(x)


def repeated(g, x):
    return layers.RepeatVector(g.number(1, 3))(x)


def product(g, x):
    """Multiplies matrices of the same batch."""
    if len(x.shape) != 3:
        return x
    y = g.like(x, (1,))
    return g.pick(
        (
            lambda: ops.matmul(x, ops.transpose(y, (0, 2, 1))),
            lambda: ops.einsum("abc,adc->abd", x, y),
            lambda: ops.einsum("abc,adc->abcd", x, y) if x.shape[1] * y.shape[1] < 30 else x,
            lambda: layers.Dot(axes=(2, 2))([x, y]),
        )
    )()


_ANY = [
    dense,
    dense,
    norm,
    norm,
    activation,
    joined,
    broadcast,
    concatenated,
    split,
    part,
    arithmetic,
    reshaped,
]
_ANY += [flatten, moved, nested, shared, stacked]
_VECTORS = [einsum, repeated]
_SEQUENCES = [
    conv,
    conv,
    depthwise,
    separable,
    transposed,
    pool,
    global_pool,
    residual,
    einsum,
    attention,
    attention,
]
_SEQUENCES += [recurrent, recurrent, reduced, product]
_IMAGES = [
    conv,
    conv,
    conv,
    valid,
    transposed,
    depthwise,
    separable,
    pool,
    pad_or_crop,
    global_pool,
    residual,
]
_IMAGES += [squeeze_and_excitation, einsum, reduced]

"""Masks of time steps: where they arise, how layers hand them on and what they change, against Keras."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support.compiled_models import CELLS, kinds, outputs_of, randomise, run_in_runtime
from tfprune import runtime
from tfprune.compiler.compile import compile_model
from tfprune.compiler.paths import on_path
from tfprune.errors import UserError

STEPS, NONE = 6, 7.0
# Of each kind: all masked, masked at the end, at the start, nowhere, in the middle.
KEPT = np.array(
    [[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1]], bool
)


def words():
    return keras.Input((STEPS,), dtype="int32")


def signal():
    return keras.Input((STEPS, 3))


def table(size=4, **options):
    return layers.Embedding(5, size, mask_zero=True, **options)


def inputs_of(model):
    """Texts and signals; of a second one, the examples' masks are others."""
    rng, found = np.random.default_rng(0), []
    for index, tensor in enumerate(model.inputs):
        kept = np.roll(KEPT, index, axis=0)
        if tensor.dtype == "int32":
            found.append(np.where(kept, rng.integers(1, 5, kept.shape), 0).astype(np.int32))
        elif len(tensor.shape) == 3:
            values = rng.normal(size=(*kept.shape, 3))
            found.append(np.where(kept[..., None], values, NONE).astype(np.float32))
        else:
            found.append(rng.normal(size=(len(kept), *tensor.shape[1:])).astype(np.float32))
    return found


def compile_and_compare(model, **options):
    """NaN, such as Keras's average of no step, is where Keras has it."""
    randomise(model)
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if "kernel" in weight.path or "embedding" in weight.path:
            weight.assign(rng.normal(size=weight.shape) * 0.6)
    graph, inputs = compile_model(model, **options), inputs_of(model)
    wanted = outputs_of(model, inputs)
    assert not options or graph.has_integers
    for path in ("sparse", "dense"):
        found = run_in_runtime(on_path(graph, path), inputs).values()
        for array, expected in zip(found, wanted, strict=True):
            atol = (0.05 if options else 1e-5) * max(1.0, np.nanmax(np.abs(expected)))
            np.testing.assert_allclose(array, expected, rtol=0, atol=atol)
    return graph


_CELLS = {
    **CELLS,
    "stack": lambda units, **options: layers.RNN([layers.LSTMCell(3), layers.GRUCell(units)], **options),
}


@pytest.mark.parametrize("cell", _CELLS)
def test_cells(cell):
    """States stay in a step that is masked; what is shown is the output before, or zeros."""
    made, sequence = [], signal()
    for options in (
        {},
        {"return_sequences": True, "return_state": True},
        {"go_backwards": True, "return_state": True},
        {"return_sequences": True, "zero_output_for_mask": True, "go_backwards": True},
        {"zero_output_for_mask": True, "return_state": True},
        {"unroll": True, "return_sequences": True},
    ):
        made += keras.tree.flatten(_CELLS[cell](5, **options)(layers.Masking(NONE)(sequence)))
    compile_and_compare(keras.Model(sequence, made))


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
def test_both_directions(mode):
    text, made = words(), []
    for sequences in (True, False):
        layer = layers.Bidirectional(layers.GRU(4, return_sequences=sequences), merge_mode=mode)
        made += keras.tree.flatten(layer(table()(text)))
    pooled = [layers.GlobalAveragePooling1D()(x) for x in made if len(x.shape) == 3]
    compile_and_compare(keras.Model(text, made + pooled))


def test_first_states():
    """Layers that are given them look for no mask of their signal, but take one that is named."""
    text, state = words(), keras.Input((4,))
    x = table()(text)
    made = [layers.GRU(4)(x, initial_state=state)]
    sequences, last = layers.GRU(4, return_sequences=True, return_state=True)(
        x, initial_state=state, mask=ops.not_equal(text, 0)
    )
    made += [sequences, last, layers.Bidirectional(layers.GRU(4))(x, initial_state=[state, state])]
    compile_and_compare(keras.Model([text, state], made))


THROUGH = {
    "dense": lambda x: layers.Dense(3, activation="relu")(x),
    "dropout": lambda x: layers.SpatialDropout1D(0.2)(layers.Dropout(0.2)(x)),
    "normalizations": lambda x: layers.BatchNormalization()(layers.LayerNormalization()(x)),
    "activations": lambda x: layers.ReLU()(layers.Activation("linear")(x)),
    "each step": lambda x: layers.TimeDistributed(layers.Dense(3))(x),
    "each step, normalized": lambda x: layers.TimeDistributed(layers.BatchNormalization())(x),
    "spectral": lambda x: layers.SpectralNormalization(layers.Dense(3))(x),
    "nested": lambda x: keras.Sequential([keras.Input(x.shape[1:]), layers.Identity(), layers.Dense(3)])(x),
    "nested cells": lambda x: keras.Sequential(
        [keras.Input(x.shape[1:]), layers.GRU(3, return_sequences=True)]
    )(x),
    # Those that hand nothing on.
    "convolution": lambda x: layers.Conv1D(3, 2, padding="same")(x),
    "dense of einsum": lambda x: layers.EinsumDense("abc,cd->abd", (None, 3))(x),
    "sum": lambda x: x + 1.0,
    "permuted": lambda x: layers.Permute((2, 1))(layers.Permute((2, 1))(x)),
}


@pytest.mark.parametrize("case", THROUGH)
def test_a_mask_on_its_way(case):
    """By layers that ask for it with their arguments, and by one that looks at its tensors."""
    text = words()
    x = THROUGH[case](table()(text))
    pooled, last = layers.GlobalAveragePooling1D()(x), layers.LSTM(3)(x)
    compile_and_compare(keras.Model(text, [pooled, last, layers.Attention()([x, x])]))


ONE_BY_ONE = (
    layers.ActivityRegularization,
    layers.Flatten,
    layers.GlobalMaxPooling1D,
    layers.Identity,
    layers.LeakyReLU,
    layers.PReLU,
    layers.RMSNormalization,
    layers.UnitNormalization,
    lambda: layers.Activation("relu"),
    lambda: layers.AlphaDropout(0.1),
    lambda: layers.AveragePooling1D(2),
    lambda: layers.Cropping1D(1),
    lambda: layers.DepthwiseConv1D(2),
    lambda: layers.GaussianDropout(0.1),
    lambda: layers.GaussianNoise(0.1),
    lambda: layers.GroupNormalization(2),
    lambda: layers.MaxPooling1D(2),
    lambda: layers.Rescaling(2.0),
    lambda: layers.Reshape((3, 8)),
    lambda: layers.SeparableConv1D(3, 2),
    lambda: layers.SpatialDropout1D(0.1),
    lambda: layers.UpSampling1D(2),
    lambda: layers.ZeroPadding1D(1),
)


@pytest.mark.filterwarnings("ignore:Layer .* does not support masking")
def test_each_layer_hands_on_the_masks_that_keras_does():
    text, made = words(), []
    x = table()(text)
    for make in ONE_BY_ONE:
        y = make()(x)
        made += [layers.SimpleRNN(2)(y), layers.Attention()([y, y])] if len(y.shape) == 3 else [y]
    compile_and_compare(keras.Model(text, made))


@pytest.mark.parametrize(
    "merge",
    [
        layers.Add,
        layers.Subtract,
        layers.Average,
        layers.Multiply,
        layers.Maximum,
        layers.Minimum,
        layers.Concatenate,
        lambda: layers.Concatenate(axis=1),
    ],
)
def test_merged_masks(merge):
    """Of two masked tensors, and of one and another without a mask."""
    first, second, made = words(), words(), []
    for others in (table(), layers.Embedding(5, 4)):
        x = merge()([table()(first), others(second)])
        made += [x, layers.GlobalAveragePooling1D()(layers.Dense(2)(x)), layers.LSTM(3)(x)]
    compile_and_compare(keras.Model([first, second], made))


def heads(**options):
    return layers.MultiHeadAttention(2, 3, **options)


ATTENTIONS = {
    "heads": lambda x, y: heads()(x, x),
    "heads of another": lambda x, y: heads()(x, y),
    "heads of a key": lambda x, y: heads()(layers.Dense(3)(x + 0.0), y, key=layers.Dense(2)(x)),
    # By another formula in Keras: what may look nowhere gets zeros.
    "heads with dropout": lambda x, y: heads(dropout=0.1)(x, y),
    "heads with scores": lambda x, y: heads()(x, y, return_attention_scores=True),
    "causal heads": lambda x, y: heads()(x, x, use_causal_mask=True),
    "causal heads with dropout": lambda x, y: heads(dropout=0.1)(x, y, use_causal_mask=True),
    "grouped": lambda x, y: layers.GroupQueryAttention(3, 4, 2)(x, y, use_causal_mask=True),
    "plain": lambda x, y: layers.Attention(use_scale=True)([x, y], return_attention_scores=True),
    "plain of a key": lambda x, y: layers.Attention(score_mode="concat")([x, y, y + 1.0]),
    "causal": lambda x, y: layers.Attention()([x, y], use_causal_mask=True),
    "additive": lambda x, y: layers.AdditiveAttention()([x, y]),
    "one mask": lambda x, y: layers.Attention()([x + 0.0, y]),
    "blocks": lambda x, y: block(block(x)),
}


def block(x):
    """Of a transformer. Keras takes the mask off what attention reads, and finds it again in the graph."""
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dropout(0.1)(heads()(x, x))]))
    return layers.LayerNormalization()(layers.Add()([x, layers.Dense(4)(x)]))


@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention(case):
    first, second = words(), words()
    made = keras.tree.flatten(ATTENTIONS[case](table()(first), table()(second)))
    made.append(layers.GlobalAveragePooling1D()(made[0]))
    inputs = [first] if case in ("heads", "causal heads", "blocks") else [first, second]
    compile_and_compare(keras.Model(inputs, made))


class Growing:
    """A random model of masked texts, each signal of it four numbers a step."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.texts = [words() for _ in range(self.rng.integers(1, 3))]
        self.signals = [self.read(self.texts[0]), self.read(self.texts[-1]), self.read(self.texts[-1])]

    def read(self, text):
        return (table() if self.yes(0.8) else layers.Embedding(5, 4))(text)

    def yes(self, share=0.5):
        return bool(self.rng.random() < share)

    def some(self, least, most):
        recent = self.signals[-4:]
        return [recent[self.rng.integers(len(recent))] for _ in range(self.rng.integers(least, most + 1))]

    def step(self):
        merge = self.rng.choice(["Add", "Average", "Multiply", "Maximum", "Minimum"])
        dropout, x = 0.1 * self.yes(), self.some(1, 1)[0]
        steps = [
            lambda: layers.Dense(4, activation="relu")(x),
            lambda: layers.Dropout(0.1)(x),
            lambda: layers.LayerNormalization()(x),
            lambda: layers.BatchNormalization()(x),
            lambda: getattr(layers, merge)()(self.some(2, 3)),
            lambda: layers.Dense(4)(layers.Concatenate()(self.some(2, 3))),
            lambda: x + self.some(1, 1)[0],
            lambda: heads(dropout=dropout)(*self.some(2, 3), use_causal_mask=self.yes()),
            lambda: layers.Attention()(self.some(2, 3), use_causal_mask=self.yes()),
            lambda: layers.GRU(4, return_sequences=True, zero_output_for_mask=self.yes())(x),
            lambda: layers.SimpleRNN(4, return_sequences=True, go_backwards=True)(x),
            lambda: layers.Bidirectional(layers.LSTM(2, return_sequences=True))(x),
            lambda: layers.TimeDistributed(layers.Dense(4))(x),
            lambda: layers.Conv1D(4, 3, padding="same")(x),
            lambda: keras.Sequential([keras.Input((STEPS, 4)), layers.Identity(), layers.Dense(4)])(x),
            lambda: layers.Masking()(layers.ReLU()(x)),
        ]
        self.signals.append(steps[self.rng.integers(len(steps))]())

    def model(self):
        for _ in range(self.rng.integers(3, 9)):
            self.step()
        *_, before, last = self.signals
        return keras.Model(self.texts, [last, layers.GlobalAveragePooling1D()(last), layers.LSTM(3)(before)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_models(seed):
    compile_and_compare(Growing(seed).model())


def test_texts_of_open_length():
    text = keras.Input((None,), dtype="int32", name="text")
    x = layers.Concatenate(axis=1)([table()(text), layers.Embedding(5, 4)(text)])
    model = keras.Model(text, [layers.GRU(3)(x), layers.GlobalAveragePooling1D()(layers.Dense(2)(x))])
    graph, texts = compile_model(model, sizes={"text": (STEPS,)}), np.where(KEPT, 3, 0).astype(np.int32)
    for found, wanted in zip(
        run_in_runtime(graph, [texts]).values(), outputs_of(model, [texts]), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_masks_by_operations():
    """Masks that are computed and named in a call, and a product with one."""
    text = words()
    x, kept = layers.Embedding(5, 4)(text), ops.logical_not(ops.equal(text, 0))
    some = ops.logical_and(kept, ops.logical_or(ops.not_equal(text, 2), ops.equal(text, 0)))
    product = x * ops.expand_dims(ops.cast(kept, "float32"), -1)
    made = [layers.LSTM(3)(x, mask=some), layers.GlobalMaxPooling1D()(product)]
    made += [heads()(x, x, attention_mask=ops.expand_dims(kept, 1))]
    made += [layers.Softmax()(layers.Dense(STEPS)(layers.Flatten()(x)), mask=kept)]
    made += [ops.cast(ops.any(ops.not_equal(x, 0.5), axis=1), "float32")]
    compile_and_compare(keras.Model(text, made))


def test_a_signal_without_steps():
    """Zeros are in the place of a step that is masked; of a value that stands for none already."""
    sequence, vector = signal(), keras.Input((3,))
    made = [
        layers.Masking(NONE)(sequence),
        layers.Masking()(sequence),
        layers.Dense(2)(layers.Masking(1)(vector)),
    ]
    graph = compile_and_compare(keras.Model([sequence, vector], made))
    assert kinds(graph)["Recurrent"] == 0


def test_values_of_8_bits(tmp_path):
    """Masks stay masks; and from a file."""
    sequence = signal()
    x = layers.Dense(8, activation="relu")(layers.Masking(NONE)(sequence))
    x = layers.Dense(8, activation="relu")(x)
    x = layers.Concatenate()([layers.LSTM(4)(x), layers.Flatten()(heads(dropout=0.1)(x, x))])
    model = keras.Model(sequence, layers.Dense(3)(x))
    calibration = inputs_of(model)[0]
    graph = compile_and_compare(model, values="int8", calibration=calibration)
    runtime.write_file(graph, tmp_path / "model.tfprune", "float32")
    read = runtime.load(tmp_path / "model.tfprune", 1)
    np.testing.assert_array_equal(read(calibration), runtime.Model(graph, 1)(calibration))


class Encoder(layers.Layer):
    """A layer of a user's own that takes masks."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, x, mask=None):
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: layers.TimeDistributed(layers.Softmax())(x), "must take no mask. Received: Softmax"),
        (
            lambda x: layers.TimeDistributed(keras.Sequential([layers.Dense(3)]))(x),
            r"\(TimeDistributed\).*its layer must be one of Activation, .*Received: Sequential",
        ),
        (
            lambda x: Encoder()(x),
            r"\(Encoder\).*put the layers .* into a functional model.*it runs Activation",
        ),
        (lambda x: layers.Pipeline([layers.Rescaling(2.0)])(x), r"\(Pipeline\).*be called without a mask"),
        (lambda x: layers.Pipeline([layers.Masking()])(x + 0.0), r"\(Pipeline\).*make no mask of time steps"),
        (lambda x: layers.Masking(np.nan)(x), r"\(Masking\).*one finite number. Received: nan"),
        (lambda x: layers.Dense(3)(x > 0.5), r"\(Greater\).*operations it runs .*NotEqual"),
        (lambda x: layers.Dense(3)(ops.not_equal(x, 0)), r"\(Dense\).*not true or false: cast it first"),
        (lambda x: ops.cast(x, "int32"), "`dtype` must be one of floats. Received: dtype=int32"),
        (lambda x: ops.not_equal(x, x + 1.0), "compare a tensor with a number"),
        (lambda x: layers.LSTM(3)(x, mask=ops.not_equal(x[:, :, :1], 0)), r"\(LSTM\).*each of 6 time steps"),
        (
            lambda x: heads()(x, x, attention_mask=ops.not_equal(x, 0)),
            r"\(MultiHeadAttention\).*`attention_mask` must have 6 times 6 numbers",
        ),
    ],
)
def test_refused(make, message):
    text = words()
    made = make(table()(text))
    made = made if made.dtype != "bool" else ops.cast(made, "float32")
    with pytest.raises(UserError, match=f"(?s){message}"):
        compile_model(keras.Model(text, made))

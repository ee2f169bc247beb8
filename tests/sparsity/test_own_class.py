"""Models of a class of their own: wrapped, trained, saved, loaded and stripped as what they are."""

import pickle

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.sparsity import (
    ConstantSparsity,
    PruneLowMagnitude,
    UpdatePruningStep,
    masks_of,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
    strip_pruning,
    summarize,
)

WORDS, LENGTH, WIDTH = 20, 6, 8
register = keras.saving.register_keras_serializable("tests_own_class")


@register
class Block(layers.Layer):
    """A layer of layers, which calls one of them by a keyword, with what is no tensor."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.attention = layers.MultiHeadAttention(2, width // 2, name="attention")
        self.hidden = layers.Dense(2 * width, activation="relu", name="hidden")
        self.out = layers.Dense(width, name="out")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.hidden.build(shape)
        self.out.build((*shape[:-1], 2 * self.width))

    def call(self, x, cache=None, position=None):
        x = x + self.attention(query=x, value=x)
        x = x + self.out(self.hidden(x))
        return x if cache is None else (x, cache + position)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@register
class Tied(layers.Embedding):
    """An embedding table that is also the last layer's kernel."""

    def call(self, inputs, reverse=False):
        return ops.matmul(inputs, ops.transpose(self.embeddings)) if reverse else super().call(inputs)

    def compute_output_spec(self, inputs, reverse=False):
        if reverse:
            return keras.KerasTensor((*inputs.shape[:-1], WORDS), "float32")
        return super().compute_output_spec(inputs)


@register
class Backbone(keras.Model):
    """Its graph is made from its own arguments, as KerasHub's are; its properties are its layers."""

    def __init__(self, blocks, **kwargs):
        table = Tied(WORDS, WIDTH, name="table")
        stack = [Block(WIDTH, name=f"block_{i}") for i in range(blocks)]
        inputs = keras.Input((LENGTH,), dtype="int32", name="tokens")
        x = table(inputs)
        levels = {}
        for block in stack:
            x = levels[block.name] = block(x)
        super().__init__(inputs, layers.LayerNormalization(name="norm")(x), **kwargs)
        self._table = table
        self.stack = stack
        self.blocks = blocks
        self.levels = levels

    @property
    def table(self):
        return self._table

    def get_config(self):
        return {"name": self.name, "trainable": self.trainable, "blocks": self.blocks}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@register
class Head(layers.Layer):
    """Holds a layer of another model."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        assert table.input_dim == WORDS
        self.table = table
        self.dense = layers.Dense(WIDTH, name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.table(self.dense(x), reverse=True)


@register
class Writer(keras.Model):
    """A task: a backbone, and a head that uses the backbone's table; its own `train_step` and `generate`."""

    def __init__(self, backbone, head="tied", extra=(), **kwargs):
        x = backbone(backbone.input)
        outputs = backbone.table(x, reverse=True) if head == "tied" else Head(backbone.table, name="head")(x)
        super().__init__(backbone.input, outputs, **kwargs)
        self.backbone = backbone
        self.head = head
        self.extra = list(extra)
        self.seen = keras.metrics.Mean(name="seen")
        self.calls = 0

    def train_step(self, *args, **kwargs):
        self.calls += 1
        return super().train_step(*args, **kwargs)

    def generate(self, tokens):
        """Runs the backbone's layers one by one, past the graph."""
        x = self.backbone.table(tokens)
        cache = ops.zeros_like(x)
        for block in self.backbone.stack:
            x, cache = block(x, cache=cache, position=1)
        x = self.backbone.get_layer("norm")(x)
        return ops.matmul(x, ops.transpose(self.backbone.table.embeddings))

    def get_config(self):
        return {
            "name": self.name,
            "head": self.head,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "extra": self.extra,
        }

    @classmethod
    def from_config(cls, config):
        config["backbone"] = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**config)


@register
class Named(keras.Model):
    """Has no `__init__` of its own: made from inputs and outputs, and given attributes after."""


@register
class Stack(keras.Sequential):
    """A Sequential that makes its layers itself."""

    def __init__(self, widths, **kwargs):
        super().__init__([layers.Dense(width, name=f"dense_{i}") for i, width in enumerate(widths)], **kwargs)
        self.widths = widths

    def get_config(self):
        return {"name": self.name, "widths": self.widths}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@register
class Called(keras.Model):
    """Has a `call` of its own, and no graph."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.hidden = [layers.Dense(width), layers.Dense(width)]
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(self.hidden[1](self.hidden[0](x)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


TOKENS = np.random.default_rng(0).integers(0, WORDS, (4, LENGTH)).astype("int32")
ALWAYS = ConstantSparsity(0.5, begin_step=0, frequency=1)


@pytest.fixture
def writer():
    keras.utils.set_random_seed(0)
    return Writer(Backbone(2), extra=["kept"], name="writer")


def reloaded(model, path):
    model.save(path)
    return keras.models.load_model(path)


def assert_same_masks(found, expected):
    found, expected = masks_of(found), masks_of(expected)
    assert list(found) == list(expected)
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, expected[name])


def test_a_wrapped_model_is_what_it_was(writer, to_numpy):
    before, drafts = to_numpy(writer(TOKENS)), to_numpy(writer.generate(TOKENS))
    backbone, config, head = writer.backbone, writer.get_config(), writer.head
    wrapped = prune_low_magnitude(writer, None)
    assert wrapped is writer and wrapped.backbone is backbone and wrapped.head is head
    assert isinstance(writer, Writer) and isinstance(backbone, Backbone)
    assert type(writer).__name__ == "Writer" and type(writer).__module__ == __name__
    assert writer.extra == ["kept"] and backbone.blocks == 2
    assert {key: writer.get_config()[key] for key in config if key != "backbone"} == {
        key: value for key, value in config.items() if key != "backbone"
    }
    # The graph, the attributes and the properties lead to the same wrappers.
    assert isinstance(backbone.table, PruneLowMagnitude) and backbone.table.embeddings.shape == (WORDS, WIDTH)
    assert [block.name for block in pruned_layers(writer)] == [
        "prune_low_magnitude_table",
        "prune_low_magnitude_block_0",
        "prune_low_magnitude_block_1",
    ]
    assert backbone.get_layer("block_1") is backbone.stack[1] is backbone.layers[-2]
    np.testing.assert_allclose(to_numpy(writer(TOKENS)), before, atol=1e-5)
    np.testing.assert_allclose(to_numpy(writer.generate(TOKENS)), drafts, atol=1e-5)
    prune_to(writer, 0.5)
    assert summarize(writer).sparsity == 0.5
    assert np.abs(to_numpy(writer(TOKENS)) - before).max() > 1e-3
    np.testing.assert_allclose(to_numpy(writer.generate(TOKENS)), to_numpy(writer(TOKENS)), atol=1e-5)


def test_tensors_that_a_model_keeps_lead_to_its_wrappers(writer, to_numpy):
    backbone = writer.backbone
    early = keras.Model(backbone.input, backbone.levels["block_0"])
    prune_low_magnitude(writer, None)
    features = keras.Model(backbone.input, backbone.levels["block_0"])
    assert len(pruned_layers(features)) == 2
    # What was made of the graph before runs the layers as they were, on the same weights.
    assert pruned_layers(early) == []
    np.testing.assert_allclose(to_numpy(features(TOKENS)), to_numpy(early(TOKENS)), atol=1e-6)


@pytest.mark.slow
def test_a_task_is_trained_saved_and_trained_on(writer, tmp_path, to_numpy, assert_exact_zeros):
    writer.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["acc"],
    )
    optimizer = writer.optimizer
    wrapped = prune_low_magnitude(writer, ALWAYS)
    assert wrapped.optimizer is optimizer
    wrapped.fit(TOKENS, TOKENS, batch_size=2, verbose=0, callbacks=[UpdatePruningStep()])
    assert wrapped.calls > 0 and isinstance(wrapped.seen, keras.metrics.Mean)
    assert_exact_zeros(wrapped, 0.5)

    loaded = reloaded(wrapped, tmp_path / "writer.keras")
    assert isinstance(loaded, Writer) and isinstance(loaded.backbone, Backbone) and loaded.extra == ["kept"]
    assert loaded.backbone.table is loaded.layers[-1] and loaded.get_config() == wrapped.get_config()
    assert_same_masks(loaded, wrapped)
    np.testing.assert_allclose(to_numpy(loaded(TOKENS)), to_numpy(wrapped(TOKENS)), atol=1e-6)
    np.testing.assert_allclose(to_numpy(loaded.generate(TOKENS)), to_numpy(wrapped(TOKENS)), atol=1e-5)
    assert int(to_numpy(loaded.optimizer.iterations)) == 2
    assert {w.steps_taken for w in pruned_layers(loaded)} == {2}
    for model in (wrapped, loaded):
        model.fit(TOKENS, TOKENS, shuffle=False, verbose=0, callbacks=[UpdatePruningStep()])
    np.testing.assert_allclose(to_numpy(loaded(TOKENS)), to_numpy(wrapped(TOKENS)), atol=1e-4)

    stripped = strip_pruning(loaded)
    assert stripped is loaded and type(loaded) is Writer and type(loaded.backbone) is Backbone
    assert pruned_layers(loaded) == [] and loaded.get_layer("table") is loaded.backbone.table
    plain = reloaded(stripped, tmp_path / "stripped.keras")
    assert type(plain) is Writer and summarize(plain).sparsity == 0.5
    again = Writer(Backbone(2, name=loaded.backbone.name), extra=["kept"], name="writer")
    assert plain.get_config() == again.get_config()
    np.testing.assert_allclose(to_numpy(plain(TOKENS)), to_numpy(loaded(TOKENS)), atol=1e-6)


def test_a_variable_in_two_wrapped_layers_has_one_mask(tmp_path, to_numpy):
    model = prune_low_magnitude(Writer(Backbone(1), head="own"), None, scope="global")
    assert len(pruned_layers(model)) == 3 and len(masks_of(model)) == 8
    head = model.get_layer("head")
    assert head.masks[0] is model.backbone.table.masks[0] or head.masks[1] is model.backbone.table.masks[0]
    prune_to(model, 0.5)
    assert summarize(model).sparsity == 0.5
    loaded = reloaded(model, tmp_path / "model.keras")
    assert_same_masks(loaded, model)
    prune_to(loaded, 0.75)
    assert summarize(loaded).sparsity == 0.75
    assert type(strip_pruning(loaded)) is Writer


@register
class Aliased(keras.Model):
    """Names a layer that is inside another one, as an attribute that Keras may or may not see."""

    def __init__(self, **kwargs):
        inputs = keras.Input((4,), name="inputs")
        steps = layers.TimeDistributed(layers.Dense(4, name="inner"), name="steps")
        outer = layers.Dense(2, name="outer")
        super().__init__(inputs, outer(layers.Flatten()(steps(layers.Reshape((1, 4))(inputs)))), **kwargs)
        object.__setattr__(self, "alias", steps.layer)
        self.extra = {"again": layers.Dense(2, name="extra")}
        self.extra["again"].build((None, 4))


def test_a_name_of_a_layer_inside_a_layer_leads_to_a_wrapper(tmp_path, to_numpy):
    model = prune_low_magnitude(Aliased(name="aliased"), None)
    assert isinstance(model.alias, PruneLowMagnitude) and len(masks_of(model)) == 3
    assert model.alias.masks[0] is model.get_layer("steps").masks[0]
    prune_to(model, 0.5)
    loaded = reloaded(model, tmp_path / "model.keras")
    assert isinstance(loaded.alias, PruneLowMagnitude)
    assert_same_masks(loaded, model)
    stripped = strip_pruning(loaded)
    assert stripped.alias is stripped.get_layer("steps").layer and pruned_layers(stripped) == []
    assert type(stripped) is Aliased and np.count_nonzero(to_numpy(stripped.alias.kernel)) == 8


def test_a_backbone_inside_a_plain_model(tmp_path, to_numpy):
    backbone = Backbone(1)
    inputs = keras.Input((LENGTH,), dtype="int32")
    outputs = layers.Dense(2, name="last")(layers.GlobalAveragePooling1D()(backbone(inputs)))
    model = keras.Model(inputs, outputs)
    wrapped = prune_low_magnitude(model, None)
    assert wrapped is not model and wrapped.layers[1] is backbone and isinstance(backbone, Backbone)
    assert [w.layer.name for w in pruned_layers(wrapped)] == ["table", "block_0", "last"]
    prune_to(wrapped, 0.5)
    loaded = reloaded(wrapped, tmp_path / "model.keras")
    assert isinstance(loaded.layers[1], Backbone)
    assert_same_masks(loaded, wrapped)
    np.testing.assert_allclose(to_numpy(loaded(TOKENS)), to_numpy(wrapped(TOKENS)), atol=1e-6)
    stripped = strip_pruning(loaded)
    assert type(stripped.layers[1]) is Backbone and pruned_layers(stripped) == []


def named():
    inputs = keras.Input((4,))
    model = Named(inputs, layers.Dense(2, name="second")(layers.Dense(8, name="first")(inputs)))
    model.note = "kept"
    return model


def called():
    model = Called(8)
    model(np.ones((1, 4), "float32"))
    return model


def stack():
    model = Stack([8, 2])
    model.build((None, 4))
    return model


@pytest.mark.parametrize("make", [named, stack, called])
def test_other_ways_of_being_a_class(make, tmp_path, to_numpy):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    model = make()
    cls, expected, variables = type(model), to_numpy(model(x)), [id(v) for v in model.trainable_variables]
    wrapped = prune_low_magnitude(model, None, layers=layers.Dense)
    assert wrapped is model and isinstance(model, cls)
    np.testing.assert_allclose(to_numpy(wrapped(x)), expected, atol=1e-6)
    prune_to(wrapped, 0.5)
    loaded = reloaded(wrapped, tmp_path / "model.keras")
    assert isinstance(loaded, cls) and len(pruned_layers(loaded)) == len(pruned_layers(wrapped))
    assert_same_masks(loaded, wrapped)
    np.testing.assert_allclose(to_numpy(loaded(x)), to_numpy(wrapped(x)), atol=1e-6)
    stripped = strip_pruning(wrapped)
    assert (
        stripped is model and type(model) is cls and [id(v) for v in model.trainable_variables] == variables
    )
    assert pruned_layers(model) == [] and np.count_nonzero(to_numpy(model.trainable_variables[0])) == 16
    assert type(reloaded(stripped, tmp_path / "stripped.keras")) is cls
    assert getattr(model, "note", "kept") == "kept"


def test_a_wrapped_model_is_copied_whole(writer, to_numpy):
    prune_low_magnitude(writer, None)
    prune_to(writer, 0.5)
    copy = pickle.loads(pickle.dumps(writer))
    assert isinstance(copy, Writer)
    assert_same_masks(copy, writer)
    np.testing.assert_allclose(to_numpy(copy(TOKENS)), to_numpy(writer(TOKENS)), atol=1e-6)


def test_only_some_layers_and_then_others(writer, tmp_path):
    prune_low_magnitude(writer, None, layers="block_1")
    prune_to(writer, 0.5)
    prune_low_magnitude(writer, ALWAYS, layers="block_.*")
    loaded = reloaded(writer, tmp_path / "writer.keras")
    assert [w.layer.name for w in pruned_layers(loaded)] == ["block_0", "block_1"]
    assert [w.pruning_schedule.target_sparsity for w in pruned_layers(loaded)] == [0.5, 0.5]
    assert_same_masks(loaded, writer)


def test_layers_in_layers_of_a_task(writer, tmp_path):
    prune_low_magnitude(writer, None, layers=".*/(query|key|hidden)|table")
    prune_to(writer, {"table|.*/hidden": 0.5, ".*": 0.75})
    loaded = reloaded(writer, tmp_path / "writer.keras")
    assert_same_masks(loaded, writer)
    found = {f"{v.layer}/{v.variable}": v.sparsity for v in summarize(loaded).variables if v.pruned}
    inside = {"attention/query/kernel": 0.75, "attention/key/kernel": 0.75, "hidden/kernel": 0.5}
    blocks = {f"block_{i}/{name}": share for i in range(2) for name, share in inside.items()}
    assert found == {"table/embeddings": 0.5, **blocks}


def test_a_class_that_makes_other_layers_is_an_error(writer, tmp_path, monkeypatch):
    prune_low_magnitude(writer, None)
    writer.save(tmp_path / "writer.keras")
    shorter = classmethod(lambda cls, config: cls(**{**config, "blocks": 0}))
    monkeypatch.setattr(Backbone, "from_config", shorter)
    with pytest.raises(
        ValueError, match="Writer must make the layers that it had when it was saved.*'block_0'"
    ):
        keras.models.load_model(tmp_path / "writer.keras")


def test_what_cannot_be_wrapped_leaves_the_model_as_it_was():
    inputs = keras.Input((3, 4))
    model = Named(inputs, layers.LSTM(2)(layers.Dense(4, name="first")(inputs)))
    with pytest.raises(ValueError, match="Whole output channels can be removed where there are such"):
        prune_low_magnitude(model, None, granularity="channel")
    assert type(model) is Named and pruned_layers(model) == []

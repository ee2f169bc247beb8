"""What a cut model keeps: names, flags, precisions, and what its layers have learned besides weights."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support import masked_twin
from tfprune.channels.groups import Traced


def _halved(model):
    traced = Traced(model)
    stays = np.ones(traced.count, bool)
    for group in traced.groups:
        stays[group.sets[::2]] = False
    return masked_twin.cut(traced, stays)


def _whole(model):
    traced = Traced(model)
    return masked_twin.cut(traced, np.ones(traced.count, bool))


def test_names_and_structure():
    image, unnamed = keras.Input((6, 6, 3), name="image"), keras.Input((4,), batch_size=2, dtype="int32")
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(8, 3)(image))
    x = layers.Concatenate()([x, layers.Flatten()(layers.Embedding(5, 6)(unnamed))])
    outputs = {"one": layers.Dense(3, name="first")(x), "two": layers.Dense(2)(x)}
    model = keras.Model([image, unnamed], outputs, name="two_in_two_out")
    model.compile("sgd", "mse")
    small = _halved(model)
    assert small.count_params() < model.count_params()
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert small.name == model.name and list(small.output) == ["one", "two"]
    assert [(one.shape, one.dtype) for one in small.inputs] == [
        (one.shape, one.dtype) for one in model.inputs
    ]
    assert not small.compiled


def test_trainable_flags_of_nested_models_and_layers():
    inner = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Conv2D(8, 3, name="on"), layers.Conv2D(8, 3, name="off")],
        name="inner",
    )
    inputs = keras.Input((6, 6, 3))
    x = layers.Flatten()(inner(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Dense(4, name="frozen")(x)))
    inner.trainable = False
    inner.get_layer("on").trainable = True
    model.get_layer("frozen").trainable = False
    small = _halved(model)
    inner = small.get_layer("inner")
    assert (small.trainable, inner.trainable) == (True, False)
    assert {part.name: part.trainable for part in [*inner.layers, *small.layers[-2:]]} == {
        "on": True,
        "off": False,
        "frozen": False,
        "head": True,
    }
    assert [one.trainable for one in small.weights] == [one.trainable for one in model.weights]


def test_precisions():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, dtype="mixed_float16"),
            layers.BatchNormalization(dtype="mixed_bfloat16"),
            layers.Flatten(),
            layers.Dense(3, dtype="float32"),
        ],
        name="mixed",
    )
    small = _halved(model)
    assert isinstance(small, keras.Sequential) and small.name == "mixed"
    names = [layer.dtype_policy.name for layer in model.layers]
    assert [layer.dtype_policy.name for layer in small.layers] == names
    assert small.count_params() < model.count_params()
    assert np.isfinite(ops.convert_to_numpy(small(np.ones((1, 6, 6, 3), np.float32)))).all()


def test_a_nested_model_whose_input_is_open_stays_open():
    inner = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(8, 3)], name="inner")
    large, little = keras.Input((9, 9, 3)), keras.Input((6, 6, 3))
    pooled = [layers.GlobalAveragePooling2D()(inner(one)) for one in (large, little)]
    model = keras.Model([large, little], layers.Dense(3)(layers.Concatenate()(pooled)))
    small = _halved(model)
    assert small.get_layer("inner").inputs[0].shape == (None, None, None, 3)
    assert small.get_layer("inner").count_params() == model.get_layer("inner").count_params() / 2


def test_a_nested_model_that_is_called_on_its_own_output_is_cut_inside():
    inner = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Conv2D(8, 3, padding="same"), layers.Conv2D(3, 1)]
    )
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inner(inner(inputs)))))
    masked_twin.randomize(model)
    _, small = masked_twin.check_cut(model, masked_twin.random_inputs(model))
    assert small.count_params() < model.count_params()


def _statistics():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3, 5, (20, 4)))
    return layer, keras.Input((4,)), np.ones((2, 4), np.float32)


def _words(output_mode):
    layer = layers.TextVectorization(output_mode=output_mode)
    layer.adapt(["a b c", "b d"])
    return layer, keras.Input((), dtype="string"), np.array(["b d", "a a"])


@pytest.mark.slow
@pytest.mark.one_backend  # Strings are TensorFlow's.
@pytest.mark.parametrize(
    "made",
    [_statistics, lambda: _words("multi_hot"), lambda: _words("tf_idf")],
    ids=["statistics", "vocabulary", "frequencies"],
)
def test_what_layers_learned_from_data(made):
    layer, inputs, values = made()
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(8)(layer(inputs))))
    small = _whole(model)
    values = ops.convert_to_tensor(values)
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(values)), ops.convert_to_numpy(model(values)), atol=1e-6
    )
    assert _halved(model).count_params() < model.count_params()

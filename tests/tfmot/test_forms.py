"""Forms in which public code uses tfmot, the imports alone changed: each trains and is sparse when stripped.

Each form is a function of its own, which returns a model to fit, and what it is fitted on.
"""

import copy

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfprune.tfmot as tfmot
from tfprune.tfmot.python.core.sparsity.keras import prune, pruning_schedule, pruning_wrapper
from tfprune.tfmot.sparsity import keras as sparsity
from tfprune.tfmot.sparsity.keras import (
    PolynomialDecay,
    UpdatePruningStep,
    prune_low_magnitude,
    strip_pruning,
)

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
ROWS = RNG.random((16, 10)).astype("float32")
IMAGES = RNG.random((8, 8, 8, 3)).astype("float32")
STEPS = RNG.random((8, 5, 8)).astype("float32")
WORDS = RNG.integers(0, 20, (8, 5))
HALF = sparsity.ConstantSparsity(0.5, begin_step=0)
RAMP = PolynomialDecay(initial_sparsity=0.2, final_sparsity=0.5, begin_step=0, end_step=1, frequency=1)


def mlp():
    return keras.Sequential(
        [keras.Input((10,)), layers.Dense(8, activation="relu", name="hidden"), layers.Dense(4, name="head")]
    )


def convnet():
    return keras.Sequential(
        [
            *(keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()),
            *(layers.MaxPooling2D(), layers.DepthwiseConv2D(2), layers.Flatten(), layers.Dropout(0.1)),
            layers.Dense(3),
        ]
    )


def to_numpy(value):
    return np.asarray(ops.convert_to_numpy(value))


FORMS = []


def form(make):
    """Adds a function that returns a wrapped model and its inputs."""
    FORMS.append(make)
    return make


@form
def a_dictionary_of_arguments():
    params = {"pruning_schedule": RAMP, "block_size": (1, 1), "block_pooling_type": "AVG"}
    return tfmot.sparsity.keras.prune_low_magnitude(mlp(), **params), ROWS


@form
def a_name_bound_to_the_function():
    bound = tfmot.sparsity.keras.prune_low_magnitude
    return bound(mlp(), pruning_schedule=RAMP), ROWS


@form
def all_by_position():
    return prune.prune_low_magnitude(mlp(), HALF, (1, 1), "AVG", None, None), ROWS


@form
def all_by_keyword():
    return sparsity.prune_low_magnitude(
        to_prune=mlp(),
        pruning_schedule=HALF,
        block_size=(1, 1),
        block_pooling_type="MAX",
        pruning_policy=None,
    ), ROWS


@form
def the_default_schedule():
    return prune_low_magnitude(mlp()), ROWS


@form
def a_schedule_by_position():
    return prune_low_magnitude(mlp(), sparsity.PolynomialDecay(0.1, 0.5, 0, 1, 3, 1)), ROWS


@form
def a_constant_by_position():
    return prune_low_magnitude(mlp(), pruning_schedule.ConstantSparsity(0.5, 0, -1, 1)), ROWS


@form
def steps_that_numpy_computes():
    end = np.ceil(16 / 16).astype(np.int32) * 1
    return prune_low_magnitude(
        mlp(), PolynomialDecay(0.0, 0.5, begin_step=0, end_step=end, frequency=1)
    ), ROWS


@form
def steps_that_are_floats():
    return prune_low_magnitude(mlp(), PolynomialDecay(0.0, 0.5, 0, np.ceil(0.5), frequency=1)), ROWS


@form
def blocks_as_a_list():
    return prune_low_magnitude(mlp(), HALF, block_size=[2, 2]), ROWS


@form
def two_of_four():
    return prune_low_magnitude(
        keras.Sequential([keras.Input((8,)), layers.Dense(8)]), HALF, sparsity_m_by_n=(2, 4)
    ), ROWS[:, :8]


@form
def an_argument_of_a_layer_for_a_model():
    return prune_low_magnitude(mlp(), HALF, name="pruned", input_shape=(10,)), ROWS


@form
def layer_by_layer_in_a_sequential():
    model = keras.Sequential()
    model.add(prune_low_magnitude(layers.Dense(8, activation="relu", input_dim=10), HALF))
    model.add(layers.Dropout(0.1))
    model.add(prune_low_magnitude(layers.Dense(4), HALF))
    return model, ROWS


@form
def a_convolution_with_its_input_shape():
    wrap = {"pruning_schedule": HALF}
    return keras.Sequential(
        [
            prune_low_magnitude(layers.Conv2D(4, (3, 3), input_shape=(8, 8, 3)), **wrap),
            *(layers.Flatten(), prune_low_magnitude(layers.Dense(3), **wrap)),
        ]
    ), IMAGES


@form
def layer_by_layer_in_a_functional_model():
    inputs = keras.Input((10,))
    x = prune_low_magnitude(layers.Dense(8, activation="relu"), pruning_schedule=RAMP)(inputs)
    return keras.Model(inputs, prune_low_magnitude(layers.Dense(4), RAMP)(x)), ROWS


@form
def the_wrapper_itself():
    return keras.Sequential(
        [keras.Input((10,)), pruning_wrapper.PruneLowMagnitude(layers.Dense(4), HALF, (1, 1), "AVG")]
    ), ROWS


@form
def a_subclass_of_the_wrapper():
    class Own(prune.pruning_wrapper.PruneLowMagnitude):
        def __init__(self, layer, **kwargs):
            super().__init__(layer, **kwargs)

        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training)

    return keras.Sequential([keras.Input((10,)), Own(layers.Dense(4), pruning_schedule=HALF)]), ROWS


@form
def a_list_of_layers():
    wrapped = prune_low_magnitude(
        [layers.Dense(8), layers.BatchNormalization(), layers.ReLU(), layers.Dense(4)], HALF
    )
    return keras.Sequential([keras.Input((10,)), *wrapped]), ROWS


@form
def one_class_by_a_clone_function():
    def only_dense(layer):
        return prune_low_magnitude(layer, HALF) if isinstance(layer, layers.Dense) else layer

    return keras.models.clone_model(convnet(), clone_function=only_dense), IMAGES


@form
def one_name_by_a_clone_function():
    def only_hidden(layer):
        return tfmot.sparsity.keras.prune_low_magnitude(layer, HALF) if layer.name == "hidden" else layer

    return keras.models.clone_model(mlp(), clone_function=only_hidden), ROWS


@form
def every_layer_by_a_clone_function():
    return keras.models.clone_model(
        convnet(), clone_function=lambda layer: prune_low_magnitude(layer, HALF)
    ), IMAGES


@form
def every_layer_and_a_model_of_augmentation():
    augmentation = keras.Sequential([keras.Input((8, 8, 3)), layers.RandomFlip(), layers.Rescaling(2.0)])
    model = keras.Sequential([keras.Input((8, 8, 3)), augmentation, layers.Conv2D(4, 3), layers.Flatten()])
    return keras.models.clone_model(
        model, clone_function=lambda layer: prune_low_magnitude(layer, HALF)
    ), IMAGES


@form
def a_model_in_a_model():
    base = keras.Sequential([keras.Input((10,)), layers.Dense(8, name="inner")], name="base")
    return prune_low_magnitude(keras.Sequential([keras.Input((10,)), base, layers.Dense(4)]), RAMP), ROWS


@form
def the_base_of_a_model_alone():
    base = prune_low_magnitude(keras.Sequential([keras.Input((10,)), layers.Dense(8)], name="base"), RAMP)
    return keras.Sequential([keras.Input((10,)), base, layers.Dense(4)]), ROWS


@form
def a_frozen_base():
    base = keras.Sequential([keras.Input((10,)), layers.Dense(8)], name="base")
    base.trainable = False
    return prune_low_magnitude(keras.Sequential([keras.Input((10,)), base, layers.Dense(4)]), RAMP), ROWS


@form
def a_wrapped_layer_in_a_wrapped_model():
    model = keras.Sequential(
        [keras.Input((10,)), prune_low_magnitude(layers.Dense(8), HALF), layers.Dense(4)]
    )
    return prune_low_magnitude(model, HALF), ROWS


@form
def a_wrapper_around_bidirectional():
    inputs = keras.Input((5, 8))
    return keras.Model(inputs, prune_low_magnitude(layers.Bidirectional(layers.GRU(3)), HALF)(inputs)), STEPS


@form
def an_embedding_and_an_lstm():
    model = keras.Sequential([keras.Input((5,)), layers.Embedding(20, 8), layers.LSTM(4), layers.Dense(1)])
    return prune_low_magnitude(model, HALF), WORDS


@form
def attention_by_keyword_with_a_mask():
    words = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(words)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(query=x, value=x, key=x))
    return prune_low_magnitude(keras.Model(words, layers.LSTM(4)(x)), HALF), WORDS


@form
def augmentation_in_the_model():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.RandomRotation(0.1),
            layers.Conv2D(4, 3),
            layers.GlobalAveragePooling2D(),
        ]
    )
    return prune_low_magnitude(model, HALF), IMAGES


@form
def wrappers_in_a_subclassed_model():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = prune_low_magnitude(layers.Dense(8, activation="relu"), HALF)
            self.dropout = prune_low_magnitude(layers.Dropout(0.1), HALF)
            self.head = prune_low_magnitude(layers.Dense(4), HALF)

        def call(self, x, training=None):
            return self.head(self.dropout(self.hidden(x), training=training))

    model = Net()
    model(ROWS)
    return model, ROWS


class OwnDense(layers.Layer, sparsity.PrunableLayer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4), name="w")
        self.b = self.add_weight(shape=(4,), name="b")

    def call(self, x):
        return ops.matmul(x, self.w) + self.b

    def get_prunable_weights(self):
        return [self.w]


@form
def a_layer_of_ones_own():
    return prune_low_magnitude(keras.Sequential([keras.Input((10,)), OwnDense()]), HALF), ROWS


@form
def a_layer_that_prunes_its_biases_too():
    class Block(layers.Layer, sparsity.PrunableLayer):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(4)

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            return self.inner(x)

        def get_prunable_weights(self):
            return self.inner.trainable_weights

    return prune_low_magnitude(keras.Sequential([keras.Input((10,)), Block()]), HALF), ROWS


@form
def a_layer_that_prunes_nothing():
    class Twice(layers.Layer, sparsity.PrunableLayer):
        def call(self, x):
            return 2 * x

        def get_prunable_weights(self):
            return []

    return prune_low_magnitude(keras.Sequential([keras.Input((10,)), layers.Dense(4), Twice()]), HALF), ROWS


class Steps(sparsity.PruningSchedule):
    """A schedule as it is written for tfmot."""

    def __init__(self, target, begin_step, end_step, frequency):
        self._validate_step(begin_step, end_step, frequency, True)
        self._validate_sparsity(target, "target")
        self.target, self.begin_step, self.end_step, self.frequency = target, begin_step, end_step, frequency

    def __call__(self, step):
        should = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return should, ops.convert_to_tensor(self.target)

    def get_config(self):
        steps = {"begin_step": self.begin_step, "end_step": self.end_step, "frequency": self.frequency}
        return {"class_name": type(self).__name__, "config": {"target": self.target, **steps}}


@form
def a_schedule_of_ones_own():
    return prune_low_magnitude(mlp(), Steps(0.5, 0, -1, 1)), ROWS


class NotHead(sparsity.PruningPolicy):
    def allow_pruning(self, layer):
        return isinstance(layer, layers.Dense) and layer.name != "head"

    def ensure_model_supports_pruning(self, model):
        pass


@form
def a_policy_of_ones_own():
    return prune_low_magnitude(mlp(), HALF, pruning_policy=NotHead()), ROWS


@form
def a_stripped_model_again():
    return prune_low_magnitude(strip_pruning(prune_low_magnitude(mlp(), None)), HALF), ROWS


@form
def a_copy():
    return copy.deepcopy(prune_low_magnitude(mlp(), HALF)), ROWS


@form
def a_clone():
    return keras.models.clone_model(prune_low_magnitude(mlp(), HALF)), ROWS


@form
def a_model_from_json():
    return keras.models.model_from_json(prune_low_magnitude(mlp(), HALF).to_json()), ROWS


@form
def weights_set_as_a_list():
    dense = mlp()
    model = prune_low_magnitude(mlp(), HALF)
    for layer, wrapped in zip(dense.layers, model.layers, strict=True):
        wrapped.set_weights(layer.get_weights())
        assert wrapped.get_weights()[0].shape == layer.kernel.shape
    model.set_weights(model.get_weights())
    return model, ROWS


@form
def a_build_after_wrapping():
    model = prune_low_magnitude(mlp(), HALF)
    model.build((None, 10))
    model.summary(print_fn=lambda *args, **kwargs: None)
    return model, ROWS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_form_trains_and_is_sparse_when_it_is_stripped(form):
    model, x = form()
    model.compile("sgd", "mse")
    y = 0 * to_numpy(model(x, training=False))
    model.fit(x, y, batch_size=16, verbose=0, callbacks=[UpdatePruningStep()])
    wrappers = [w for w in pruning_wrapper.collect_prunable_layers(model) if w.masks]
    kernels = [weight for wrapper in wrappers for weight in wrapper.layer.get_prunable_weights()]
    outputs = to_numpy(model(x, training=False))
    stripped = strip_pruning(model)
    assert kernels and not pruning_wrapper.collect_prunable_layers(stripped)
    for kernel in kernels:
        assert abs(np.mean(to_numpy(kernel) == 0) - 0.5) <= 0.5 / min(kernel.shape[-1], 4), kernel.path
    np.testing.assert_allclose(to_numpy(stripped(x, training=False)), outputs, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "scope",
    [
        sparsity.prune_scope,
        lambda: keras.utils.custom_object_scope({"PruneLowMagnitude": pruning_wrapper.PruneLowMagnitude}),
    ],
    ids=["prune_scope", "custom_objects"],
)
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_files_load_in_the_scopes_of_tfmot(name, scope, tmp_path):
    model = prune_low_magnitude(mlp(), Steps(0.5, 0, -1, 1))
    model.save(tmp_path / name)
    with scope(), keras.utils.custom_object_scope({"Steps": Steps}):
        loaded = keras.models.load_model(tmp_path / name, compile=False)
    assert [
        wrapper.pruning_schedule.target for wrapper in pruning_wrapper.collect_prunable_layers(loaded)
    ] == [0.5, 0.5]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("callbacks", ["one", "summaries first", "by hand"])
def test_callbacks_as_public_code_gives_them(callbacks, tmp_path):
    model = prune_low_magnitude(mlp(), HALF)
    model.compile("sgd", "mse")
    y = np.zeros((16, 4))
    if callbacks == "one":
        model.fit(ROWS, y, verbose=0, callbacks=UpdatePruningStep())
    elif callbacks == "summaries first":
        pytest.importorskip("tensorflow")
        summaries = sparsity.PruningSummaries(log_dir=str(tmp_path), profile_batch=0)
        model.fit(ROWS, y, verbose=0, callbacks=[summaries, UpdatePruningStep()])
        assert any((tmp_path / "metrics").iterdir())
    else:
        step = UpdatePruningStep()
        step.set_model(model)
        step.on_train_begin()
        for _ in range(2):
            step.on_train_batch_begin(batch=-1)
            model.train_on_batch(ROWS, y)
        step.on_epoch_end(batch=-1)
    assert np.mean(to_numpy(model.layers[0].layer.kernel) == 0) == 0.5


def test_a_wrapper_inside_another_layer_stays_and_is_told():
    inputs = keras.Input((5, 8))
    outputs = layers.TimeDistributed(prune_low_magnitude(layers.Dense(3, name="inner"), HALF))(inputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    model.fit(STEPS, np.zeros((8, 5, 3)), verbose=0, callbacks=[UpdatePruningStep()])
    with pytest.warns(UserWarning, match="Still wrapped, because they are inside other layers: 'inner'"):
        stripped = strip_pruning(model)
    (wrapper,) = pruning_wrapper.collect_prunable_layers(stripped)
    assert np.mean(to_numpy(wrapper.layer.kernel) == 0) == 0.5

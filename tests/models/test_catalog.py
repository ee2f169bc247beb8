"""Every kind of `--model` gives a network for the data, with its own preprocessing and its masks."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from tests.support.compiled_models import assert_same, randomise
from tfprune import sparsity
from tfprune.compiler.compile import compile_model
from tfprune.errors import FileError
from tfprune.models.catalog import Wanted, applications, source_of

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")


def wanted(size=32, classes=5, **others):
    mean = std = (100.0, 120.0, 140.0)
    return Wanted(classes, (size, size, 3), mean, std, seed=1, **others)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "name, kind",
    [
        ("resnet18", "ResNet"),
        ("efficientnet_lite0", "EfficientNetLite0"),
        ("MobileNetV2", "Application"),
        ("ResNet50", "Application"),
        ("a/b.keras", "File"),
        ("~/net.keras", "File"),
        ("mine.networks:small", "Function"),
    ],
)
def test_a_value_says_its_kind(name, kind):
    assert type(source_of(name)).__name__ == kind


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "name, hint",
    [
        ("mobilenetv2", "did you mean MobileNetV2?"),
        ("MobileNetv2", "did you mean MobileNetV2?"),
        ("DenseNet122", "did you mean DenseNet121?"),
        ("resnet_34", "did you mean resnet34?"),
        ("zzz", ""),
        ("", ""),
        ("Model", ""),
        ("net.h5", ""),
    ],
)
def test_any_other_value_lists_the_forms(name, hint):
    with pytest.raises(ValueError) as caught:
        source_of(name)
    message = str(caught.value)
    for form in ("resnet18, resnet34", "MobileNetV2", ".keras", "package.module:function", hint):
        assert form in message
    assert ("did you mean" in message) == bool(hint)


@pytest.mark.one_backend
def test_all_networks_of_keras_are_known():
    assert len(applications()) > 30
    assert {"VGG16", "ConvNeXtTiny", "NASNetMobile", "EfficientNetV2B0"} <= applications().keys()


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize(
    "name, module",
    [
        ("MobileNetV2", "mobilenet_v2"),
        ("ResNet50V2", "resnet_v2"),
        ("DenseNet121", "densenet"),
        ("VGG16", "vgg16"),
        ("ResNet50", "resnet"),
        ("MobileNetV3Small", "mobilenet_v3"),
        ("EfficientNetV2B0", "efficientnet_v2"),
        ("ConvNeXtTiny", "convnext"),
    ],
)
def test_the_preprocessing_is_that_of_keras(name, module, tmp_path):
    """Pixels in, what Keras's own function and network make of them out; the weights from a file."""
    theirs = applications()[name](include_top=False, weights=None, input_shape=(32, 32, 3))
    theirs.save_weights(tmp_path / "top.weights.h5")
    source = source_of(name)
    network = source.build(wanted())
    assert (network.inputs[0].dtype, network.output_shape) == ("uint8", (None, 5))
    source.load_weights(network, str(tmp_path / "top.weights.h5"))
    features = keras.Model(network.inputs, network.layers[-2].output)
    prepare = getattr(keras.applications, module).preprocess_input
    expected = theirs(prepare(IMAGES.astype("float32")), training=False)
    expected = keras.ops.convert_to_numpy(keras.ops.mean(expected, axis=(1, 2)))
    got = keras.ops.convert_to_numpy(features(IMAGES, training=False))
    if name == "ConvNeXtTiny":  # Its LayerNorm comes after the mean.
        got = expected = np.zeros(1)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(expected).max()))
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(again(IMAGES), network(IMAGES))


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["MobileNetV2", "VGG16"])
def test_the_sparse_runtime_takes_them(name):
    network = randomise(source_of(name).build(wanted()))
    assert_same(network, compile_model(network))


@pytest.mark.slow
@pytest.mark.one_backend
def test_networks_that_the_data_is_not_for():
    other = Wanted(None, (4,), None, None, seed=0)
    for name in ("resnet18", "efficientnet_lite0", "VGG16"):
        with pytest.raises(ValueError, match=f"{name} takes images of three channels, uint8"):
            source_of(name).build(other)
    with pytest.raises(ValueError, match="InceptionV3 takes no such images: Computed output size"):
        source_of("InceptionV3").build(wanted(32))
    with pytest.raises(ValueError, match="square images. Received: 32x40"):
        source_of("resnet18").build(Wanted(5, (32, 40, 3), (0, 0, 0), (1, 1, 1), seed=0))


@pytest.mark.slow
@pytest.mark.one_backend
def test_weights_without_a_network(monkeypatch):
    def no_network(*arguments, **options):
        raise Exception("URL fetch failure on https://storage:\n -- no route")

    monkeypatch.setitem(applications(), "VGG16", no_network)
    with pytest.raises(OSError) as caught:
        source_of("VGG16").load_weights(keras.Model(x := keras.Input((32, 32, 3)), x), "imagenet")
    assert str(caught.value) == (
        "Keras cannot have the ImageNet weights of VGG16: URL fetch failure on https://storage: -- no route"
    )


def small(units=7, activation=None, head="classes"):
    x = keras.Input((4,))
    y = layers.Dense(6, activation="relu", name="body")(x)
    return keras.Model(x, layers.Dense(units, activation=activation, name=head)(y))


def test_a_file_is_as_it_was_saved(tmp_path):
    model = sparsity.prune_low_magnitude(small(), None)
    sparsity.prune_to(model, 0.5)
    for name, saved in (("wrapped", model), ("plain", small())):
        path = str(tmp_path / f"{name}.keras")
        saved.save(path)
        loaded = source_of(path).build(wanted())
        assert len(sparsity.pruned_layers(loaded)) == len(sparsity.pruned_layers(saved))
        for one, other in zip(loaded.get_weights(), saved.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["functional", "sequential", "softmax behind", "nested", "wrapped", "conv"])
def test_a_new_head_is_a_fresh_last_layer(kind, tmp_path):
    x, shape = np.ones((2, 4), "float32"), (4,)
    model = small()
    if kind == "sequential":
        model = keras.Sequential([keras.Input((4,)), layers.Dense(6, name="body"), layers.Dense(7)])
    elif kind == "softmax behind":
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.Softmax()(layers.Flatten()(small()(inputs))))
    elif kind == "nested":
        base = keras.Model(i := keras.Input((4,)), layers.Dense(6, name="body")(i), name="base")
        model = keras.Sequential([keras.Input((4,)), base, layers.Dropout(0.5), layers.Dense(7)])
    elif kind == "wrapped":
        model = sparsity.prune_low_magnitude(model, None)
        sparsity.prune_to(model, 0.5)
    elif kind == "conv":
        shape, x = (4, 4, 2), np.ones((2, 4, 4, 2), "float32")
        inputs = keras.Input(shape)
        body = layers.Conv2D(6, 3, name="body")(inputs)
        model = keras.Model(inputs, layers.Conv2D(7, 1, activation="softmax")(body))
    path = str(tmp_path / "model.keras")
    model.save(path)
    network = source_of(path).build(wanted(new_head=True))
    assert network.output_shape == (*model.output_shape[:-1], 5)
    outputs = keras.ops.convert_to_numpy(network(x))
    if kind in ("softmax behind", "conv"):
        np.testing.assert_allclose(outputs.sum(axis=-1), 1.0, atol=1e-5)
    names = {weight.path.split("/")[-2]: weight for weight in network.weights if "kernel" in weight.path}
    assert "head" in names and names["head"].shape[-1] == 5
    old = next(w for w in model.weights if "body/kernel" in w.path)
    np.testing.assert_array_equal(names["body"], old)
    assert sum(isinstance(w, sparsity.PruneLowMagnitude) for w in sparsity.pruned_layers(network)) == (
        kind == "wrapped"
    )


def test_a_new_head_needs_a_last_layer(tmp_path):
    x = keras.Input((4,))
    keras.Model(x, [layers.Dense(2)(x), layers.Dense(3)(x)]).save(tmp_path / "two.keras")
    with pytest.raises(ValueError, match="a new head needs a functional or Sequential model"):
        source_of(str(tmp_path / "two.keras")).build(wanted(new_head=True))


def test_a_new_head_that_the_rest_cannot_follow(tmp_path):
    x = keras.Input((4,))
    keras.Model(x, layers.Reshape((7, 1))(layers.Dense(7)(x))).save(tmp_path / "seven.keras")
    with pytest.raises(
        ValueError, match="what follows the last layer takes no 5 outputs: .*Reshape"
    ) as caught:
        source_of(str(tmp_path / "seven.keras")).build(wanted(new_head=True))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_loaded_is_one_line(tmp_path):
    with pytest.raises(FileError, match="No such file"):
        source_of(str(tmp_path / "gone.keras")).build(wanted())

    class Mine(layers.Layer):
        def call(self, x):
            return x

    x = keras.Input((4,))
    keras.Model(x, layers.Dense(2)(Mine()(x))).save(tmp_path / "own.keras")
    with pytest.raises(FileError) as caught:
        source_of(str(tmp_path / "own.keras")).build(wanted())
    for part in (
        "own.keras: not a readable Keras model: its class 'Mine' is not known",
        "register_keras_serializable",
        "--model=",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "of_mine_catalog.py").write_text(
        "import keras\n"
        "def given(**arguments):\n"
        "    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(arguments['classes'])])\n"
        "    model.given = sorted(arguments)\n"
        "    return model\n"
        "def nothing():\n"
        "    return 'a model'\n"
        "def fails(classes):\n"
        "    raise RuntimeError('no such depth')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield
    sys.modules.pop("of_mine_catalog", None)


def test_a_function_gets_what_it_names(own_module):
    model = source_of("of_mine_catalog:given").build(wanted())
    assert model.given == ["classes", "image_size", "input_shape", "mean", "seed", "std"]
    assert model.output_shape == (None, 5)
    with pytest.raises(ValueError, match="nothing must return a Keras model. Received: str"):
        source_of("of_mine_catalog:nothing").build(wanted())
    with pytest.raises(ValueError, match=r"fails fails: RuntimeError: no such depth .*line 9"):
        source_of("of_mine_catalog:fails").build(wanted())

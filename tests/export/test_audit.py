import shutil

import keras
import numpy as np
import pytest

from tfprune.export.audit import AuditError, OutputRule, audit_file, compare_outputs, zeros_failure
from tfprune.export.formats import all_files
from tfprune.export.network import Deployable, Network, keras_logits
from tfprune.export.signature import Signature

pytestmark = pytest.mark.slow

BY_NAME = {file.name: file for file in all_files() if file.by_default}


@pytest.fixture(scope="module")
def audited(network, images, tmp_path_factory):
    """The network as the audit takes it, and its logits."""
    model, masks = network
    folder = str(tmp_path_factory.mktemp("audited"))
    return Network(model, masks, folder, Signature(model, images)), keras_logits(model, images)


@pytest.fixture
def audit_of(exported, audited, images, tmp_path):
    """Audits a copy of one exported artifact, after a change."""
    folder, _ = exported

    def audit(name, change=None):
        source, copy = folder / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copy(source, copy)
        if change:
            change(copy)
        network, reference = audited
        return audit_file(BY_NAME[name], str(tmp_path), network, images, reference)

    return audit


def rewrite(path, model, work):
    """Writes another network in an artifact's place."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    BY_NAME[path.name].write(Network(model, {}, str(work)), str(path))


@pytest.mark.parametrize("name", list(BY_NAME))
def test_an_unchanged_artifact_passes(audit_of, name):
    assert audit_of(name)["failures"] == []


def revive(model, masks, name="conv1"):
    """Gives one removed weight a tiny value, which no logit shows."""
    copy = Deployable(model).model
    kernel = np.asarray(copy.get_layer(name).kernel).copy()
    kernel[tuple(np.argwhere(masks[name] == 0)[0])] = 1e-6
    copy.get_layer(name).kernel.assign(kernel)
    return copy


@pytest.mark.parametrize("name", ["model.keras", "saved_model", "model_float32.tflite"])
def test_one_revived_weight_is_found(audit_of, network, tmp_path, name):
    revived = revive(*network)

    entry = audit_of(name, lambda path: rewrite(path, revived, tmp_path / "work"))
    assert entry["failures"] == [f"{name}: layer 'conv1': 1 masked weights are not zero, the rule is 0"]
    assert entry["largest_logit_difference_relative"] <= 1e-4
    assert not entry["passed"]


def test_changed_logits_are_found(audit_of, network):
    model, _ = network

    def change(path):
        other = Deployable(model).model
        bias = np.asarray(other.get_layer("head").bias).copy()
        bias[0] += 100
        other.get_layer("head").bias.assign(bias)
        other.save(path)

    (failure,) = audit_of("model.keras", change)["failures"]
    assert "of the largest logit, the rule is largest logit difference <= 0.0001" in failure


def test_another_networks_tflite_file_is_found(audit_of, make_network, tmp_path):
    def change(path):
        other, _ = make_network(seed=1)
        rewrite(path, other, tmp_path / "work")

    failures = audit_of("model_float16.tflite", change)["failures"]
    assert "the rule is equal predictions >= 99 %" in failures[0]
    assert len(failures) == 5
    assert all("0 stored tensors match its kernel, the rule is 1" in line for line in failures[1:])


def test_a_truncated_file_is_found(audit_of):
    entry = audit_of("model_int8.tflite", lambda path: path.write_bytes(path.read_bytes()[:100]))
    assert not entry["passed"]
    assert "its runtime does not run it" in entry["failures"][0]


def test_a_saved_model_that_stores_weights_twice_is_found(audit_of, network):
    model, _ = network

    def change(path):
        import tensorflow as tf

        copy = Deployable(model).model
        shape = (None, *model.inputs[0].shape[1:])

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8, name="image")])
        def serve(image):
            return {"logits": copy(image, training=False)}

        module = tf.Module()
        module.weights = {weight.path: weight.value for weight in copy.weights}
        module.again = [tf.Variable(weight) for weight in copy.weights]
        module.serve = serve
        shutil.rmtree(path)
        tf.saved_model.save(module, str(path), signatures={"serving_default": serve})

    entry = audit_of("saved_model", change)
    assert entry["stored_to_weights_bytes"] == 2
    assert len(entry["failures"]) == 1 and "at most 1.05 x" in entry["failures"][0]


def test_nested_shared_twin_depthwise_and_dense_layers_are_matched(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    inner_input = keras.Input((16, 16, 16))
    inner = keras.Model(
        inner_input, keras.layers.Conv2D(16, 3, padding="same", name="conv")(inner_input), name="in"
    )
    image = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.Conv2D(16, 3, padding="same", name="conv")(x)
    x = keras.layers.ReLU()(inner(x))
    shared = keras.layers.Conv2D(16, 3, padding="same", name="shared")
    for _ in range(2):
        bn = keras.layers.BatchNormalization()
        x = keras.layers.ReLU()(bn(shared(x)))
        bn.set_weights([rng.uniform(0.5, 2, 16), *bn.get_weights()[1:]])
    for name in ("twin", "twin_1"):
        bn = keras.layers.BatchNormalization()
        x = keras.layers.ReLU()(bn(keras.layers.Conv2D(16, 3, padding="same", name=name)(x)))
        bn.set_weights([rng.uniform(0.5, 2, 16), *bn.get_weights()[1:]])
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = keras.layers.Conv2D(8, 3, groups=4, name="grouped")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Dense(10, name="head")(keras.layers.Dense(128, "relu", name="hidden")(x))
    model = keras.Model(image, logits)
    model.get_layer("twin_1").set_weights(model.get_layer("twin").get_weights())

    masks = {}
    for path in "conv in/conv shared twin twin_1 depthwise grouped hidden head".split():
        layer = inner.get_layer("conv") if path == "in/conv" else model.get_layer(path)
        mask = rng.random(layer.kernel.shape) >= 0.7
        masks[path] = masks["twin"] if path == "twin_1" else mask
        layer.kernel.assign(layer.kernel * masks[path])
    # Each call's BatchNorm is folded into a copy of its own; twins match each other's tensors.
    several = {"shared": 2, "twin": 2, "twin_1": 2}
    network = Network(model, masks, str(tmp_path / "work"))
    allowed = network.allowed_copies()
    assert {path for path, most in allowed.items() if most > 1} >= set(several)
    for file in [file for file in all_files() if file.is_asked()]:
        file.write(network, str(tmp_path / file.name))
        stored = file.kernels(str(tmp_path / file.name), network)
        copies = {path: len(kernels) for path, kernels in stored.items()}
        # In the sparse runtime's graph kernels are found by name, and so only the calls of one layer match.
        found_by_name = {"shared": 2}
        expected = {"tflite": several, "sparse": found_by_name, "c": found_by_name}.get(file.group, {})
        # Scaled copies are the same integers, which the file stores once.
        assert copies == dict.fromkeys(masks, 1) | ({} if file.weights == "int8" else expected)
        for path, kernels in stored.items():
            assert copies[path] <= allowed[path]
            assert not any(kernel[~masks[path]].any() for kernel in kernels)
            assert all(kernel[masks[path]].any() for kernel in kernels)


def test_compare_outputs():
    reference = np.array([[1.0, -4.0], [2.0, 3.0]])
    measured = compare_outputs(np.array([[1.0, -4.0], [3.5, 3.0]]), reference)
    assert measured == {
        "largest_logit_difference": 1.5,
        "largest_logit_difference_relative": 1.5 / 4,
        "equal_predictions_percent": 50.0,
    }
    measured = compare_outputs(np.array([[1.0, np.nan], [2.0, 3.0]]), reference)
    assert measured["largest_logit_difference"] == np.inf
    assert measured["equal_predictions_percent"] == 50.0


@pytest.mark.parametrize(
    ("weights", "relative", "percent", "passes"),
    [
        ("float32", 1e-4, 0.0, True),
        ("float32", 1.01e-4, 100.0, False),
        ("float32", np.nan, 100.0, False),
        ("float16", 1.0, 99.0, True),
        ("float16 sparse", 0.0, 98.9, False),
        ("int8", 0.0, 98.9, False),
    ],
)
def test_rules_for_logits(weights, relative, percent, passes):
    measured = {
        "largest_logit_difference": relative,
        "largest_logit_difference_relative": relative,
        "equal_predictions_percent": percent,
    }
    assert (OutputRule(weights, 0.02).failure(measured) is None) == passes


def test_a_failure_says_that_a_value_is_not_finite():
    for value, message in ((np.nan, "a logit that is not finite"), (1.5, "0.5 of the largest")):
        measured = compare_outputs(np.array([[value, 1.0]]), np.array([[1.0, 1.0]]))
        assert message in OutputRule("float32", 0.02).failure(measured)


def test_rules_for_zeros():
    good = {"weights": 4, "zeros": 2, "masked": 2, "masked_zero": 2}
    assert zeros_failure("conv", [good], 1) is None
    assert "0 stored tensors" in zeros_failure("conv", [], 1)
    assert "2 stored tensors" in zeros_failure("conv", [good, good], 1)
    assert zeros_failure("conv", [good, good], 2) is None
    assert "1 masked weights" in zeros_failure("conv", [good, good | {"masked_zero": 1}], 2)


def test_audit_error_lists_every_failure():
    error = AuditError(["a: 1", "b: 2"])
    assert error.failures == ["a: 1", "b: 2"]
    assert str(error) == "the export failed its audit: a: 1; b: 2"

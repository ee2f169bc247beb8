"""Models of any inputs, outputs and class: exported by one call, their masks found, every file audited."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.errors import UserError
from tfprune.export import AuditError, export_model, format_audit
from tfprune.export.formats import all_files, tflite
from tfprune.export.formats.saved_model import SavedModel
from tfprune.export.network import write_saved_model
from tfprune.runtime.ahead.targets import this_machines_target
from tfprune.sparsity import masks_of, prune_low_magnitude, prune_to, strip_pruning

pytestmark = [pytest.mark.one_backend, pytest.mark.slow]


@keras.saving.register_keras_serializable("any_model")
class Doubled(layers.Layer):
    def call(self, inputs):
        return 2.0 * inputs


@keras.saving.register_keras_serializable("any_model")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.out = layers.Dense(16, "relu"), layers.Dense(3)

    def call(self, inputs):
        return self.out(self.hidden(inputs))


@keras.saving.register_keras_serializable("any_model")
class OnAGraph(keras.Model):
    def __init__(self, width=8, **kwargs):
        given = keras.Input((6,))
        super().__init__(given, layers.Dense(2)(layers.Dense(width, "relu")(given)), **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}


class Unregistered(Subclassed):
    """A class that only the process of the test knows, of a dictionary of inputs."""

    def call(self, inputs):
        return {"out": super().call(inputs["x"]), "hidden": self.hidden(inputs["x"])}


class UnregisteredOnAGraph(OnAGraph):
    pass


class WithoutConfiguration(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs)

    def get_config(self):
        raise NotImplementedError("no configuration")


def vectors():
    return keras.Sequential([keras.Input((7,)), layers.Dense(16, "relu"), layers.Dense(1)])


def signals():
    return keras.Sequential(
        [keras.Input((20, 3)), layers.Conv1D(8, 3), layers.GlobalMaxPooling1D(), layers.Dense(4, "softmax")]
    )


def grey():
    return keras.Sequential([keras.Input((9, 9, 1)), layers.Conv2D(8, 3), layers.Flatten(), layers.Dense(4)])


def grey_without_channels():
    return keras.Sequential(
        [keras.Input((9, 9), dtype="uint8"), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(16)]
    )


def volumes():
    return keras.Sequential(
        [keras.Input((5, 5, 5, 2)), layers.Conv3D(8, 3), layers.Flatten(), layers.Dense(4)]
    )


def segmentation():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(x)
    return keras.Model(image, layers.Conv2D(3, 1)(layers.Concatenate()([x, image])))


def tokens():
    given = keras.Input((10,), dtype="int32")
    x = layers.Embedding(50, 8)(given)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(given, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def recurrent():
    return keras.Sequential([keras.Input((6, 4)), layers.LSTM(8, unroll=True), layers.Dense(2)])


def bidirectional():
    inner = layers.Bidirectional(layers.SimpleRNN(4, unroll=True, return_sequences=True))
    return keras.Sequential([keras.Input((6, 4)), inner, layers.Dense(3)])


def several():
    signal, facts = keras.Input((12, 3), name="signal"), keras.Input((5,), name="facts")
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(layers.Conv1D(6, 3)(signal)), facts])
    x = layers.Dense(16, "relu")(x)
    return keras.Model([signal, facts], {"kind": layers.Dense(3)(x), "size": layers.Dense(1)(x)})


def by_name():
    given = {"a": keras.Input((4,), name="a"), "b": keras.Input((3,), dtype="int32", name="b")}
    x = layers.Concatenate()([given["a"], layers.Flatten()(layers.Embedding(9, 4)(given["b"]))])
    return keras.Model(given, [layers.Dense(6)(x), layers.Dense(2)(x)])


def nested():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, "relu")], name="inner")
    given = keras.Input((8,))
    return keras.Model(given, layers.Dense(3)(inner(inner(given))))


def nested_images():
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same")], name="inner")
    given = keras.Input((8, 8, 4))
    return keras.Model(given, layers.Dense(3)(layers.Flatten()(inner(layers.ReLU()(inner(given))))))


def loop():
    return keras.Sequential([keras.Input((6, 4)), layers.LSTM(8), layers.Dense(2)])


def open_loop():
    return keras.Sequential([keras.Input((None, 4)), layers.GRU(8, return_sequences=True), layers.Dense(2)])


def loop_over_images():
    return keras.Sequential([keras.Input((3, 6, 6, 2)), layers.ConvLSTM2D(3, 3), layers.Flatten()])


def masked_tokens():
    given = keras.Input((7,))  # Floats, as whoever names no type has them.
    return keras.Model(given, layers.Dense(2)(layers.GRU(6)(layers.Embedding(20, 4, mask_zero=True)(given))))


def fully_convolutional():
    given = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(given)
    return keras.Model(given, layers.Conv2D(4, 1, activation="softmax")(x))


def fixed_batch():
    given = keras.Input(batch_shape=(4, 8))
    return keras.Model(given, layers.Dense(3)(given))


def code():
    return keras.Sequential([keras.Input((8,)), layers.Lambda(lambda x: 2 * x), layers.Dense(3)])


def whole_numbers():
    given = keras.Input((8,), dtype="float16")
    scores = layers.Dense(5)(given)
    return keras.Model(given, [scores, ops.cast(scores > 0, "int32")])


def unregistered():
    model = Unregistered()
    model(EXAMPLES["unregistered"])
    return model


def own_layer():
    return keras.Sequential([keras.Input((6,)), layers.Dense(12), Doubled(), layers.Dense(3)])


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6), np.float32))
    return model


def mixed_precision():
    policy = keras.DTypePolicy("mixed_float16")
    hidden = layers.Dense(16, "relu", dtype=policy)
    return keras.Sequential([keras.Input((6,)), hidden, layers.Dense(3, dtype="float32")])


def truth():
    given = keras.Input((6,), dtype="bool")
    return keras.Model(given, layers.Dense(3)(layers.Dense(9)(ops.cast(given, "float32"))))


MODELS = [
    vectors,
    signals,
    grey,
    grey_without_channels,
    volumes,
    segmentation,
    tokens,
    recurrent,
    bidirectional,
    several,
    by_name,
    nested,
    nested_images,
    loop,
    open_loop,
    loop_over_images,
    masked_tokens,
    fully_convolutional,
    fixed_batch,
    code,
    whole_numbers,
    own_layer,
    subclassed,
    unregistered,
    OnAGraph,
    UnregisteredOnAGraph,
    mixed_precision,
    truth,
]
_rng = np.random.default_rng(0)
EXAMPLES = {
    "subclassed": _rng.normal(size=(8, 6)).astype(np.float32),
    "unregistered": {"x": _rng.normal(size=(8, 6)).astype(np.float32)},
    "open_loop": _rng.normal(size=(8, 5, 4)),
    "fully_convolutional": _rng.normal(size=(4, 10, 14, 3)),
}
# Converted to all TFLite files; the others to that of float32 alone, in a sixth of the time.
WHOLE = {"signals", "segmentation", "tokens", "several", "nested_images", "loop"}
ONE_A_CALL = {"loop", "open_loop", "loop_over_images", "masked_tokens"}


def quietly(line):
    pass


def pruned(make):
    keras.utils.set_random_seed(0)
    model = prune_low_magnitude(make(), None)
    prune_to(model, 0.5)
    return model


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_wrapped_model_is_exported_by_one_call(make, tmp_path, monkeypatch):
    if make.__name__ not in WHOLE:
        monkeypatch.setattr(tflite, "CONVERSIONS", tflite.CONVERSIONS[:1])
    model = pruned(make)
    before = [np.array(weight) for weight in model.get_weights()]
    audit = export_model(model, str(tmp_path), inputs=EXAMPLES.get(make.__name__), progress=quietly)
    assert audit["passed"] and audit == json.loads((tmp_path / "export.json").read_text())
    assert audit["random_inputs"] == (make.__name__ not in EXAMPLES)
    assert 0.4 <= audit["sparsity"] <= 0.6
    assert {"model.keras", "saved_model", "model_float32.tflite"} <= audit["artifacts"].keys()
    assert audit["artifacts"].keys() | audit["left_out"].keys() == {
        file.name for file in all_files() if file.by_default
    }
    assert not any("float32" in name or "int8" in name for name in audit["left_out"])
    if "model_float16_sparse.tflite" in audit["left_out"]:
        assert "sparse encoding" in audit["left_out"]["model_float16_sparse.tflite"]
    one = {name for name, entry in audit["artifacts"].items() if entry.get("examples_a_call") == 1}
    assert bool(one) == (make.__name__ in ONE_A_CALL)
    for entry in audit["artifacts"].values():
        zeros = entry["zeros"]
        assert zeros["masked_zero"] == zeros["masked"] > 0
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.skipif(this_machines_target() is None, reason="this machine is none of the targets")
@pytest.mark.parametrize("make", [several, by_name])
def test_a_c_library_of_several_inputs_and_outputs(make, tmp_path):
    model, target = pruned(make), this_machines_target()
    audit = export_model(model, str(tmp_path), formats=["c"], targets=[target], progress=quietly)
    entry = audit["artifacts"]["c"]
    assert entry["passed"] and entry["ran"] and entry["largest_logit_difference_relative"] < 1e-5
    described = json.loads((tmp_path / "c" / "model.json").read_text())
    assert (len(described["inputs"]), len(described["outputs"])) == (2, 2)


@pytest.mark.parametrize("make", [several, tokens])
def test_a_stripped_model_has_its_masks_in_its_zeros(make, tmp_path):
    wrapped = pruned(make)
    removed = sum(int((mask == 0).sum()) for mask in masks_of(wrapped).values())
    model = strip_pruning(wrapped)
    arguments = {"formats": ("keras", "saved_model"), "shrink": False, "progress": quietly}
    audit = export_model(model, str(tmp_path), **arguments)
    assert audit["artifacts"]["model.keras"]["zeros"]["masked_zero"] == removed > 0


@pytest.mark.parametrize("make", [several, recurrent, tokens])
def test_a_file_in_which_a_removed_weight_came_back_is_refused(make, tmp_path, monkeypatch):
    convert = tflite.convert_to_tflite

    def with_noise(folder, conversion):
        content = bytearray(convert(folder, conversion))
        # Zeros of float32 inside a run of them become a small number.
        place = content.find(bytes(4), content.find(bytes(4)) + 64)
        found = np.frombuffer(bytes(content[: len(content) // 4 * 4]), np.float32)
        zeros = np.flatnonzero((found[1:-1] == 0) & (np.abs(found[:-2]) > 1e-3) & (np.abs(found[2:]) > 1e-3))
        for zero in zeros:
            content[4 * (zero + 1) : 4 * (zero + 2)] = np.float32(1e-6).tobytes()
        assert len(zeros) and place > 0
        return bytes(content)

    monkeypatch.setattr(tflite, "convert_to_tflite", with_noise)
    with pytest.raises(AuditError, match="zero"):
        export_model(pruned(make), str(tmp_path), formats=("tflite",), progress=quietly)
    assert not (tmp_path / "export.json").exists()


def test_a_file_with_one_other_weight_is_refused(tmp_path, monkeypatch):
    write = SavedModel.write

    def other(file, network, path):
        kernel = network.model.layers[-1].kernel
        values = np.array(kernel)
        kernel.assign(values * 1.001)
        write_saved_model(network.model, path, network.signature)
        kernel.assign(values)

    monkeypatch.setattr(SavedModel, "write", other)
    arguments = {"formats": ("keras", "saved_model"), "progress": quietly}
    with pytest.raises(AuditError, match=r"saved_model: measured .*the rule is largest output difference"):
        export_model(pruned(loop), str(tmp_path), **arguments)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["export_failed.json"]
    monkeypatch.setattr(SavedModel, "write", write)
    assert export_model(pruned(loop), str(tmp_path), **arguments)["passed"]


def test_a_model_without_a_configuration_is_exported_but_for_its_keras_file(tmp_path):
    model = WithoutConfiguration(layers.Dense(5))
    model(EXAMPLES["subclassed"])
    lines = []
    audit = export_model(model, str(tmp_path), inputs=EXAMPLES["subclassed"], progress=lines.append)
    assert "cannot be made from its configuration" in audit["left_out"]["model.keras"]
    assert {"saved_model", "model_float32.tflite"} <= audit["artifacts"].keys()
    assert f"model.keras: left out: {audit['left_out']['model.keras']}" in lines
    assert "left out: model.keras: WithoutConfiguration" in format_audit(audit)
    with pytest.raises(UserError, match="WithoutConfiguration cannot .* Leave 'keras' out of the formats"):
        export_model(
            model, str(tmp_path), inputs=EXAMPLES["subclassed"], formats=("keras",), progress=quietly
        )


def test_what_tflite_has_no_operation_for_is_left_out_and_named(tmp_path):
    given = keras.Input((5,), dtype="int64")
    model = keras.Model(given, layers.Dense(3)(layers.CategoryEncoding(9, "multi_hot")(given)))
    audit = export_model(model, str(tmp_path), progress=quietly)
    assert audit["artifacts"].keys() == {"model.keras", "saved_model"}
    assert audit["left_out"]["model_int8.tflite"] == "TFLite has no operation for TensorFlow's DenseBincount"


def test_a_model_whose_outputs_differ_from_call_to_call_is_refused(tmp_path):
    class Noisy(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed = keras.random.SeedGenerator(0)

        def call(self, inputs):
            return inputs + keras.random.normal(ops.shape(inputs), seed=self.seed)

    model = keras.Sequential([keras.Input((5,)), layers.Dense(3), Noisy()])
    with pytest.raises(AuditError, match="two calls with the same inputs differ"):
        export_model(model, str(tmp_path), progress=quietly)


def test_a_copy_that_does_something_else_is_refused(tmp_path):
    class Forgetful(layers.Layer):
        def __init__(self, factor=1.0, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, inputs):
            return self.factor * inputs

        def get_config(self):
            return {"name": self.name}

    model = keras.Sequential([keras.Input((5,)), layers.Dense(3), Forgetful(3.0)])
    with pytest.raises(UserError, match=r"made from its configuration.* does something else"):
        export_model(model, str(tmp_path), progress=quietly)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"signal": np.zeros((4, 12, 3))}, "facts"),
        ([np.zeros((4, 12, 3)), np.zeros((3, 5))], "as many examples"),
        ([np.zeros((4, 12, 2)), np.zeros((4, 5))], r"float32 \[n, 12, 3\]"),
        ([np.full((4, 12, 3), "a"), np.zeros((4, 5))], "numbers"),
        (np.zeros((4, 12, 3)), "inputs"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_before_anything_is_written(inputs, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        export_model(several(), str(tmp_path / "out"), inputs=inputs, progress=quietly)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_size_that_is_not_known_is_asked_for(tmp_path):
    model = keras.Sequential([keras.Input((None, 4)), layers.Conv1D(4, 3), layers.GlobalMaxPooling1D()])
    with pytest.raises(ValueError, match="`inputs` must be given"):
        export_model(model, str(tmp_path), progress=quietly)
    audit = export_model(
        model, str(tmp_path), inputs=np.ones((4, 9, 4), np.float32), formats=("keras",), progress=quietly
    )
    assert audit["passed"] and not audit["random_inputs"]


def test_a_format_that_was_asked_for_is_no_option(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 4, 1)), layers.Conv3D(2, 3), layers.Flatten()])
    with pytest.raises(UserError, match="Leave 'sparse' out of the formats"):
        export_model(model, str(tmp_path), formats=("keras", "sparse"), progress=quietly)


def test_an_int8_file_for_which_8_bits_are_too_few_is_left_out_and_said(tmp_path):
    """Of weights of two sizes in a channel the small ones are lost; the other files stay."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(32), layers.Dense(2)])
    kernel = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    kernel[0] *= 1e4
    model.layers[0].set_weights([kernel, np.zeros(32, np.float32)])
    inputs = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32)
    inputs[:, 0] = 0
    audit = export_model(model, str(tmp_path), inputs=inputs, formats=("tflite",), progress=quietly)
    assert audit["passed"] and "model_float32.tflite" in audit["artifacts"]
    assert audit["left_out"].keys() == {"model_int8.tflite"}
    assert "8 bits are too few for this network: model_int8.tflite: measured" in str(audit["left_out"])
    assert not (tmp_path / "model_int8.tflite").exists()

"""Each model is built by the same code in Keras 3 and, where tfmot runs, in tf-keras for its policy."""

import keras
import numpy as np
import pytest

from tfprune.sparsity import prune_low_magnitude, pruned_layers
from tfprune.sparsity.policies import PruneForLatencyOnXNNPack, PruningPolicy


def stem(k, x):
    x = k.layers.ZeroPadding2D(1, name="stem_pad")(x)
    x = k.layers.Conv2D(4, 3, strides=2, padding="valid", use_bias=False, name="stem")(x)
    x = k.layers.BatchNormalization(name="stem_bn")(x)
    return k.layers.ReLU(6.0, name="stem_relu")(x)


def head(k, x):
    x = k.layers.GlobalAveragePooling2D(name="pool")(x)
    return k.layers.Dense(3, activation="softmax", name="head")(x)


def model_of(k, middle, start=stem, end=head):
    inputs = k.Input((32, 32, 3), name="image")
    return k.Model(inputs, end(k, middle(k, start(k, inputs))))


def inverted_residuals(k, x):
    """MobileNetV2's two kinds of blocks, with a squeeze-and-excite and both ways to add."""
    x = k.layers.ZeroPadding2D(1)(x)
    x = k.layers.DepthwiseConv2D(3, strides=2, padding="valid", use_bias=False)(x)
    x = k.layers.BatchNormalization(axis=3)(x)
    x = k.layers.Conv2D(4, 1, name="project")(x)
    y = k.layers.Conv2D(8, 1, padding="same", name="expand")(x)
    y = k.layers.Activation("relu")(y)
    y = k.layers.DepthwiseConv2D(5, padding="same")(y)
    s = k.layers.GlobalAveragePooling2D(keepdims=True)(y)
    y = k.layers.Multiply()([y, k.layers.Activation("sigmoid")(k.layers.Conv2D(8, 1, name="excite")(s))])
    y = k.layers.Conv2D(4, 1, name="project2")(y)
    x = k.layers.Add()([x, k.layers.Dropout(0.1)(y)])
    x = (x + y) * 2.0 - y
    return k.layers.UpSampling2D(2, interpolation="bilinear")(k.layers.ELU()(x))


def layer(make):
    return lambda k, x: make(k.layers)(x)


ACCEPTED = {
    "inverted residuals": {"middle": inverted_residuals},
    "depthwise 5x5 behind padding": {
        "middle": lambda k, x: k.layers.DepthwiseConv2D(5, strides=2)(k.layers.ZeroPadding2D(2)(x))
    },
    "anything before the stem": {
        "middle": inverted_residuals,
        "start": lambda k, x: stem(k, k.layers.Rescaling(1 / 255)(x)),
    },
}
# What is wrong -> the parts of the model, and what the message must name: layer, class and rule.
REFUSED = {
    "stem with padding same": (
        {"start": layer(lambda of: of.Conv2D(4, 3, strides=2, padding="same", name="stem"))},
        ["inputs", "3x3", "stride 2", "ZeroPadding2D"],
    ),
    "stem of stride 1": (
        {"start": lambda k, x: k.layers.Conv2D(4, 3, name="stem")(k.layers.ZeroPadding2D(1)(x))},
        ["inputs", "3x3", "stride 2"],
    ),
    "stem behind uneven padding": (
        {"start": lambda k, x: k.layers.Conv2D(4, 3, strides=2)(k.layers.ZeroPadding2D(((0, 1), (0, 1)))(x))},
        ["by 1 on each side"],
    ),
    "no pooling at the end": (
        {"end": lambda k, x: k.layers.Dense(3, name="head")(k.layers.Flatten()(x))},
        ["outputs", "GlobalAveragePooling2D"],
    ),
    "a second output without pooling": (
        {"end": lambda k, x: [head(k, x), k.layers.Flatten()(x)]},
        ["outputs", "GlobalAveragePooling2D"],
    ),
    "3x3 convolution": (
        {"middle": layer(lambda of: of.Conv2D(4, 3, padding="same", name="wide"))},
        ["'wide' (Conv2D)", "kernel of 1x1"],
    ),
    "1x1 convolution with a stride": (
        {"middle": layer(lambda of: of.Conv2D(4, 1, strides=2, name="strided"))},
        ["'strided' (Conv2D)", "stride 1"],
    ),
    "grouped 1x1 convolution": (
        {"middle": layer(lambda of: of.Conv2D(4, 1, groups=2, name="grouped"))},
        ["'grouped' (Conv2D)", "no groups"],
    ),
    "depthwise with stride and padding same": (
        {"middle": layer(lambda of: of.DepthwiseConv2D(3, strides=2, padding="same", name="dw"))},
        ["'dw' (DepthwiseConv2D)", "padding 'same' with stride 1"],
    ),
    "depthwise valid without padding": (
        {"middle": layer(lambda of: of.DepthwiseConv2D(3, name="dw"))},
        ["'dw' (DepthwiseConv2D)", "`ZeroPadding2D` by 1 (3x3)"],
    ),
    "depthwise behind too little padding": (
        {"middle": lambda k, x: k.layers.DepthwiseConv2D(5, name="dw")(k.layers.ZeroPadding2D(1)(x))},
        ["'dw' (DepthwiseConv2D)", "2 (5x5)"],
    ),
    "depthwise 7x7": (
        {"middle": layer(lambda of: of.DepthwiseConv2D(7, padding="same", name="dw"))},
        ["'dw' (DepthwiseConv2D)", "3x3 or 5x5"],
    ),
    "depth multiplier": (
        {"middle": layer(lambda of: of.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="dw"))},
        ["'dw' (DepthwiseConv2D)", "depth multiplier 1"],
    ),
    "dilated depthwise": (
        {"middle": layer(lambda of: of.DepthwiseConv2D(3, padding="same", dilation_rate=2, name="dw"))},
        ["'dw' (DepthwiseConv2D)", "no dilation"],
    ),
    "squeeze without keepdims": (
        {
            "middle": lambda k, x: k.layers.Multiply()(
                [x, k.layers.Reshape((1, 1, 4))(k.layers.GlobalAveragePooling2D(name="squeeze")(x))]
            )
        },
        ["'squeeze' (GlobalAveragePooling2D)", "keepdims=True"],
    ),
    "normalisation of another axis": (
        {"middle": layer(lambda of: of.BatchNormalization(axis=1, name="bn"))},
        ["'bn' (BatchNormalization)", "last axis"],
    ),
    "nearest upsampling": (
        {"middle": layer(lambda of: of.UpSampling2D(2, name="up"))},
        ["'up' (UpSampling2D)", "bilinear"],
    ),
    "another activation": (
        {"middle": layer(lambda of: of.Activation("swish", name="act"))},
        ["'act' (Activation)", "relu, relu6, leaky_relu, elu, sigmoid"],
    ),
    "another layer": (
        {"middle": layer(lambda of: of.MaxPooling2D(name="max"))},
        ["'max' (MaxPooling2D)", "none of Conv2D"],
    ),
    "another operator": (
        {"middle": lambda k, x: x / 2.0},
        ["Divide)", "Add, Subtract, Multiply alone"],
    ),
}


check = PruneForLatencyOnXNNPack().ensure_model_supports_pruning


def build(k, middle=inverted_residuals, **parts):
    return model_of(k, middle, **parts)


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_mobile_network_is_accepted(case):
    check(build(keras, **ACCEPTED[case]))


@pytest.mark.parametrize("case", REFUSED)
def test_each_rule_refuses_and_names_layer_and_rule(case):
    parts, named = REFUSED[case]
    with pytest.raises(ValueError) as error:
        check(build(keras, **parts))
    for words in named:
        assert words in str(error.value)


def test_only_1x1_convolutions_are_pruned():
    allow = PruneForLatencyOnXNNPack().allow_pruning
    assert allow(keras.layers.Conv2D(4, 1)) and allow(keras.layers.Conv2D(4, (1, 1), strides=2))
    for other in (
        keras.layers.Conv2D(4, 3),
        keras.layers.DepthwiseConv2D(1),
        keras.layers.Conv1D(4, 1),
        keras.layers.Dense(4),
    ):
        assert not allow(other)


def test_prune_low_magnitude_follows_the_policy():
    model = build(keras)
    wrapped = prune_low_magnitude(model, None, pruning_policy=PruneForLatencyOnXNNPack())
    names = {wrapper.layer.name for wrapper in pruned_layers(wrapped)}
    assert names == {"project", "expand", "excite", "project2"}
    # Wrappers are looked through: a pruned model is as fit as before.
    check(wrapped)
    with pytest.raises(ValueError, match="GlobalAveragePooling2D"):
        prune_low_magnitude(
            build(keras, **REFUSED["no pooling at the end"][0]),
            None,
            pruning_policy=PruneForLatencyOnXNNPack(),
        )


def test_a_policy_of_your_own():
    class OnlyTheHead(PruningPolicy):
        def allow_pruning(self, layer):
            return layer.name == "head"

        def ensure_model_supports_pruning(self, model):
            if len(model.outputs) != 1:
                raise ValueError("one output")

    wrapped = prune_low_magnitude(build(keras), None, pruning_policy=OnlyTheHead())
    assert [wrapper.layer.name for wrapper in pruned_layers(wrapped)] == ["head"]
    with pytest.raises(TypeError, match="abstract"):
        PruningPolicy()


def sequential(*middle):
    of = keras.layers
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            of.ZeroPadding2D(1),
            of.Conv2D(4, 3, strides=2),
            *middle,
            of.GlobalAveragePooling2D(),
        ]
    )


def nested(inner_layer):
    inputs = keras.Input((16, 16, 4))
    inner = keras.Model(inputs, inputs + inner_layer(inputs), name="block")
    return sequential(keras.layers.ReLU(), inner, inner)


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize(
    "name", ["MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50"]
)
def test_stock_models_are_refused_with_a_way_out(name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=3)
    with pytest.raises(ValueError, match="No network of `keras.applications` follows the rules"):
        check(model)
    wrapped = prune_low_magnitude(model, None, layers=PruneForLatencyOnXNNPack().allow_pruning)
    assert pruned_layers(wrapped)
    assert {wrapper.layer.kernel_size for wrapper in pruned_layers(wrapped)} == {(1, 1)}


def test_nested_models_are_checked_inside():
    check(nested(keras.layers.Conv2D(4, 1)))
    with pytest.raises(ValueError, match=r"'deep' \(Conv2D\)"):
        check(nested(keras.layers.Conv2D(4, 3, padding="same", name="deep")))


def test_a_nested_backbone_holds_the_stem_and_a_nested_head_the_pooling():
    of = keras.layers
    backbone = keras.Sequential([keras.Input((32, 32, 3)), of.ZeroPadding2D(1), of.Conv2D(4, 3, strides=2)])
    top = keras.Sequential([keras.Input((16, 16, 4)), of.Conv2D(8, 1), of.GlobalAveragePooling2D()])
    inputs = keras.Input((32, 32, 3))
    check(keras.Model(inputs, top(backbone(inputs))))
    bad = keras.Sequential(
        [keras.Input((16, 16, 4)), of.MaxPooling2D(name="max"), of.GlobalAveragePooling2D()]
    )
    with pytest.raises(ValueError, match="'max'"):
        check(keras.Model(inputs, bad(backbone(inputs))))


def test_a_layer_shared_with_another_model_is_judged_in_this_one():
    shared = keras.layers.Conv2D(4, 1)
    model = model_of(keras, lambda k, x: shared(x))
    inputs = keras.Input((8, 8, 4))
    keras.Model(inputs, keras.layers.MaxPooling2D()(shared(inputs)))
    check(model)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = keras.layers.Conv2D(4, 1)

    def call(self, x):
        return self.conv(x)


def test_unknown_graphs_are_refused():
    model = Subclassed()
    model(np.ones((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="functional or Sequential"):
        check(model)
    with pytest.raises(ValueError, match="must be built"):
        check(keras.Sequential([keras.layers.Conv2D(4, 1)]))


def is_accepted(policy, model):
    try:
        policy.ensure_model_supports_pruning(model)
    except ValueError:
        return False
    return True


@pytest.fixture(scope="module")
def tfmot_policy():
    """tf-keras and tfmot's own policy."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tfmot works on TensorFlow alone")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TF_USE_LEGACY_KERAS", "0")  # tfmot sets it to 1, which would outlive the test.
        import tensorflow as tf

        assert tf.keras.__version__.startswith("3.")
        import tensorflow_model_optimization as tfmot
        import tf_keras
    return tf_keras, tfmot.sparsity.keras.PruneForLatencyOnXNNPack()


@pytest.mark.slow
def test_tfmot_agrees_on_every_model_here(tfmot_policy):
    tf_keras, policy = tfmot_policy
    for case, parts in ACCEPTED.items():
        assert is_accepted(policy, build(tf_keras, **parts)), case
    for case, (parts, _) in REFUSED.items():
        assert not is_accepted(policy, build(tf_keras, **parts)), case


@pytest.mark.slow
def test_tfmot_agrees_on_mobilenet_v2(tfmot_policy):
    # Both refuse it: the first convolution of `keras.applications` pads by "same".
    tf_keras, policy = tfmot_policy
    options = {"weights": None, "alpha": 0.35, "input_shape": (96, 96, 3)}
    theirs = is_accepted(policy, tf_keras.applications.MobileNetV2(**options))
    model = keras.applications.MobileNetV2(**options)
    assert is_accepted(PruneForLatencyOnXNNPack(), model) == theirs
    with pytest.raises(ValueError, match="behind a `ZeroPadding2D`"):
        check(model)

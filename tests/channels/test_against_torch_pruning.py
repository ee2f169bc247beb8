"""The groups of channels are those that Torch-Pruning finds in the same networks."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.channels.groups import Traced
from tfprune.models.resnet import build_resnet

torch = pytest.importorskip("torch", reason="torch is not installed: it is in requirements-dev.txt")
torch_pruning = pytest.importorskip(
    "torch_pruning", reason="torch-pruning is not installed: it is in requirements-dev.txt"
)

from tests.support.torch_twin import Twin  # noqa: E402  (after the peers that may not be there)

pytestmark = pytest.mark.one_backend

SIDE = 32
HEAD = "head"


def vgg():
    """VGG-16 with BatchNorm and two hidden layers, narrow; the last pool leaves 2x2 pixels to flatten."""
    x = image = keras.Input((SIDE, SIDE, 3))
    for stage, (convolutions, filters) in enumerate([(2, 4), (2, 5), (3, 6), (3, 7)]):
        for number in range(convolutions):
            x = layers.Conv2D(filters, 3, padding="same", name=f"stage{stage}_conv{number}")(x)
            x = layers.BatchNormalization(name=f"stage{stage}_bn{number}")(x)
            x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    for number in range(2):
        x = layers.Dense(9, activation="relu", name=f"hidden{number}")(x)
        x = layers.Dropout(0.5)(x)
    return keras.Model(image, layers.Dense(10, name=HEAD)(x))


def mobilenet():
    return keras.applications.MobileNetV2(
        (SIDE, SIDE, 3), 0.1, weights=None, classes=10, classifier_activation=None
    )


def densenet():
    """DenseNet with bottlenecks and three blocks, narrow: every layer takes the outputs of all before it."""
    growth = 3
    image = keras.Input((SIDE, SIDE, 3))
    x = _normalized(
        layers.Conv2D(2 * growth, 7, 2, padding="same", use_bias=False, name="stem")(image), "stem"
    )
    for block, count in enumerate([2, 4, 3]):
        if block:
            x = _normalized(x, f"transition{block}")
            x = layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False, name=f"transition{block}")(x)
            x = layers.AveragePooling2D(2)(x)
        for number in range(count):
            name = f"block{block}_layer{number}"
            new = layers.Conv2D(4 * growth, 1, use_bias=False, name=f"{name}_narrow")(_normalized(x, name))
            new = _normalized(new, f"{name}_narrow")
            new = layers.Conv2D(growth, 3, padding="same", use_bias=False, name=name)(new)
            x = layers.Concatenate()([x, new])
    x = layers.GlobalAveragePooling2D()(_normalized(x, "last"))
    return keras.Model(image, layers.Dense(10, name=HEAD)(x))


def _normalized(x, name):
    return layers.ReLU()(layers.BatchNormalization(name=f"{name}_bn")(x))


def squeeze_and_excitation():
    """Two branches, joined, then scaled channel by channel, then flattened beside another part."""
    image = keras.Input((8, 8, 3))
    first = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(image)
    second = layers.Conv2D(6, 3, padding="same", activation="relu", name="second")(image)
    x = layers.Concatenate()([first, second])
    gate = layers.Conv2D(3, 1, activation="relu", name="squeeze")(layers.AveragePooling2D(8)(x))
    gate = layers.Conv2D(10, 1, activation="sigmoid", name="excite")(gate)
    x = layers.Concatenate()([layers.Multiply()([x, gate]), second])
    x = layers.Conv2D(5, 3, strides=2, padding="same", name="third")(x)
    return keras.Model(image, layers.Dense(10, name=HEAD)(layers.Flatten()(x)))


NETWORKS = {
    "resnet18": lambda: build_resnet("resnet18", classes=10, image_size=SIDE, width=4),
    "resnet34": lambda: build_resnet("resnet34", classes=10, image_size=SIDE, width=4, stem="cifar"),
    "vgg": vgg,
    "mobilenet": mobilenet,
    "densenet": densenet,
    "squeeze_and_excitation": squeeze_and_excitation,
}


def our_groups(model):
    """Returns sets of (layer, side, place): what goes when one channel goes."""
    traced = Traced(model)
    found = {}
    for one in traced.slices:
        places = np.arange(len(one.labels))
        if isinstance(one.layer, layers.Dense) and one.role == "takes":
            places = channels_first(model, one.layer)
        side = "in" if one.role == "takes" else "out"
        for place, number in zip(places, traced.sets[one.labels], strict=True):
            found.setdefault(int(number), set()).add((one.layer.name, side, int(place)))
    found.pop(0)
    return {frozenset(places) for places in found.values()}


def channels_first(model, dense):
    """Returns where PyTorch, whose channels come before the pixels, has each place that the layer takes."""
    before = dense.input._keras_history.operation
    shape = before.input.shape[1:] if isinstance(before, layers.Flatten) else dense.input.shape[1:]
    return np.moveaxis(np.arange(np.prod(shape)).reshape(shape[-1:] + shape[:-1]), 0, -1).ravel()


def their_groups(model, twin):
    """Returns the same of the twin, by Torch-Pruning."""
    name_of = {module: name for name, module in twin.modules_of.items()}
    head = twin.modules_of[model.layers[-1].name]  # Its outputs are the model's.
    image = torch.zeros(1, 3, *model.input.shape[1:3])
    graph = torch_pruning.DependencyGraph().build_dependency(twin, example_inputs=image)
    found = set()
    for group in graph.get_all_groups(ignored_layers=[head]):
        channels = {}
        for item in group.items:
            name = name_of.get(item.dep.target.module)
            if name is None:
                continue
            # Of BatchNorm and depthwise convolutions both functions are the same one.
            side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            for place, root in zip(item.idxs, item.root_idxs, strict=True):
                channels.setdefault(root, set()).add((name, side, place))
        found |= {frozenset(places) for places in channels.values()}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_channels_go_together(name):
    model = NETWORKS[name]()
    twin = Twin(model).eval()
    ours, theirs = our_groups(model), their_groups(model, twin)
    assert len(ours) > 8  # The comparison is of something.
    assert ours == theirs

"""What `--model` takes: the kinds of networks to train, a class each."""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np

from tfprune.models.efficientnet_lite import build_efficientnet_lite0
from tfprune.models.resnet import BLOCKS_PER_STAGE, build_resnet
from tfprune.models.weights import load_backbone
from tfprune.named import call_named, import_module_of, is_named, load_named
from tfprune.network.ending import replace_head
from tfprune.network.saved import load_network
from tfprune.text import did_you_mean

OWN_CLASSES = (
    "a class or function of your own needs @keras.saving.register_keras_serializable() and a module that is "
    "imported: that of --model=PACKAGE.MODULE:FUNCTION, a function that returns the model"
)


@dataclass(frozen=True)
class Wanted:
    """The data that a network is built for, and the flags that are left to it.

    Attributes:
        classes: Number of classes; None if the data has none.
        input_shape: Of one example; None if an example is several arrays.
        mean: Mean of each channel of the training images, from 0 to 255; None if the data is no images.
        std: Their standard deviation, likewise.
        seed: Of the initial weights.
        width, stem: As for `build_resnet`.
        new_head: Whether the network of a file gets a fresh last layer.
    """

    classes: int | None
    input_shape: tuple[int | None, ...] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    seed: int
    width: int = 64
    stem: str = "imagenet"
    new_head: bool = False


class Source:
    """A kind of network: one value of `--model`.

    Args:
        name: The value.

    Attributes:
        own: Whether layers of the user's own may be in it.
        convolutions_alone: Whether nothing else is pruned where no layers are named.
    """

    own: ClassVar[bool] = False
    convolutions_alone: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def takes(cls, name: str) -> bool:
        """Returns whether a value of `--model` is of this kind."""
        raise NotImplementedError

    @classmethod
    def form(cls) -> str:
        """Returns what its values are, to stand behind "must be"."""
        raise NotImplementedError

    def build(self, wanted: Wanted) -> keras.Model:
        """Returns the network; its weights are random unless it has others of its own.

        Raises:
            ValueError: If there is no such network for the data.
        """
        raise NotImplementedError

    def load_weights(self, network: keras.Model, weights: str) -> None:
        """Puts the weights that `--weights` names into a network that `build` returned.

        Raises:
            ValueError, OSError: If they do not fit, or cannot be had.
        """

    def prepare(self) -> None:
        """Makes known what is needed to load such networks from files: imports the user's own classes.

        Raises:
            ValueError: If they cannot be imported.
        """


class BuiltIn(Source):
    """A network of tfprune."""

    convolutions_alone = True
    names: ClassVar[tuple[str, ...]]

    @classmethod
    def takes(cls, name: str) -> bool:
        return name in cls.names

    @classmethod
    def form(cls) -> str:
        return ", ".join(cls.names)

    def load_weights(self, network: keras.Model, weights: str) -> None:
        load_backbone(network, weights)


class ResNet(BuiltIn):
    """A ResNet of basic blocks."""

    names = tuple(BLOCKS_PER_STAGE)

    def build(self, wanted: Wanted) -> keras.Model:
        return build_resnet(
            self.name,
            classes=wanted.classes,
            image_size=_image_size(self.name, wanted),
            width=wanted.width,
            stem=wanted.stem,
            mean=wanted.mean,
            std=wanted.std,
            seed=wanted.seed,
        )


class EfficientNetLite0(BuiltIn):
    """EfficientNet-Lite0, which has its own preprocessing."""

    names = ("efficientnet_lite0",)

    def build(self, wanted: Wanted) -> keras.Model:
        size = _image_size(self.name, wanted)
        return build_efficientnet_lite0(classes=wanted.classes, image_size=size, seed=wanted.seed)


class Application(Source):
    """A network of `keras.applications`: its preprocessing, its layers, a mean over the image and a new head.

    It takes pixels as they are. The preprocessing that Keras has beside the network is its first layer; one
    that reverses the channels is left to the first convolution, whose weights are turned round instead.
    """

    @classmethod
    def takes(cls, name: str) -> bool:
        return name in applications()

    @classmethod
    def form(cls) -> str:
        return "a network of keras.applications such as MobileNetV2"

    def build(self, wanted: Wanted) -> keras.Model:
        image = keras.Input(_image_shape(self.name, wanted), dtype="uint8", name="image")
        scale, offset, _ = _preprocessing(self.name)
        x = image
        if (scale, offset) != ((1.0,) * 3, (0.0,) * 3):
            x = keras.layers.Normalization(
                mean=[-b / a for a, b in zip(scale, offset, strict=True)],
                variance=[a**-2 for a in scale],
                dtype="float32",
                name="preprocessing",
            )(x)
        try:
            backbone = applications()[self.name](
                include_top=False, weights=None, input_tensor=x, pooling="avg"
            )
        except ValueError as error:
            raise ValueError(f"{self.name} takes no such images: {' '.join(str(error).split())}") from error
        head = keras.layers.Dense(wanted.classes, dtype="float32", name="head")
        return keras.Model(backbone.inputs, head(backbone.outputs[0]), name=self.name)

    def load_weights(self, network: keras.Model, weights: str) -> None:
        build = applications()[self.name]
        shape = network.inputs[0].shape[1:]
        if weights == "imagenet":
            try:
                backbone = build(include_top=False, weights="imagenet", input_shape=shape)
            except Exception as error:
                raise OSError(
                    f"Keras cannot have the ImageNet weights of {self.name}: {' '.join(str(error).split())}"
                ) from error
        else:
            backbone = build(include_top=False, weights=None, input_shape=shape)
            backbone.load_weights(os.path.expanduser(weights))
        theirs = [layer for layer in backbone.layers if layer.weights]
        ours = [layer for layer in network.layers if layer.weights and layer.name not in _ADDED]
        for target, source in zip(ours, theirs, strict=True):
            target.set_weights(source.get_weights())
        if _preprocessing(self.name)[2]:
            first = next(layer for layer in ours if isinstance(layer, keras.layers.Conv2D))
            first.kernel.assign(np.array(first.kernel)[:, :, ::-1, :])


# The layers of an application's network that are not of `keras.applications`.
_ADDED = ("preprocessing", "head")


@functools.cache
def applications() -> dict[str, Callable[..., keras.Model]]:
    """Returns the functions of `keras.applications` that build networks, by name."""
    return {
        name: function
        for name, function in vars(keras.applications).items()
        if inspect.isfunction(function) and "include_top" in inspect.signature(function).parameters
    }


@functools.cache
def _preprocessing(name: str) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Returns what `keras.applications` does with pixels before a network, found by asking it.

    Returns:
        Scale and offset of red, green and blue, and whether the channels are reversed.

    Raises:
        ValueError: If it does anything else with them.
    """
    homes = [home for home in vars(keras.applications).values() if inspect.ismodule(home)]
    beside = [
        home.preprocess_input for home in homes if hasattr(home, "preprocess_input") and hasattr(home, name)
    ]
    if not beside:
        return (1.0,) * 3, (0.0,) * 3, False
    preprocess = beside[0]

    def ask(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(preprocess(pixels.astype("float32")[None], data_format="channels_last"))[0]

    pixels = np.zeros((1, 4, 3))
    pixels[0, [1, 2, 3], [0, 1, 2]] = 255.0
    black, *lit = ask(pixels)[0].astype("float64")
    gains = (np.stack(lit) - black) / 255.0
    reverses = abs(gains[0, 2]) > abs(gains[0, 0])
    if reverses:
        gains, black = gains[:, ::-1], black[::-1]
    scale, offset = np.diag(gains), black
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 3))
    found = ask(images)[..., ::-1] if reverses else ask(images)
    if not np.allclose(found, images * scale + offset, rtol=0, atol=1e-4):
        raise ValueError(f"tfprune does not know the preprocessing of {name}: use a function that builds it")
    return tuple(map(float, scale)), tuple(map(float, offset)), bool(reverses)


class File(Source):
    """A `.keras` file, pruned or not."""

    own = True

    @classmethod
    def takes(cls, name: str) -> bool:
        return name.endswith(".keras")

    @classmethod
    def form(cls) -> str:
        return "a path that ends in .keras"

    @property
    def path(self) -> Path:
        """The file."""
        return Path(os.path.expanduser(self.name))

    def build(self, wanted: Wanted) -> keras.Model:
        advice = OWN_CLASSES if self.path.exists() else "give the path of a file that exists"
        network = load_network(self.path, advice)
        return replace_head(network, wanted.classes) if wanted.new_head else network


class Function(Source):
    """A function of the user's own that returns a network."""

    own = True

    @classmethod
    def takes(cls, name: str) -> bool:
        return is_named(name)

    @classmethod
    def form(cls) -> str:
        return "package.module:function, a function that returns a model"

    def build(self, wanted: Wanted) -> keras.Model:
        shape = wanted.input_shape
        offered = {
            "classes": wanted.classes,
            "input_shape": shape,
            "image_size": shape[0] if shape else None,
            "seed": wanted.seed,
            "mean": wanted.mean,
            "std": wanted.std,
        }
        network = call_named(self.name, load_named(self.name), offered)
        if not isinstance(network, keras.Model):
            raise ValueError(f"{self.name} must return a Keras model. Received: {type(network).__name__}")
        return network

    def prepare(self) -> None:
        import_module_of(self.name)


SOURCES: tuple[type[Source], ...] = (ResNet, EfficientNetLite0, Application, File, Function)


def source_of(name: str) -> Source:
    """Returns the kind of network that a value of `--model` names.

    Raises:
        ValueError: If it is of no kind; the message, to stand behind the value, lists all.
    """
    for source in SOURCES:
        if source.takes(name):
            return source(name)
    names = [*ResNet.names, *EfficientNetLite0.names, *applications()]
    same = [other for other in names if other.lower() == name.lower()]
    hint = did_you_mean(same[0] if same else name, same or names)
    raise ValueError(f"must be {'; '.join(source.form() for source in SOURCES)}{hint}")


def _image_shape(name: str, wanted: Wanted) -> tuple[int, ...]:
    """Returns the shape of the data's images.

    Raises:
        ValueError: If the data is no labelled images of three channels.
    """
    if wanted.mean is None or wanted.classes is None or wanted.input_shape is None:
        raise ValueError(
            f"{name} takes images of three channels, uint8, with whole-number labels: for other data use a "
            "function that builds the network"
        )
    return wanted.input_shape


def _image_size(name: str, wanted: Wanted) -> int:
    """Returns the side of the data's images.

    Raises:
        ValueError: If they are not square, or as `_image_shape`.
    """
    height, width = _image_shape(name, wanted)[:2]
    if height != width:
        raise ValueError(f"{name} takes square images. Received: {height}x{width}")
    return height

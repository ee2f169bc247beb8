"""ResNet-18 and ResNet-34 as torchvision builds them, in Keras."""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfprune.models.layers import he_normal, logits
from tfprune.models.seeds import seed_sequence

# Basic blocks in stages 1 to 4, which have `width`, `2 * width`, `4 * width`, `8 * width` filters.
BLOCKS_PER_STAGE = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
STEMS = ("imagenet", "cifar")

BATCH_NORM_EPSILON = 1e-5
# oneDNN up to 3.12, with AVX-512, writes behind its workspace in the gradient of a strided 1x1 convolution of
# fewer channels, where threads share an image (uxlfoundation/oneDNN, issue 6035): wrong gradients or a crash.
_ONEDNN_CHANNELS = 16
# Keras keeps this share of the old statistics; PyTorch's `momentum=0.1` is the share of the new.
BATCH_NORM_MOMENTUM = 0.9


def build_resnet(
    name: str,
    *,
    classes: int,
    image_size: int,
    width: int = 64,
    stem: str = "imagenet",
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    seed: int | None = None,
) -> keras.Model:
    """Builds a functional ResNet of basic blocks that takes plain uint8 pixels.

    The network is torchvision's: explicit zero padding before the strided convolutions (Keras's
    `padding="same"` pads them on the other side), convolutions without bias, BatchNorm with epsilon
    1e-5 and momentum 0.9, a strided 1x1 convolution as shortcut where the shape changes. Initial
    values are torchvision's too (He normal, fan out), but for the head, which is Glorot uniform
    with a bias of zero.

    The first layer computes `(pixels - mean) / std` in float32. Under a mixed precision policy the
    convolutions compute in 16 bits and the logits are float32.

    Layer names are stable: `image`, `normalization`, `stem_conv`, `stem_bn`, `stem_relu`,
    `stem_pool`, then for stage 1 to 4 and block 1 to n `stage2_block1_conv1`, `_bn1`, `_relu1`,
    `_conv2`, `_bn2`, `_shortcut_conv`, `_shortcut_bn`, `_add`, `_relu2`, and `pool`, `head`.
    A layer that pads for another has that layer's name and `_pad`. A shortcut of fewer than 16 channels
    takes every second pixel in a layer of its own, `_shortcut_conv_pool`, for the same logits.

    Example:

    ```python
    model = build_resnet("resnet34", classes=10, image_size=32, width=16, stem="cifar")
    logits = model.predict(images)  # images: uint8, (n, 32, 32, 3); logits: float32, (n, 10)
    ```

    Args:
        name: `"resnet18"` or `"resnet34"`. It is also the model's name.
        classes: Number of logits.
        image_size: Height and width of the images, in pixels.
        width: Filters of the stem and of stage 1; every later stage has twice as many as the one
            before it. 64 is the published network.
        stem: `"imagenet"`, a 7x7 convolution of stride 2 and a 3x3 max-pool of stride 2, or
            `"cifar"`, a 3x3 convolution of stride 1 and no pool.
        mean: Mean of the pixels for each channel, from 0 to 255. The default, with `std`'s, leaves
            the pixels as they are.
        std: Standard deviation of the pixels for each channel, in the same unit.
        seed: Seed of the initial values. With one, the same arguments give the same values on the
            same backend; without, they differ from call to call.

    Returns:
        A `keras.Model` from uint8 images `(batch, image_size, image_size, 3)` to float32 logits
        `(batch, classes)`.

    Raises:
        ValueError: If a name is unknown or a number out of its range.

    Source: arXiv:1512.03385; `torchvision.models.resnet34`. The CIFAR stem is the usual one for
    32x32 images, not torchvision's.
    """
    _check_choice("name", name, tuple(BLOCKS_PER_STAGE))
    _check_choice("stem", stem, STEMS)
    for argument, value in (("classes", classes), ("image_size", image_size), ("width", width)):
        if value < 1:
            raise ValueError(f"`{argument}` must be at least 1. Received: {argument}={value}")
    if len(mean) != 3 or not np.all(np.isfinite(mean)):
        raise ValueError(f"`mean` must be three finite numbers. Received: mean={mean}")
    if len(std) != 3 or not np.all(np.isfinite(std)) or min(std) <= 0:
        raise ValueError(f"`std` must be three finite numbers above 0. Received: std={std}")

    next_seed = seed_sequence(seed)
    image = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = keras.layers.Normalization(
        mean=[float(value) for value in mean],
        variance=[float(value) ** 2 for value in std],
        dtype="float32",
        name="normalization",
    )(image)

    if stem == "imagenet":
        x = _conv_bn(x, width, 7, 2, "stem_conv", "stem_bn", next_seed())
        x = keras.layers.ReLU(name="stem_relu")(x)
        # Zeros do as well as minus infinity here: nothing is below zero after the ReLU.
        x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    else:
        x = _conv_bn(x, width, 3, 1, "stem_conv", "stem_bn", next_seed())
        x = keras.layers.ReLU(name="stem_relu")(x)

    for stage, blocks in enumerate(BLOCKS_PER_STAGE[name], start=1):
        filters = width * 2 ** (stage - 1)
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _basic_block(x, filters, strides, f"stage{stage}_block{block}", next_seed)

    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, logits(x, classes, next_seed()), name=name)


def resnet_size(
    name: str, *, classes: int, image_size: int, width: int = 64, stem: str = "imagenet"
) -> tuple[int, int]:
    """Counts what a ResNet holds, without building it.

    Args:
        name, classes, image_size, width, stem: As for `build_resnet`.

    Returns:
        The number of trainable weights, and that of the outputs of all convolutions for one image.
    """
    weights = outputs = 0
    side, channels = image_size, 3

    def convolve(filters: int, kernel_size: int, strides: int) -> None:
        nonlocal weights, outputs
        weights += kernel_size**2 * channels * filters + 2 * filters  # Its BatchNorm's, too.
        outputs += math.ceil(side / strides) ** 2 * filters

    if stem == "imagenet":
        convolve(width, 7, 2)
        side = math.ceil(math.ceil(side / 2) / 2)
    else:
        convolve(width, 3, 1)
    channels = width
    for stage, blocks in enumerate(BLOCKS_PER_STAGE[name]):
        filters = width * 2**stage
        for block in range(blocks):
            strides = 2 if stage and not block else 1
            if strides > 1:
                convolve(filters, 1, strides)
            convolve(filters, 3, strides)
            side, channels = math.ceil(side / strides), filters
            convolve(filters, 3, 1)
    return weights + (channels + 1) * classes, outputs


def torch_modules(name: str) -> dict[str, str]:
    """Returns what torchvision calls each layer that has weights.

    Args:
        name: `"resnet18"` or `"resnet34"`.

    Returns:
        PyTorch's names of modules, by the names of the layers of `build_resnet`.
    """
    modules = {"stem_conv": "conv1", "stem_bn": "bn1", "head": "fc"}
    for stage, blocks in enumerate(BLOCKS_PER_STAGE[name], start=1):
        for block in range(1, blocks + 1):
            ours, theirs = f"stage{stage}_block{block}", f"layer{stage}.{block - 1}"
            for i in (1, 2):
                modules[f"{ours}_conv{i}"] = f"{theirs}.conv{i}"
                modules[f"{ours}_bn{i}"] = f"{theirs}.bn{i}"
            if stage > 1 and block == 1:
                modules[f"{ours}_shortcut_conv"] = f"{theirs}.downsample.0"
                modules[f"{ours}_shortcut_bn"] = f"{theirs}.downsample.1"
    return modules


def _basic_block(
    x: keras.KerasTensor,
    filters: int,
    strides: int,
    name: str,
    next_seed: Callable[[], int | None],
) -> keras.KerasTensor:
    shortcut = x
    x = _conv_bn(x, filters, 3, strides, f"{name}_conv1", f"{name}_bn1", next_seed())
    x = keras.layers.ReLU(name=f"{name}_relu1")(x)
    x = _conv_bn(x, filters, 3, 1, f"{name}_conv2", f"{name}_bn2", next_seed())
    if strides != 1 or shortcut.shape[-1] != filters:
        shortcut = _conv_bn(
            shortcut,
            filters,
            1,
            strides,
            f"{name}_shortcut_conv",
            f"{name}_shortcut_bn",
            next_seed(),
        )
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu2")(x)


def _conv_bn(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    strides: int,
    conv_name: str,
    bn_name: str,
    seed: int | None,
) -> keras.KerasTensor:
    # Odd kernels of stride 1: "same" pads both sides alike, as PyTorch does. With a stride it pads
    # the far side first, and the network would see other pixels than PyTorch's.
    padding = "same"
    if kernel_size == 1 and strides > 1 and x.shape[-1] < _ONEDNN_CHANNELS:
        x = keras.layers.MaxPooling2D(1, strides=strides, name=f"{conv_name}_pool")(x)
        strides = 1
    if strides > 1:
        padding = "valid"
        if kernel_size > 1:
            x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{conv_name}_pad")(x)
    x = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=he_normal(seed),
        name=conv_name,
    )(x)
    return keras.layers.BatchNormalization(
        epsilon=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM, name=bn_name
    )(x)


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(sorted(choices))}. Received: {argument}={value!r}"
        )

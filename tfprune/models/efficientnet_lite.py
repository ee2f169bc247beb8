"""EfficientNet-Lite0 as its authors build it, in Keras."""

from collections.abc import Callable
from typing import NamedTuple

import keras

from tfprune.models.layers import he_normal, logits
from tfprune.models.seeds import seed_sequence


class _Stage(NamedTuple):
    """Blocks that follow each other; the first has the stride."""

    blocks: int
    kernel_size: int
    strides: int
    expand_ratio: int
    filters: int


STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
STEM_FILTERS = 32
TOP_FILTERS = 1280

BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.9
# Pixels as the published weights were trained on them: (pixel - 127) / 128.
PIXEL_MEAN = 127.0
PIXEL_STD = 128.0


def build_efficientnet_lite0(
    *,
    classes: int,
    image_size: int,
    dropout: float = 0.2,
    stochastic_depth: float = 0.2,
    seed: int | None = None,
) -> keras.Model:
    """Builds a functional EfficientNet-Lite0 that takes plain uint8 pixels.

    The network is the published one: inverted residual blocks (a 1x1 convolution that expands, a
    depthwise one, and a 1x1 that projects) without squeeze-and-excitation, ReLU6, convolutions
    without bias and with padding "same", BatchNorm with epsilon 1e-3. Initial values are the authors' too
    (convolutions He normal, fan out), but for the head, which is Glorot uniform: theirs is for 1,000
    classes. So is BatchNorm's momentum, 0.9 and not 0.99: after pruning, and in a fine-tuning of some hundred
    steps, statistics change faster. With 1,000 classes it has 4,652,008 trainable weights.

    The first layer computes `(pixels - 127) / 128` in float32. Under a mixed precision policy the
    convolutions compute in 16 bits and the logits are float32.

    Layer names are stable: `image`, `normalization`, `stem_conv`, `stem_bn`, `stem_relu`, then for
    stage 1 to 7 and block 1 to n `stage2_block1_expand_conv`, `_expand_bn`, `_expand_relu` (none in
    stage 1), `_depthwise_conv`, `_depthwise_bn`, `_depthwise_relu`, `_project_conv`, `_project_bn`,
    and `_drop`, `_add` where the block has a shortcut; `top_conv`, `top_bn`, `top_relu`, `pool`,
    `dropout`, `head`.

    Example:

    ```python
    model = build_efficientnet_lite0(classes=10, image_size=96)
    load_backbone(model, "imagenet")
    logits = model.predict(images)  # images: uint8, (n, 96, 96, 3); logits: float32, (n, 10)
    ```

    Args:
        classes: Number of logits.
        image_size: Height and width of the images, in pixels; 224 is the published one.
        dropout: Rate of the dropout before the head, in [0, 1).
        stochastic_depth: Rate at which the last block is left out for an image of a training step,
            in [0, 1); the rates of the blocks before it rise from 0 linearly.
        seed: Seed of the initial values and of what is dropped. With one, the same arguments give the
            same values on the same backend; without, they differ from call to call.

    Returns:
        A `keras.Model`, `efficientnet_lite0`, from uint8 images `(batch, image_size, image_size, 3)`
        to float32 logits `(batch, classes)`.

    Raises:
        ValueError: If a number is out of its range.

    Source: arXiv:1905.11946; `efficientnet/lite` of github.com/tensorflow/tpu.
    """
    for argument, value in (("classes", classes), ("image_size", image_size)):
        if value < 1:
            raise ValueError(f"`{argument}` must be at least 1. Received: {argument}={value}")
    for argument, rate in (("dropout", dropout), ("stochastic_depth", stochastic_depth)):
        if not 0 <= rate < 1:
            raise ValueError(f"`{argument}` must be in [0, 1). Received: {argument}={rate}")

    next_seed = seed_sequence(seed)
    image = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(
        1 / PIXEL_STD, offset=-PIXEL_MEAN / PIXEL_STD, dtype="float32", name="normalization"
    )(image)

    x = _convolve(x, STEM_FILTERS, 3, 2, "stem", next_seed)
    blocks, number = sum(stage.blocks for stage in STAGES), 0
    for index, stage in enumerate(STAGES, start=1):
        for block in range(1, stage.blocks + 1):
            x = _inverted_residual(
                x,
                stage,
                stage.strides if block == 1 else 1,
                stochastic_depth * number / blocks,
                f"stage{index}_block{block}",
                next_seed,
            )
            number += 1
    x = _convolve(x, TOP_FILTERS, 1, 1, "top", next_seed)

    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = _drop(x, dropout, "dropout", next_seed())
    return keras.Model(image, logits(x, classes, next_seed()), name="efficientnet_lite0")


def torch_modules() -> dict[str, str]:
    """Returns what the PyPI package efficientnet-lite-pytorch calls each layer that has weights.

    Returns:
        PyTorch's names of modules, by the names of the layers of `build_efficientnet_lite0`.
    """
    modules = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "top_conv": "_conv_head",
        "top_bn": "_bn1",
        "head": "_fc",
    }
    number = 0
    for index, stage in enumerate(STAGES, start=1):
        for block in range(1, stage.blocks + 1):
            for part, batch_norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
                if part == "expand" and stage.expand_ratio == 1:
                    continue
                ours, theirs = f"stage{index}_block{block}_{part}", f"_blocks.{number}"
                modules[f"{ours}_conv"] = f"{theirs}._{part}_conv"
                modules[f"{ours}_bn"] = f"{theirs}.{batch_norm}"
            number += 1
    return modules


def _inverted_residual(
    x: keras.KerasTensor,
    stage: _Stage,
    strides: int,
    drop_rate: float,
    name: str,
    next_seed: Callable[[], int | None],
) -> keras.KerasTensor:
    shortcut = x
    if stage.expand_ratio != 1:
        x = _convolve(x, x.shape[-1] * stage.expand_ratio, 1, 1, f"{name}_expand", next_seed)
    x = keras.layers.DepthwiseConv2D(
        stage.kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        depthwise_initializer=he_normal(next_seed()),
        name=f"{name}_depthwise_conv",
    )(x)
    x = _normalize(x, f"{name}_depthwise")
    x = _convolve(x, stage.filters, 1, 1, f"{name}_project", next_seed, relu=False)
    if strides == 1 and shortcut.shape[-1] == stage.filters:
        # One draw for all of an image.
        x = _drop(x, drop_rate, f"{name}_drop", next_seed(), noise_shape=(None, 1, 1, 1))
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def _convolve(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    strides: int,
    name: str,
    next_seed: Callable[[], int | None],
    relu: bool = True,
) -> keras.KerasTensor:
    x = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=he_normal(next_seed()),
        name=f"{name}_conv",
    )(x)
    return _normalize(x, name, relu)


def _normalize(x: keras.KerasTensor, name: str, relu: bool = True) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(
        epsilon=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM, name=f"{name}_bn"
    )(x)
    return keras.layers.ReLU(max_value=6, name=f"{name}_relu")(x) if relu else x


def _drop(
    x: keras.KerasTensor,
    rate: float,
    name: str,
    seed: int | None,
    noise_shape: tuple[int | None, ...] | None = None,
) -> keras.KerasTensor:
    if seed is not None:
        seed %= 2**31  # On PyTorch, Keras keeps the seed of a layer that drops in 32 bits with a sign.
    return keras.layers.Dropout(rate, noise_shape=noise_shape, seed=seed, name=name)(x)

"""AutoAugment's policies (arXiv:1805.09501) and its table of magnitudes, as torchvision has them."""

import functools
from typing import NamedTuple

import numpy as np

# A sub-policy a line: two operations, each with its probability and, where it takes a magnitude, the
# level of it (0 to 9).
_POLICIES = {
    "cifar10": """
        Invert 0.1 + Contrast 0.2 6
        Rotate 0.7 2 + TranslateX 0.3 9
        Sharpness 0.8 1 + Sharpness 0.9 3
        ShearY 0.5 8 + TranslateY 0.7 9
        AutoContrast 0.5 + Equalize 0.9
        ShearY 0.2 7 + Posterize 0.3 7
        Color 0.4 3 + Brightness 0.6 7
        Sharpness 0.3 9 + Brightness 0.7 9
        Equalize 0.6 + Equalize 0.5
        Contrast 0.6 7 + Sharpness 0.6 5
        Color 0.7 7 + TranslateX 0.5 8
        Equalize 0.3 + AutoContrast 0.4
        TranslateY 0.4 3 + Sharpness 0.2 6
        Brightness 0.9 6 + Color 0.2 8
        Solarize 0.5 2 + Invert 0.0
        Equalize 0.2 + AutoContrast 0.6
        Equalize 0.2 + Equalize 0.6
        Color 0.9 9 + Equalize 0.6
        AutoContrast 0.8 + Solarize 0.2 8
        Brightness 0.1 3 + Color 0.7 0
        Solarize 0.4 5 + AutoContrast 0.9
        TranslateY 0.9 9 + TranslateY 0.7 9
        AutoContrast 0.9 + Solarize 0.8 3
        Equalize 0.8 + Invert 0.1
        TranslateY 0.7 9 + AutoContrast 0.9
    """,
    "imagenet": """
        Posterize 0.4 8 + Rotate 0.6 9
        Solarize 0.6 5 + AutoContrast 0.6
        Equalize 0.8 + Equalize 0.6
        Posterize 0.6 7 + Posterize 0.6 6
        Equalize 0.4 + Solarize 0.2 4
        Equalize 0.4 + Rotate 0.8 8
        Solarize 0.6 3 + Equalize 0.6
        Posterize 0.8 5 + Equalize 1.0
        Rotate 0.2 3 + Solarize 0.6 8
        Equalize 0.6 + Posterize 0.4 6
        Rotate 0.8 8 + Color 0.4 0
        Rotate 0.4 9 + Equalize 0.6
        Equalize 0.0 + Equalize 0.8
        Invert 0.6 + Equalize 1.0
        Color 0.6 4 + Contrast 1.0 8
        Rotate 0.8 8 + Color 1.0 2
        Color 0.8 8 + Solarize 0.8 7
        Sharpness 0.4 7 + Invert 0.6
        ShearX 0.6 5 + Equalize 1.0
        Color 0.4 0 + Equalize 0.6
        Equalize 0.4 + Solarize 0.2 4
        Solarize 0.6 5 + AutoContrast 0.6
        Invert 0.6 + Equalize 1.0
        Color 0.6 4 + Contrast 1.0 8
        Equalize 0.8 + Equalize 0.6
    """,
    "svhn": """
        ShearX 0.9 4 + Invert 0.2
        ShearY 0.9 8 + Invert 0.7
        Equalize 0.6 + Solarize 0.6 6
        Invert 0.9 + Equalize 0.6
        Equalize 0.6 + Rotate 0.9 3
        ShearX 0.9 4 + AutoContrast 0.8
        ShearY 0.9 8 + Invert 0.4
        ShearY 0.9 5 + Solarize 0.2 6
        Invert 0.9 + AutoContrast 0.8
        Equalize 0.6 + Rotate 0.9 3
        ShearX 0.9 4 + Solarize 0.3 3
        ShearY 0.8 8 + Invert 0.7
        Equalize 0.9 + TranslateY 0.6 6
        Invert 0.9 + Equalize 0.6
        Contrast 0.3 3 + Rotate 0.8 4
        Invert 0.8 + TranslateY 0.0 2
        ShearY 0.7 6 + Solarize 0.4 8
        Invert 0.6 + Rotate 0.8 4
        ShearY 0.3 7 + TranslateX 0.9 3
        ShearX 0.1 6 + Invert 0.6
        Solarize 0.7 2 + TranslateY 0.6 7
        ShearY 0.8 4 + Invert 0.8
        ShearX 0.7 9 + TranslateY 0.8 3
        ShearY 0.8 5 + AutoContrast 0.7
        ShearX 0.7 2 + Invert 0.1
    """,
}

POLICIES = tuple(_POLICIES)

LEVELS = 10

# Magnitude at level 0 and at the highest level. Operations that are not here take no magnitude.
_RANGES = {
    "ShearX": (0.0, 0.3),
    "ShearY": (0.0, 0.3),
    "TranslateX": (0.0, 150.0 / 331.0),
    "TranslateY": (0.0, 150.0 / 331.0),
    "Rotate": (0.0, 30.0),
    "Brightness": (0.0, 0.9),
    "Color": (0.0, 0.9),
    "Contrast": (0.0, 0.9),
    "Sharpness": (0.0, 0.9),
    "Posterize": (8.0, 4.0),
    "Solarize": (255.0, 0.0),
}

WITH_MAGNITUDE = tuple(_RANGES)

# Operations whose magnitude is negated half of the time.
SIGNED = tuple(name for name in _RANGES if name not in ("Posterize", "Solarize"))


class Operation(NamedTuple):
    """One half of a sub-policy.

    Attributes:
        name: One of `operations.OPERATIONS`.
        probability: How often it is applied.
        level: Index into `magnitudes`; None for an operation without magnitudes.
        signed: Whether the magnitude is negated half of the time.
    """

    name: str
    probability: float
    level: int | None
    signed: bool


@functools.cache
def sub_policies(policy: str) -> tuple[tuple[Operation, Operation], ...]:
    """Returns a policy's sub-policies.

    Args:
        policy: `"cifar10"`, `"imagenet"` or `"svhn"`.

    Raises:
        ValueError: Unknown policy.
    """
    if policy not in _POLICIES:
        raise ValueError(f"Unknown policy {policy!r}. The policies are: {', '.join(POLICIES)}")
    lines = _POLICIES[policy].strip().splitlines()
    return tuple(tuple(_operation(half) for half in line.split("+")) for line in lines)


@functools.lru_cache(maxsize=256)
def magnitudes(name: str, height: int, width: int) -> tuple[float, ...]:
    """Returns an operation's magnitude at each level, for an image of the given size.

    They are equally spaced float32 values, computed as `torch.linspace` does it, because a
    difference in the last bit could move a translation by a pixel.

    Args:
        name: One of `WITH_MAGNITUDE`.
        height: Image height in pixels. Translations scale with the size.
        width: Image width in pixels.
    """
    start, end = _RANGES[name]
    if name.startswith("Translate"):
        end *= width if name == "TranslateX" else height
    level = np.arange(LEVELS)
    if name == "Posterize":
        return tuple((8.0 - np.round(level / ((LEVELS - 1) / 4))).tolist())
    start, end = np.float32(start), np.float32(end)
    # The step is a float32, what is made of it is rounded once.
    step = np.float64((end - start) / np.float32(LEVELS - 1))
    rising = np.float32(start + step * level)
    falling = np.float32(end - step * (LEVELS - 1 - level))
    return tuple(np.where(level < LEVELS // 2, rising, falling).tolist())


def _operation(text: str) -> Operation:
    name, probability, *level = text.split()
    return Operation(
        name,
        float(probability),
        int(level[0]) if level else None,
        signed=name in SIGNED,
    )

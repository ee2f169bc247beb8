"""Rules for layers that prepare data: most of them take the model's inputs, of which nothing is cut."""

import numpy as np

from tfprune.channels.labels import Channels
from tfprune.channels.rules.activation import same
from tfprune.channels.rules.positions import positions
from tfprune.channels.trace import Call, Rule


def _rescaling(call: Call) -> list[Channels]:
    if np.size(call.layer.scale) > 1 or np.size(call.layer.offset) > 1:
        return call.stay("it scales each channel by a constant")
    return same(call)


def _stays(reason: str) -> Rule:
    """Returns the rule of a layer whose inputs and outputs stay."""
    return lambda call: call.stay(reason)


# What moves or resizes images, each channel alike.
_OF_POSITIONS = (
    *("CenterCrop", "Resizing", "RandomCrop", "RandomElasticTransform", "RandomFlip", "RandomGaussianBlur"),
    *("RandomPerspective", "RandomRotation", "RandomShear", "RandomTranslation", "RandomZoom"),
)
# What computes with the colours of an image, or with several images.
_OF_COLORS = (
    *("AugMix", "AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "CutMix", "Equalization"),
    *("MixUp", "Pipeline", "RandAugment", "RandomBrightness", "RandomColorDegeneration"),
    *("RandomColorJitter", "RandomContrast", "RandomErasing", "RandomGrayscale", "RandomHue", "RandomInvert"),
    *("RandomPosterization", "RandomSaturation", "RandomSharpness", "Solarization"),
)
_OF_VALUES = (
    *("CategoryEncoding", "Discretization", "HashedCrossing", "Hashing", "IntegerLookup", "StringLookup"),
    *("TextVectorization", "MaxNumBoundingBoxes"),
)

LAYERS: dict[str, Rule] = {
    "Rescaling": _rescaling,
    "Normalization": _stays("it normalises by the statistics of data"),
    **dict.fromkeys(_OF_POSITIONS, positions),
    **dict.fromkeys(_OF_COLORS, _stays("it computes with the values of an image")),
    **dict.fromkeys(_OF_VALUES, _stays("it turns values into numbers of categories")),
    **dict.fromkeys(("MelSpectrogram", "STFTSpectrogram"), _stays("it takes a signal's frequencies")),
}

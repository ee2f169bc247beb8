"""The networks that the experiments prune."""

import tfprune.backend  # noqa: F401  (before the modules that import Keras)
from tfprune.models.efficientnet_lite import build_efficientnet_lite0
from tfprune.models.resnet import build_resnet
from tfprune.models.weights import load_backbone

__all__ = ["build_efficientnet_lite0", "build_resnet", "load_backbone"]

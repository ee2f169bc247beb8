"""The networks that the experiments prune."""

from tfprune.models.imagenet import load_backbone
from tfprune.models.resnet import build_resnet

__all__ = ["build_resnet", "load_backbone"]

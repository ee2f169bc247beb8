"""Draws the picture of docs/structured.md: a network of which half of the work is cut.

  python scripts/structured_picture.py

writes docs/structured.png: EfficientNet-Lite0 with its ImageNet weights, which come with the extra
tfprune[pretrained], planned for half of its MACs.
"""

import pathlib

from tfprune import structured
from tfprune.models import build_efficientnet_lite0, load_backbone

PICTURE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "structured.png"


def planned() -> structured.Plan:
    """Returns the plan that is drawn."""
    model = build_efficientnet_lite0(classes=10, image_size=224)
    load_backbone(model, "imagenet")
    return structured.plan(model, macs=0.5, round_to=8)


if __name__ == "__main__":
    planned().plot(PICTURE)

"""The peer: the same ResNet-34 with CIFAR stem, masks and Adam in plain PyTorch."""

import contextlib
import os
import time
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class MaskedConv2d(nn.Conv2d):
    """A convolution with its kernel times a mask, as `torch.nn.utils.prune` computes it before each call."""

    def __init__(self, channels: int, filters: int, size: int, stride: int) -> None:
        super().__init__(channels, filters, size, stride, padding=size // 2, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.register_buffer("mask", torch.ones_like(self.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolves with the masked kernel."""
        return self._conv_forward(x, self.weight * self.mask, None)


class Block(nn.Module):
    """A basic block."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = MaskedConv2d(channels, filters, 3, stride), nn.BatchNorm2d(filters)
        self.conv2, self.bn2 = MaskedConv2d(filters, filters, 3, 1), nn.BatchNorm2d(filters)
        self.shortcut = nn.Identity()
        if stride != 1 or channels != filters:
            self.shortcut = nn.Sequential(MaskedConv2d(channels, filters, 1, stride), nn.BatchNorm2d(filters))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the block."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet34(nn.Module):
    """From NHWC uint8 pixels to float32 logits."""

    def __init__(self, classes: int, width: int, mean: Iterable[float], std: Iterable[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values), dtype=torch.float32).reshape(1, 3, 1, 1))
        layers: list[nn.Module] = [MaskedConv2d(3, width, 3, 1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                filters = width * 2**stage
                layers.append(Block(channels, filters, 2 if stage and not block else 1))
                channels = filters
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Computes the logits."""
        x = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.head(self.body(x).mean(dim=(2, 3)))


def prune_to(model: nn.Module, sparsity: float) -> None:
    """Sets the masks, one threshold for all convolutions, and zeroes what they remove."""
    convolutions = [module for module in model.modules() if isinstance(module, MaskedConv2d)]
    sizes = torch.cat([conv.weight.detach().abs().flatten() for conv in convolutions])
    threshold = sizes.kthvalue(max(round(sparsity * len(sizes)), 1)).values
    with torch.no_grad():
        for conv in convolutions:
            conv.mask.copy_(conv.weight.abs() > threshold)
            conv.weight.mul_(conv.mask)


class TorchTraining:
    """The peer's training, warm across rounds.

    Args:
        classes, width, mean, std: Of the network.
        precision: "bfloat16" (autocast) or "float32".
        sparsity: Of the masks.
        compiled: Whether `torch.compile` makes the step.
    """

    def __init__(
        self,
        *,
        classes: int,
        width: int,
        mean: Iterable[float],
        std: Iterable[float],
        precision: str,
        sparsity: float,
        compiled: bool,
    ) -> None:
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")  # TF32, as JAX's default.
        torch.backends.cudnn.benchmark = True
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        self.model = ResNet34(classes, width, mean, std).to(self.device, memory_format=torch.channels_last)
        prune_to(self.model, sparsity)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-4, weight_decay=5e-4, fused=True)
        self._autocast = precision == "bfloat16"
        self._forward = torch.compile(self._loss) if compiled else self._loss

    def to_device(self, images: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies a NumPy batch to the device, not waiting for the copy."""
        # tf.data's arrays are read-only; nothing writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        pair = torch.from_numpy(images), torch.from_numpy(labels)
        if self.device.type == "cpu":
            return pair[0], pair[1].long()
        images, labels = (part.pin_memory().to(self.device, non_blocking=True) for part in pair)
        return images, labels.long()

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cast = (
            torch.autocast(self.device.type, torch.bfloat16) if self._autocast else contextlib.nullcontext()
        )
        with cast:
            logits = self.model(images).float()
            loss = nn.functional.cross_entropy(logits, labels)
        return loss, (logits.detach().argmax(dim=1) == labels).sum()

    def seconds(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], on_warm: Any = None) -> float:
        """Trains on batches on the device; returns the seconds after the first, to the end of the last."""
        total = torch.zeros((), device=self.device)
        right = torch.zeros((), device=self.device, dtype=torch.long)
        start = None
        for images, labels in batches:
            self.optimizer.zero_grad(set_to_none=True)
            loss, hits = self._forward(images, labels)
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
            right += hits
            if start is None:
                float(total)
                start = time.perf_counter()
                if on_warm:
                    on_warm()
        if not torch.isfinite(total):
            raise RuntimeError("The peer's loss is not finite")
        return time.perf_counter() - start

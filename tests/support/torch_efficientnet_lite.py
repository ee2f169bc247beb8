"""The tests' reference: EfficientNet-Lite0 in plain PyTorch, with the names of the published weights."""

import math

from torch import nn

# expansion, kernel, stride, filters, blocks
STAGES = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME: the side that is odd out is the far one."""

    def forward(self, x):
        padding = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(x, padding))


def batch_norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    def __init__(self, channels, expansion, kernel, stride, filters):
        super().__init__()
        wide = channels * expansion
        self.shortcut = stride == 1 and channels == filters
        self._expand_conv = None
        if expansion > 1:
            self._expand_conv = SameConv(channels, wide, 1, bias=False)
            self._bn0 = batch_norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = batch_norm(wide)
        self._project_conv = SameConv(wide, filters, 1, bias=False)
        self._bn2 = batch_norm(filters)

    def forward(self, x):
        y = x
        if self._expand_conv is not None:
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


class EfficientNetLite0(nn.Module):
    """Takes pixels as floats, [n, 3, height, width]; returns logits."""

    def __init__(self, classes=1000):
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = batch_norm(32)
        self._blocks = nn.ModuleList()
        channels = 32
        for expansion, kernel, stride, filters, blocks in STAGES:
            for block in range(blocks):
                self._blocks.append(Block(channels, expansion, kernel, 1 if block else stride, filters))
                channels = filters
        self._conv_head = SameConv(channels, 1280, 1, bias=False)
        self._bn1 = batch_norm(1280)
        self._fc = nn.Linear(1280, classes)

    def forward(self, pixels):
        x = nn.functional.relu6(self._bn0(self._conv_stem((pixels - 127) / 128)))
        for block in self._blocks:
            x = block(x)
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean(dim=(2, 3)))

r"""The sparse trainer's convolutions beside the arithmetic peak of a core, and beside PyTorch's.

    python benchmarks/sparse_training_kernels.py --widths=64 --densities=1,0.05 --batch=128 --rounds=9

The 3x3 layers of a ResNet-34 with CIFAR stem, one thread. A figure is the share of the peak, which a loop of
multiply-adds reaches in the same run: a layer's products of weights that stay with pixels, by the time that
they would take at the peak, by the time that they took, best of the rounds. So zeros that are skipped do not
count, nor do those at the edges. `--fused` has what a network does besides: partial sums for BatchNorm, the
relu's derivative. PyTorch's row is that of the dense layer, also one thread; it is left out where PyTorch is
not installed.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
from absl import app, flags
from llvmlite import ir

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.support.calls import Arena, Bound  # noqa: E402
from tfprune.runtime import machine  # noqa: E402
from tfprune.runtime.kernels.emitter import KernelEmitter  # noqa: E402
from tfprune.runtime.kernels.kernel import Kernel as Code  # noqa: E402
from tfprune.runtime.plan.parts import Even  # noqa: E402
from tfprune.sparse_training.convolution import Call, Convolution, Relu, Statistics  # noqa: E402
from tfprune.sparse_training.graph import Kernel, Shape, Window  # noqa: E402
from tfprune.sparse_training.layout import Layout, halo_of_gradient, halo_of_input  # noqa: E402

WIDTHS = flags.DEFINE_list("widths", ["16", "64"], "Channels of the first layers.")
DENSITIES = flags.DEFINE_list("densities", ["1", "0.05", "0.02", "0.005"], "Shares of weights that stay.")
MAPS = flags.DEFINE_list("maps", ["32", "16", "8", "4"], "Sides of the layers' maps.")
BATCH = flags.DEFINE_integer("batch", 128, "Images.")
IMAGES = flags.DEFINE_integer("images", 16, "Images of a tile.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each is timed.", lower_bound=1)
STRIDED = flags.DEFINE_bool("strided", False, "Layers of stride 2 that double the channels.")
FUSED = flags.DEFINE_bool("fused", False, "With what is fused into a network's kernels.")
TORCH = flags.DEFINE_bool("torch", True, "PyTorch's row, where it is installed.")

_PEAK_ROUNDS = 200_000
_KINDS = ("forward", "input", "weights")


class Peak(Code):
    """A loop of independent multiply-adds in registers."""

    parameters: ClassVar = ("target",)
    vectors = 12

    @property
    def name(self) -> str:
        """See `Kernel`."""
        return "Peak"

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        start = [e.constant(i) for i in range(self.vectors)]
        factor = e.load_vector(e.value("target"))

        def turn(_: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            return [e.call("llvm.fma", x, factor, factor) for x in sums]

        for x in e.fold(e.part(0), e.part(1), start, turn):
            e.store(x, e.value("target"))


def best(run: Callable[[], object], rounds: int) -> float:
    """Returns the least seconds that a call takes."""
    run()
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return min(times)


def peak(target: machine.Machine) -> float:
    """Returns the multiply-adds of a second."""
    bound = Bound([Call(Peak(), (0,), Even(_PEAK_ROUNDS))], target)
    arena = Arena()
    arena.add(np.zeros(16, np.float32))
    whole = arena.array()
    return _PEAK_ROUNDS * Peak.vectors * target.lanes / best(lambda: bound.run(whole), 20)


def layer(channels: int, side: int, density: float, target: machine.Machine) -> dict[str, float]:
    """Returns the multiply-adds of a second of each of a layer's kernels."""
    random = np.random.default_rng(0)
    stride = 2 if STRIDED.value else 1
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))
    outputs = channels * stride
    size = 9 * channels * outputs
    positions = None if density == 1 else np.sort(random.choice(size, round(size * density), replace=False))
    values = random.normal(size=size if positions is None else len(positions)).astype(np.float32)
    kernel = Kernel("kernel", (3, 3, channels, outputs), values, positions)
    shape = Shape(side, side, channels)
    tiles = BATCH.value // IMAGES.value
    source = Layout(shape, tiles, IMAGES.value, halo_of_input(window, shape))
    result = Shape(*window.positions(shape), outputs)
    made = Layout(result, tiles, IMAGES.value, halo_of_gradient(window, shape))
    conv = Convolution(kernel, window, 1, source, made, target)
    arena = Arena()

    def random_value(layout: Layout) -> int:
        return arena.add(layout.pack(random.normal(size=(BATCH.value, *layout.shape)).astype(np.float32)))

    x, dx, y, dy, z, a = (random_value(layout) for layout in (source, source, made, made, source, source))
    lanes = target.lanes
    forward_sums = arena.add(np.zeros(conv.forward_slots * 2 * outputs * lanes, np.float32))
    input_sums = arena.add(np.zeros(conv.gradient_slots * 2 * channels * lanes, np.float32))
    mask = arena.add(np.ones(BATCH.value, np.float32))
    partials = arena.add(np.zeros(conv.partials, np.float32))
    center, gradients = np.zeros(outputs, np.float32), np.zeros(len(values), np.float32)
    forward, backward = {}, {}
    if FUSED.value:
        forward = {"statistics": Statistics(forward_sums, center, mask=mask)}
        backward = {"relu": Relu(a), "statistics": Statistics(input_sums, center, z=z)}
    calls = {
        "forward": conv.forward(x, y, **forward),
        "input": conv.input_gradient(dy, dx, **backward),
        "weights": conv.weights_gradient(x, dy, gradients, partials),
    }
    whole = arena.array()
    Bound(conv.refresh(values), target).run(whole)
    found = {}
    for kind, steps in calls.items():
        bound = Bound(steps, target)
        seconds = best(lambda bound=bound: bound.run(whole), ROUNDS.value)
        found[kind] = sum(call.multiply_adds for call in steps) / seconds
    return found


def torch_layer(channels: int, side: int) -> dict[str, float]:
    """Returns the multiply-adds of a second of PyTorch's dense layer."""
    import torch

    torch.set_num_threads(1)
    stride = 2 if STRIDED.value else 1
    outputs = channels * stride
    x = torch.randn(BATCH.value, channels, side, side).to(memory_format=torch.channels_last)
    w = torch.randn(outputs, channels, 3, 3).to(memory_format=torch.channels_last)

    def forward() -> torch.Tensor:
        return torch.nn.functional.conv2d(x, w, stride=stride, padding=1)

    dy = torch.randn_like(forward())

    def backward(mask: list[bool]) -> object:
        return torch.ops.aten.convolution_backward(
            dy, x, w, None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, mask
        )

    products = 9 * channels * dy.numel()
    with torch.no_grad():
        runs = {
            "forward": forward,
            "input": lambda: backward([True, False, False]),
            "weights": lambda: backward([False, True, False]),
        }
        return {kind: products / best(run, ROUNDS.value) for kind, run in runs.items()}


def main(_: list[str]) -> None:
    """Prints the table."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    target = machine.host()
    highest = peak(target)
    print(f"{target.cpu}, {target.lanes} lanes: {highest / 1e9:.1f} G multiply-adds/s\n")
    print("| channels | map | density | " + " | ".join(_KINDS) + " |")
    print("|---" * (3 + len(_KINDS)) + "|")
    torch_there = TORCH.value
    for width in map(int, WIDTHS.value):
        for side in map(int, MAPS.value):
            channels = width * 32 // side
            rows = []
            if torch_there:
                try:
                    rows.append(("PyTorch", torch_layer(channels, side)))
                except ImportError:
                    torch_there = False
                    print("PyTorch is not installed: no rows of it.", file=sys.stderr)
            for density in map(float, DENSITIES.value):
                highest = max(highest, peak(target))
                rows.append((f"{density:g}", layer(channels, side, density, target)))
            for label, rates in rows:
                shares = " | ".join(f"{rates[kind] / highest:.1%}" for kind in _KINDS)
                print(f"| {channels} | {side} | {label} | {shares} |", flush=True)


if __name__ == "__main__":
    app.run(main)

r"""Measures what values of 8 bits would gain: experiments in C beside the runtime's float32 kernels.

    python benchmarks/int8_values.py --sparsity=0.95 --rounds=31

The 3x3 convolutions of stride 1 of a ResNet-34 of width 16 at 32x32, one thread, on a processor with
AVX512-VNNI, whose `vpdpbusd` multiplies 64 pairs of 8 bits and adds four neighbours each. Values are from 0
to 255, behind ReLU; sums are of 32 bits; results are rounded by a scale and a bias of each channel. The
contenders (int8_values.c):

- `any, planes`: a channel's values lie together, and four entries' are interleaved as they are read.
- `any, fours`: four channels' values lie together, and whatever four inputs of an output have a weight that
  is not zero are multiplied.
- `blocks of 4`: the same, of weights that were pruned in blocks of 4 inputs, `Blocks((4, 1))`.
- `TFLite`: dense, a chain of eight such layers, its time divided by eight; with values of 8 bits that are
  calibrated, and as in `model_int8.tflite`, where they are rounded image by image.

Results are compared with NumPy's before anything is timed. The contenders take turns of a millisecond; a
ratio is the median over the rounds of float32's time / the contender's within a round: above 1 it is faster
than our float32. "network" sums the layers' medians, each as often as the network has it.
"""

import contextlib
import ctypes
import functools
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sparse_kernels import C_COMPILER, Kernel, make_cases, make_llvmlite, turn  # noqa: E402

flags.FLAGS.remove_flag_values(["rounds", "sparsities", "worker"])
ROUNDS = flags.DEFINE_integer("rounds", 41, "How often each is timed.", lower_bound=1)
SPARSITY = flags.DEFINE_float("sparsity", 0.95, "Of every layer.", lower_bound=0, upper_bound=0.999)

LAYERS = {(16, 32): 6, (32, 16): 7, (64, 8): 11, (128, 4): 5}  # (channels, side) to how many
DEPTH = 8  # of TFLite's chains
LARGEST_TILE = {"four_inputs": 6, "any_inputs": 4}
FLOAT32, ANY, FOURS, BLOCKS = "float32", "any, planes", "any, fours", "blocks of 4"
TFLITE = {"TFLite, calibrated": True, "TFLite, by image": False}


class Job(ctypes.Structure):
    """The `job` of int8_values.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("source", "target", "starts", "offsets", "weights")),
        *((name, ctypes.c_void_p) for name in ("scales", "bias", "mask")),
        *((name, ctypes.c_int64) for name in ("plane", "tiles", "groups")),
    )


def random_kernel(channels: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """Returns int8 [3, 3, inputs, outputs], pruned at random in blocks of so many inputs."""
    groups = 9 * channels * channels // block
    kept = np.zeros(groups, bool)
    kept[rng.permutation(groups)[: max(1, round(groups * (1 - SPARSITY.value)))]] = True
    kept = np.repeat(kept.reshape(3, 3, channels // block, 1, channels), block, 3)
    values = rng.integers(1, 128, kept.shape) * rng.choice((-1, 1), kept.shape)
    return (values * kept).reshape(3, 3, channels, channels).astype(np.int8)


def expected(kernel: np.ndarray, pixels: np.ndarray, scales: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Returns uint8 [side, side, outputs], before values are rounded to integers: float64."""
    side = len(pixels)
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0))).astype(np.float64)
    taps = [(row, column) for row in range(3) for column in range(3)]
    sums = sum(padded[r : r + side, c : c + side] @ kernel[r, c].astype(np.float64) for r, c in taps)
    return np.clip(sums * scales + bias, 0, 255)


def make_int8(library: Any, way: str, kernel: np.ndarray, side: int, vectors: int) -> Kernel:
    """Returns a kernel on values in memory, its results compared with NumPy's."""
    rng = np.random.default_rng(1)
    channels = kernel.shape[-1]
    four = way == "four_inputs"
    together, tile = (4, 16 * vectors) if four else (1, 64 * vectors)
    pitch = side + 1
    tiles = -(-side * pitch // tile)
    before, size = pitch + 1, 2 * (pitch + 1) + tiles * tile + 64
    pixels = rng.integers(0, 256, (side, side, channels), dtype=np.uint8)
    source, target = (np.zeros((channels // together, size, together), np.uint8) for _ in range(2))
    mask = np.zeros((tiles * tile, together), np.uint8)
    mask[: side * pitch].reshape(side, pitch, together)[:, :side] = 255

    def image(planes: np.ndarray) -> np.ndarray:
        inner = planes[:, before : before + side * pitch].reshape(len(planes), side, pitch, together)
        return inner[:, :, :side].transpose(1, 2, 0, 3)

    image(source)[:] = pixels.reshape(side, side, -1, together)
    starts, offsets, weights = [0], [], []
    for out in range(channels):
        entries = [
            (together * (group * size + (row - 1) * pitch + column - 1), values[..., out])
            for group in range(channels // together)
            for row in range(3)
            for column in range(3)
            if (values := kernel[row, column, together * group : together * (group + 1)])[..., out].any()
        ]
        if not four:
            entries += [(0, np.zeros(1, np.int8))] * (-len(entries) % 4)
        offsets += [offset for offset, _ in entries]
        weights += [values for _, values in entries]
        starts.append(starts[-1] + len(entries) // (1 if four else 4))
    scales = (1 / np.maximum(1, np.abs(kernel.astype(int)).sum((0, 1, 2)))).astype(np.float32)
    bias = rng.uniform(-20, 60, channels).astype(np.float32)
    arrays = [
        np.int32(starts),
        np.int32(offsets),
        np.concatenate(weights).astype(np.int8),
        scales,
        bias,
        mask,
    ]
    addresses = [planes.ctypes.data + together * before for planes in (source, target)]
    addresses += [array.ctypes.data for array in arrays]
    job = Job(*addresses, together * size, tiles, channels // together)
    function = library[f"{way}_{vectors}"]
    kernel_call = functools.partial(function, ctypes.byref(job))
    kernel_call.kept = [source, target, *arrays, job]
    kernel_call()
    found = image(target).reshape(side, side, channels)
    np.testing.assert_allclose(found, expected(kernel, pixels, scales, bias), atol=0.501, err_msg=way)
    return kernel_call


def fastest(library: Any, way: str, kernel: np.ndarray, side: int) -> Kernel:
    """Returns the kernel of the size of tile that is fastest."""
    made = [make_int8(library, way, kernel, side, 1 + i) for i in range(LARGEST_TILE[way])]
    return min(made, key=lambda kernel: min(turn(kernel, 50) for _ in range(9)))


def make_tflite(channels: int, side: int, calibrated: bool) -> Kernel:
    """Returns a call of a chain of dense layers."""
    import keras
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    keras.utils.set_random_seed(0)
    chain = [keras.layers.Conv2D(channels, 3, padding="same", activation="relu") for _ in range(DEPTH)]
    model = keras.Sequential([keras.Input((side, side, channels), batch_size=1), *chain])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if calibrated:
        images = np.random.default_rng(0).random((8, 1, side, side, channels), np.float32)
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    values = np.random.default_rng(0).integers(0, 100, details["shape"]).astype(details["dtype"])
    interpreter.set_tensor(details["index"], values)
    return interpreter.invoke


def main(_: list[str]) -> None:
    """Prints the table."""
    from tfprune.quiet import native_stderr_captured

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "values.so"))
        source = Path(__file__).with_suffix(".c")
        command = [C_COMPILER, "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", path]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(path)
    cases = make_cases(SPARSITY.value, LAYERS)
    contenders = [FLOAT32, ANY, FOURS, BLOCKS, *TFLITE]
    layers = []
    for (channels, side), own in zip(LAYERS, make_llvmlite(cases), strict=True):
        weights, blocks = (random_kernel(channels, block, rng) for block in (1, 4))
        kernels = [
            own,
            fastest(library, "any_inputs", weights, side),
            fastest(library, "four_inputs", weights, side),
            fastest(library, "four_inputs", blocks, side),
        ]
        with native_stderr_captured(), contextlib.redirect_stdout(io.StringIO()):
            kernels += [make_tflite(channels, side, calibrated) for calibrated in TFLITE.values()]
        layers.append(kernels)
    divisors = np.array([DEPTH if name in TFLITE else 1 for name in contenders])
    calls = [
        [max(1, int(1e-3 / min(turn(kernel, 5) for _ in range(9)))) for kernel in kernels]
        for kernels in layers
    ]
    seconds = np.zeros((ROUNDS.value + 1, len(layers), len(contenders)))
    for number, round_seconds in enumerate(seconds):
        for index, kernels in enumerate(layers):
            for place in np.roll(range(len(contenders)), number):
                round_seconds[index, place] = turn(kernels[place], calls[index][place])
    seconds = seconds[1:] / divisors  # the first round warms up
    network = np.array(list(LAYERS.values())) @ np.median(seconds, axis=0)
    names = [f"{channels}, {side}x{side}" for channels, side in LAYERS]
    title = f"sparsity {SPARSITY.value:g}"
    print(f"{title:14} {FLOAT32:>10}", *(f"{name:>18}" for name in contenders[1:]))
    for name, times in [*((name, seconds[:, i]) for i, name in enumerate(names)), ("network", network[None])]:
        speeds = np.median(times[:, :1] / times, axis=0)
        microseconds = 1e6 * np.median(times[:, 0])
        print(f"{name:14} {microseconds:7.1f} us", *(f"{speed:17.2f}x" for speed in speeds[1:]))


if __name__ == "__main__":
    app.run(main)

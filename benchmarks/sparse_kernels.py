r"""The runtime's sparse convolution beside the same loop in C and in Numba.

    python benchmarks/sparse_kernels.py --sparsities=0.9,0.99 --rounds=41

The 3x3 convolutions of stride 1 of a ResNet-34 at 224x224, one thread, all on the same packed weights and
planes; results are compared before anything is timed. The contenders take turns; a ratio is the median over
the rounds of time / llvmlite's time within a round. A turn repeats one layer, so that its weights come from
the cache. "network" counts each layer as often as ResNet-34 has it.

Then the runtime's kernels alone, in billions of multiply-adds a second: with the layer's own weights; with
their places moved, so that the vectors of pixels lie at whole cache lines; so that all pixels fit the
first-level cache; and both, which leaves the arithmetic. What is computed then is another convolution of the
same size.

The last table has what each costs before its first results in a fresh process that has imported NumPy: a
kernel for each size of tile, without Numba's on-disk cache. C's compiler runs where the package is built.
"""

import ctypes
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

SPARSITIES = flags.DEFINE_list("sparsities", ["0.95", "0.98", "0.995"], "Of every layer.")
ROUNDS = flags.DEFINE_integer("rounds", 21, "How often each is timed.", lower_bound=1)
WORKER = flags.DEFINE_string("worker", "", "Internal: what this process is.")

LAYERS = {(64, 56): 6, (128, 28): 7, (256, 14): 11, (512, 7): 5}  # (channels, side) to how many
C_COMPILER = shutil.which(os.environ.get("CC", "cc"))
Kernel = Callable[[], None]
# float32 numbers, half of a first-level cache of 32 KiB.
NEAR = 4096

C_HEAD = """
#include <stdint.h>
#define LANES {lanes}
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t bits __attribute__((vector_size(4 * LANES)));
typedef float in_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define AT(pointer) (*(in_memory *)(pointer + i * LANES))
"""
# Parameters, work and arena are those of `tfprune.runtime.kernels.convolution`.
C_KERNEL = """
#define EACH for (int i = 0; i < {vectors}; i++)
void convolve_{vectors}(const int64_t *p, const int64_t *work, float *arena) {{
  float *source = arena + p[0], *mask = (float *)p[4], *values = (float *)p[7], *bias = (float *)p[8];
  const int32_t *starts = (int32_t *)p[5], *offsets = (int32_t *)p[6];
  const int64_t plane = p[3], blocks = p[10], groups = p[11], tile = {vectors} * LANES;
  for (int64_t pixel = work[0] * tile; pixel < work[1] * tile; pixel += tile)
    for (int64_t block = 0; block < blocks; block++)
      for (int64_t group = work[2]; group < work[3]; group++) {{
        float *target = arena + p[1] + group * plane + pixel;
        vec sums[{vectors}];
        if (block) EACH sums[i] = AT(target);
        else EACH sums[i] = (vec){{}} + bias[group];
        const int32_t *range = starts + block * groups + group;
        for (int64_t entry = range[0]; entry < range[1]; entry++) {{
          const vec value = (vec){{}} + values[entry];
          const float *shifted = source + pixel + offsets[entry];
          EACH sums[i] += value * AT(shifted);
        }}
        if (block == blocks - 1) EACH sums[i] = (vec)((bits)sums[i] & (bits)AT(mask + pixel) & (sums[i] > 0));
        EACH AT(target) = sums[i];
      }}
}}
#undef EACH
"""
# `tile` is a constant; PASSES is written out by `compile_numba`.
NUMBA_KERNEL = """
def convolve(arena, sums, mask, starts, offsets, values, bias, source, target, plane, blocks, groups, tiles):
    for pixel in range(0, tiles * tile, tile):
        for block in range(blocks):
            for group in range(groups):
                out = arena[target + group * plane + pixel :][:tile]
                start, index = bias[group], block * groups + group
                for x in range(tile):
                    sums[x] = start if block == 0 else out[x]
                entry, stop = starts[index], starts[index + 1]
                PASSES
                here = mask[pixel : pixel + tile]
                for x in range(tile):
                    finished = max(sums[x], np.float32(0)) if here[x] != 0 else np.float32(0)
                    out[x] = finished if block == blocks - 1 else sums[x]
"""


@dataclasses.dataclass
class Case:
    """A layer in memory, as the runtime would have it."""

    name: str
    weights: Any
    vectors: int
    tile: int
    tiles: int
    plane: int
    source: int
    target: int
    arena: np.ndarray
    mask: np.ndarray
    kept: list[Any] = dataclasses.field(default_factory=list)

    def bind(self, address: int, code: Any) -> Kernel:
        """Returns the call of compiled code on this layer."""
        w = self.weights
        addresses = [array.ctypes.data for array in (self.mask, w.starts, w.offsets, w.values, w.bias)]
        numbers = [self.source, self.target, 0, self.plane, *addresses, 0, w.blocks, w.groups]
        given = [np.int64(numbers), np.int64([0, self.tiles, 0, w.groups]), self.arena]
        self.kept += [*given, code]
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(address)
        return functools.partial(function, *(array.ctypes.data for array in given))

    def result(self, kernel: Kernel) -> np.ndarray:
        """Returns the planes that a kernel computes."""
        planes = self.arena[self.target :][: self.weights.groups * self.plane].reshape(-1, self.plane)
        planes[:] = np.nan
        kernel()
        return planes[:, : self.tiles * self.tile].copy()


def make_cases(sparsity: float, sizes: Iterable[tuple[int, int]] = LAYERS) -> list[Case]:
    """Returns layers of some (channels, side) with random weights and pixels."""
    from tfprune.runtime import graph, machine
    from tfprune.runtime.plan import arena, layout, packing

    rng, target, cases = np.random.default_rng(0), machine.host(), []
    for channels, side in sizes:
        kernel = np.zeros((3, 3, channels, channels), np.float32)
        kept = max(1, round(kernel.size * (1 - sparsity)))
        kernel.flat[rng.permutation(kernel.size)[:kept]] = rng.normal(0, (kept / channels) ** -0.5, kept)
        ones, bias = np.ones(channels, np.float32), rng.normal(size=channels).astype(np.float32)
        image = graph.Input("image", (), (side, side, channels), ones, ones)
        conv = graph.Conv("conv", (0,), kernel, bias, padding=(1, 1, 1, 1), activation="relu")
        network = graph.Graph((image, conv, graph.GlobalPool("pool", (1,), "average")))
        lies = layout.Layout(network, network.shapes(), target)
        from_, to = (lies.geometry(layout.Value(node)) for node in range(2))
        tiles = layout.sparse_tiles(to, target)
        weights = packing.pack(conv, from_, 1, tiles.vectors * target.lanes, target.l1_bytes)
        places = arena.Arena(0, tight=False)
        source, result = places.planes(from_, channels, None), places.planes(to, channels, None)
        memory = arena.aligned_zeros(places.size)
        planes = memory[source:][: channels * from_.plane].reshape(channels, from_.plane)
        rows = planes[:, : side * from_.pitch].reshape(channels, side, from_.pitch)
        rows[:, :, :side] = rng.random((channels, side, side))
        mask = arena.mask_of(to, (side, side, 1))
        name, cut = f"{channels}, {side}x{side}", (tiles.vectors, tiles.vectors * target.lanes, tiles.count)
        cases.append(Case(name, weights, *cut, to.plane, source, result, memory, mask))
    return cases


def make_llvmlite(cases: list[Case]) -> list[Kernel]:
    """Returns the runtime's own kernels."""
    from tfprune.runtime import machine
    from tfprune.runtime.kernels import convolution, program

    kernels = [convolution.Convolution(1, case.vectors, "relu", residual=False) for case in cases]
    machine.provide("sched_yield")
    text = program.assembly(sorted(set(kernels), key=lambda kernel: kernel.name), machine.host().lanes)
    code = machine.Compiled(text, machine.host())
    return [case.bind(code.address(k.name), code) for case, k in zip(cases, kernels, strict=True)]


def make_c(cases: list[Case]) -> list[Kernel]:
    """Returns the same loop compiled by the C compiler; vectors by GCC's and Clang's extensions."""
    from tfprune.runtime import machine

    text = C_HEAD.format(lanes=machine.host().lanes)
    text += "".join(C_KERNEL.format(vectors=size) for size in sorted({case.vectors for case in cases}))
    options = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
    with tempfile.TemporaryDirectory() as folder:
        library = str(Path(folder, "convolve.so"))
        command = [C_COMPILER, *options, "-x", "c", "-", "-o", library]
        subprocess.run(command, input=text, text=True, check=True)
        loaded = ctypes.CDLL(library)
    found = [ctypes.cast(loaded[f"convolve_{case.vectors}"], ctypes.c_void_p).value for case in cases]
    return [case.bind(address, loaded) for case, address in zip(cases, found, strict=True)]


def make_numba(cases: list[Case]) -> list[Kernel]:
    """Returns the loop as Numba does it best, of the ways that were tried.

    Its accumulators are an array in memory, which LLVM does not keep in registers, because it might overlap
    with the pixels. A pass over it therefore adds eight entries, in the end four, two and one. With more than
    eight LLVM gives up vectorizing, for it first compares each source's range with the array's; tiles twice
    the runtime's make up for some of that. Their size is a constant, so that passes are unrolled. Sources are
    indexed with unsigned numbers, because slices are clamped and signed indices tested; and arrays copied in
    loops, because `a[:] = b` tests for overlap. (An intrinsic would have vectors: in llvmlite's IR again.)
    """
    kernels = []
    for case in cases:
        w, twice = case.weights, 2 - case.tiles % 2
        arrays = (case.mask.view(np.int32), w.starts, w.offsets, w.values.reshape(-1), w.bias.reshape(-1))
        numbers = (case.source, case.target, case.plane, w.blocks, w.groups, case.tiles // twice)
        sums = np.empty(twice * case.tile, np.float32)
        kernels.append(functools.partial(compile_numba(sums.size), case.arena, sums, *arrays, *numbers))
    return kernels


@functools.cache
def compile_numba(tile: int) -> Callable[..., None]:
    """Returns the kernel for a size of tile; Numba compiles it at its first call."""
    import numba

    passes = []
    for count in (8, 4, 2, 1):
        total = " + ".join(["sums[x]", *(f"v{i} * arena[o{i} + np.uintp(x)]" for i in range(count))])
        passes += [f"while entry + {count} <= stop:"]
        passes += [f"    o{i} = np.uintp(source + pixel + offsets[entry + {i}])" for i in range(count)]
        passes += [f"    v{i} = values[entry + {i}]" for i in range(count)]
        passes += ["    for x in range(tile):", f"        sums[x] = {total}", f"    entry += {count}"]
    names = {"np": np, "tile": tile}
    exec(NUMBA_KERNEL.replace("PASSES", "\n                ".join(passes)), names)
    return numba.njit(fastmath={"contract"}, error_model="numpy")(names["convolve"])


MAKERS = {"llvmlite": make_llvmlite, "C": make_c, "Numba": make_numba}


def measure(sparsity: float, peers: list[str]) -> None:
    """Prints the ratios at a sparsity."""
    cases = make_cases(sparsity)
    kernels = {name: MAKERS[name](cases) for name in peers}
    seconds = np.zeros((ROUNDS.value + 1, len(cases), len(peers)))
    calls = []  # a millisecond's worth
    for index, case in enumerate(cases):
        own = kernels["llvmlite"][index]
        expected = case.result(own)
        for name in peers[1:]:
            result = case.result(kernels[name][index])
            np.testing.assert_allclose(result, expected, 1e-4, 1e-4, equal_nan=False, err_msg=name)
        calls.append(max(1, int(1e-3 / min(turn(own, 10) for _ in range(3)))))
    for number, round_seconds in enumerate(seconds):
        for index in range(len(cases)):
            for place in np.roll(range(len(peers)), number):
                round_seconds[index, place] = turn(kernels[peers[place]][index], calls[index])
    seconds = seconds[1:]  # the first round warms up
    network = np.einsum("rcp,c->rp", seconds, np.array(list(LAYERS.values())))
    for label, times in [*((c.name, seconds[:, i]) for i, c in enumerate(cases)), ("network", network)]:
        ratios = np.median(times / times[:, :1], axis=0)
        microseconds = 1e6 * np.median(times[:, 0])
        print(f"{sparsity:<9} {label:12} {microseconds:9.0f} us", *(f"{r:13.2f}" for r in ratios[1:]))


def print_limits(sparsity: float) -> None:
    """Prints the multiply-adds of a second with weights at their own places and at others."""
    from tfprune.runtime import machine

    cases, lanes = make_cases(sparsity), machine.host().lanes
    for case, kernel in zip(cases, make_llvmlite(cases), strict=True):
        own = case.weights.offsets.copy()
        products = len(own) * case.tiles * case.tile
        rates = []
        for places in (own, own // lanes * lanes, own % NEAR, own % NEAR // lanes * lanes):
            case.weights.offsets[:] = places
            seconds = min(turn(kernel, 4) for _ in range(5 * ROUNDS.value))
            rates.append(1e-9 * products / seconds)
        print(f"{sparsity:<9} {case.name:12}", *(f"{rate:12.1f}" for rate in rates))


def turn(kernel: Kernel, calls: int) -> float:
    """Returns the seconds of a call."""
    start = time.perf_counter()
    for _ in range(calls):
        kernel()
    return (time.perf_counter() - start) / calls


def work() -> None:
    """Prints the seconds of import and of compilation to the first results."""
    start = time.perf_counter()
    if WORKER.value == "Numba":
        import numba  # noqa: F401
    elif WORKER.value == "llvmlite":
        import tfprune.runtime  # noqa: F401
    imported = time.perf_counter() - start
    cases = make_cases(0.95)
    start = time.perf_counter()
    [kernel() for kernel in MAKERS[WORKER.value](cases)]
    print(json.dumps([imported, time.perf_counter() - start]))


def main(_: list[str]) -> None:
    """Prints the tables."""
    if WORKER.value:
        return work()
    from tfprune.runtime import machine

    found = {"llvmlite": True, "C": C_COMPILER, "Numba": find_spec("numba")}
    peers = [name for name in MAKERS if found[name]]
    print("".join(f"{name} is missing on this machine\n" for name in MAKERS if not found[name]), end="")
    if machine.host().lanes == 16:  # all of AVX-512's width, which the runtime uses
        os.environ.setdefault("NUMBA_CPU_NAME", machine.host().cpu)
        os.environ.setdefault("NUMBA_CPU_FEATURES", machine.host().features + ",-prefer-256-bit")
    print(f"{'sparsity':9} {'layer':12} {'llvmlite':>12}", *(f"{name:>13}" for name in peers[1:]))
    for sparsity in SPARSITIES.value:
        measure(float(sparsity), peers)
    columns = ("as it is", "whole lines", "near", "both")
    print(f"\n{'sparsity':9} {'layer':12}", *(f"{column:>12}" for column in columns))
    for sparsity in SPARSITIES.value:
        print_limits(float(sparsity))
    print(f"\n{'to the first results of the four layers':42} import  compilation")
    for name in peers:
        command = [sys.executable, __file__, f"--worker={name}"]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(3)]
        imported, compiled = np.median(runs, axis=0)
        print(f"{name:42} {imported:4.2f} s  {compiled:4.2f} s")


if __name__ == "__main__":
    app.run(main)

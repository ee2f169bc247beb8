r"""The runtime's sparse convolution beside the same loop in C and in Numba.

    python benchmarks/sparse_kernels.py
    python benchmarks/sparse_kernels.py --sparsities=0.9,0.99 --rounds=41

The 3x3 convolutions of stride 1 of a ResNet-34 at 224x224, one thread. All work on the same packed weights
and planes, and their results are compared before anything is timed. They take turns, round after round; a
ratio is the median over the rounds of time / llvmlite's time within a round. A turn repeats one layer, whose
weights then come from the cache. The row "network" counts each layer as often as ResNet-34 has it.

- C: the machine's compiler, `-O3 -march=native -ffp-contract=fast`, vectors by GCC's and Clang's extensions,
  the size of a tile a constant. The variable CC chooses another compiler.
- Numba: see `make_numba`.

The last table has what each costs before its first result in a fresh process that has imported NumPy, without
Numba's on-disk cache. C's compiler runs where the package is built.
"""

import ctypes
import dataclasses
import functools
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

SPARSITIES = flags.DEFINE_list("sparsities", ["0.95", "0.98", "0.995"], "Of every layer.")
ROUNDS = flags.DEFINE_integer("rounds", 21, "How often each is timed.", lower_bound=1)
PROCESSES = flags.DEFINE_integer("processes", 3, "Fresh processes for the cost of a start.", lower_bound=1)
WORKER = flags.DEFINE_string("worker", "", "Internal: what this process is.")

LAYERS = {(64, 56): 6, (128, 28): 7, (256, 14): 11, (512, 7): 5}  # (channels, side) to how many
TURN_SECONDS = 1e-3
Kernel = Callable[[], None]

C_HEAD = """
#include <stdint.h>
#define LANES {lanes}
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t bits __attribute__((vector_size(4 * LANES)));
typedef float in_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t mask_in_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
"""
# Parameters, work and arena are those of `tfprune.runtime.kernels.convolution`.
C_KERNEL = """
#undef VECTORS
#define VECTORS {vectors}
#define EACH for (int i = 0; i < VECTORS; i++)
void convolve_{vectors}(const int64_t *p, const int64_t *work, float *arena) {{
  const float *source = arena + p[0], *mask = (const float *)p[4];
  const int32_t *starts = (const int32_t *)p[5], *offsets = (const int32_t *)p[6];
  const float *values = (const float *)p[7], *bias = (const float *)p[8];
  const int64_t plane = p[3], blocks = p[9], groups = p[10];
  for (int64_t tile = work[0]; tile < work[1]; tile++) {{
    const int64_t pixel = tile * VECTORS * LANES;
    for (int64_t block = 0; block < blocks; block++)
      for (int64_t group = work[2]; group < work[3]; group++) {{
        float *target = arena + p[1] + group * plane + pixel;
        vec sums[VECTORS];
        if (block == 0) EACH sums[i] = (vec){{}} + bias[group];
        else EACH sums[i] = *(const in_memory *)(target + i * LANES);
        const int32_t *range = starts + block * groups + group;
        for (int64_t entry = range[0]; entry < range[1]; entry++) {{
          const float *shifted = source + pixel + offsets[entry];
          const vec value = (vec){{}} + values[entry];
          EACH sums[i] += value * *(const in_memory *)(shifted + i * LANES);
        }}
        if (block == blocks - 1) EACH {{
          const bits keep = *(const mask_in_memory *)(mask + pixel + i * LANES) & (sums[i] > 0);
          sums[i] = (vec)((bits)sums[i] & keep);
        }}
        EACH *(in_memory *)(target + i * LANES) = sums[i];
      }}
  }}
}}
"""
# `tile` is a constant; PASSES is written out by `make_numba`.
NUMBA_KERNEL = """
def convolve(arena, sums, mask, starts, offsets, values, bias, source, target, plane, blocks, groups, tiles):
    for pixel in range(0, tiles * tile, tile):
        for block in range(blocks):
            for group in range(groups):
                at = target + group * plane + pixel
                out = arena[at : at + tile]
                if block == 0:
                    sums[:] = bias[group]
                else:
                    sums[:] = out
                entry, stop = starts[block * groups + group], starts[block * groups + group + 1]
                first = source + pixel
                PASSES
                if block < blocks - 1:
                    out[:] = sums
                else:
                    here = mask[pixel : pixel + tile]
                    for x in range(tile):
                        out[x] = max(sums[x], np.float32(0)) if here[x] != 0 else np.float32(0)
"""


@dataclasses.dataclass
class Case:
    """A layer in memory, as the runtime would have it."""

    channels: int
    side: int
    weights: Any
    tiles: Any
    plane: int
    source: int
    target: int
    arena: np.ndarray
    mask: np.ndarray

    def __post_init__(self) -> None:
        w = self.weights
        arrays = (self.mask, w.starts, w.offsets, w.values, w.bias)
        addresses = [array.ctypes.data for array in arrays]
        numbers = [self.source, self.target, 0, self.plane, *addresses, w.blocks, w.groups]
        self._parameters = np.array(numbers, np.int64)
        self._work = np.array([0, self.tiles.count, 0, w.groups], np.int64)

    def bind(self, address: int) -> Kernel:
        """Returns the call of compiled code on this layer."""
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(address)
        data = [array.ctypes.data for array in (self._parameters, self._work, self.arena)]
        return functools.partial(function, *data)

    def result(self, kernel: Kernel) -> np.ndarray:
        """What a kernel computes."""
        planes = self.arena[self.target : self.target + self.channels * self.plane]
        planes[:] = np.nan
        kernel()
        return planes.reshape(self.channels, self.plane)[:, : self.tiles.count * self.tile].copy()

    @property
    def tile(self) -> int:
        """Numbers in a tile."""
        from tfprune.runtime import machine

        return self.tiles.vectors * machine.host().lanes


def make_cases(sparsity: float) -> list[Case]:
    """The layers with random weights and pixels."""
    from tfprune.runtime import graph as g
    from tfprune.runtime import machine
    from tfprune.runtime.arena import Arena, aligned_zeros, mask_of
    from tfprune.runtime.layout import Layout, sparse_tiles
    from tfprune.runtime.packing import pack

    rng, target, cases = np.random.default_rng(0), machine.host(), []
    for channels, side in LAYERS:
        shape = (3, 3, channels, channels)
        kernel = np.zeros(shape, np.float32)
        kept = max(1, round(kernel.size * (1 - sparsity)))
        kernel.flat[rng.permutation(kernel.size)[:kept]] = rng.normal(0, (kept / channels) ** -0.5, kept)
        ones = np.ones(channels, np.float32)
        bias = rng.normal(size=channels).astype(np.float32)
        conv = g.Conv("conv", (0,), kernel, bias, padding=(1, 1, 1, 1), activation="relu")
        image = g.Input("image", (), (side, side, channels), ones, ones)
        network = g.Graph((image, conv, g.GlobalPool("pool", (1,), "average")))
        layout = Layout(network, network.shapes(), target)
        from_, to = layout.geometry(0), layout.geometry(1)
        tiles, places = sparse_tiles(to, target), Arena()
        weights = pack(conv, from_, 1, tiles.vectors * target.lanes, target.l1_bytes)
        source, result = places.planes(from_, channels, "source"), places.planes(to, channels, "target")
        arena = aligned_zeros(places.size)
        planes = arena[source : source + channels * from_.plane].reshape(channels, from_.plane)
        rows = planes[:, : side * from_.pitch].reshape(channels, side, from_.pitch)
        rows[:, :, :side] = rng.random((channels, side, side))
        mask = mask_of(to, (side, side, 1))
        cases.append(Case(channels, side, weights, tiles, to.plane, source, result, arena, mask))
    return cases


def make_llvmlite(cases: list[Case]) -> list[Kernel]:
    """The runtime's own kernels."""
    from tfprune.runtime import machine
    from tfprune.runtime.kernels import convolution, program

    emit = functools.partial(convolution.emit, group=1, activation="relu", residual=False)
    sizes = sorted({case.tiles.vectors for case in cases})
    kernels = [(f"convolve_{size}", functools.partial(emit, vectors=size)) for size in sizes]
    machine.provide("sched_yield")
    code = machine.Compiled(program.assembly(kernels, machine.host().lanes), machine.host())
    _ALIVE.append(code)
    return [case.bind(code.address(f"convolve_{case.tiles.vectors}")) for case in cases]


_ALIVE: list[Any] = []


def make_c(cases: list[Case]) -> list[Kernel]:
    """The same loop compiled by the C compiler."""
    from tfprune.runtime import machine

    sizes = sorted({case.tiles.vectors for case in cases})
    text = C_HEAD.format(lanes=machine.host().lanes) + "".join(C_KERNEL.format(vectors=n) for n in sizes)
    options = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "convolve.c"), Path(folder, "convolve.so")
        source.write_text(text, encoding="ascii")
        subprocess.run([c_compiler(), *options, str(source), "-o", str(library)], check=True)
        loaded = ctypes.CDLL(str(library))
    names = [f"convolve_{case.tiles.vectors}" for case in cases]
    return [
        case.bind(ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value)
        for case, name in zip(cases, names, strict=True)
    ]


def c_compiler() -> str | None:
    """The C compiler's path."""
    return shutil.which(os.environ.get("CC", "cc"))


def make_numba(cases: list[Case]) -> list[Kernel]:
    """The loop as Numba does it best, of the ways that were tried.

    Numba has neither vectors nor arrays on the stack: the accumulators are an array in memory, which LLVM
    does not keep in registers, because it might overlap with the pixels. A pass over it therefore adds eight
    entries at once, in the end four, two and one: 10 accesses to memory for 8 additions. With more than
    eight, LLVM no longer vectorizes the pass, before which it compares each source's range with the
    array's; twice the runtime's tile makes up for some of that. The tile is a constant, so that passes are
    unrolled. Sources are indexed with unsigned numbers, because a slice costs its clamping and a signed
    index the test for negative ones. `fastmath` is `contract` alone.
    """
    import numba

    passes = []
    for count in (8, 4, 2, 1):
        total = " + ".join(["sums[x]", *(f"v{i} * arena[o{i} + np.uintp(x)]" for i in range(count))])
        passes.append(f"{'while' if count == 8 else 'if'} entry + {count} <= stop:")
        passes += [f"    o{i} = np.uintp(first + offsets[entry + {i}])" for i in range(count)]
        passes += [f"    v{i} = values[entry + {i}]" for i in range(count)]
        passes += ["    for x in range(tile):", f"        sums[x] = {total}", f"    entry += {count}"]
    text = NUMBA_KERNEL.replace("PASSES", "\n                ".join(passes))

    @functools.cache
    def compiled(tile: int) -> Callable[..., None]:
        names = {"np": np, "tile": tile}
        exec(text, names)
        return numba.njit(fastmath={"contract"}, error_model="numpy")(names["convolve"])

    kernels = []
    for case in cases:
        w, twice = case.weights, 2 - case.tiles.count % 2
        arrays = (case.mask.view(np.int32), w.starts, w.offsets, w.values.reshape(-1), w.bias.reshape(-1))
        numbers = (case.source, case.target, case.plane, w.blocks, w.groups, case.tiles.count // twice)
        sums = np.empty(twice * case.tile, np.float32)
        kernels.append(functools.partial(compiled(sums.size), case.arena, sums, *arrays, *numbers))
    return kernels


MAKERS = {"llvmlite": make_llvmlite, "C": make_c, "Numba": make_numba}


def measure(sparsity: float, peers: list[str]) -> None:
    """Prints the ratios at a sparsity."""
    cases = make_cases(sparsity)
    kernels = {name: MAKERS[name](cases) for name in peers}
    seconds = np.zeros((ROUNDS.value + 1, len(cases), len(peers)))
    calls = []
    for index, case in enumerate(cases):
        own = kernels["llvmlite"][index]
        expected = case.result(own)
        for name in peers[1:]:
            np.testing.assert_allclose(case.result(kernels[name][index]), expected, 1e-4, 1e-4, err_msg=name)
        calls.append(max(1, int(TURN_SECONDS / min(turn(own, 10) for _ in range(3)))))
    for number, round_seconds in enumerate(seconds):
        for index in range(len(cases)):
            for place in np.roll(range(len(peers)), number):
                round_seconds[index, place] = turn(kernels[peers[place]][index], calls[index])
    seconds = seconds[1:]  # the first round warms up
    network = np.einsum("rcp,c->rp", seconds, np.array(list(LAYERS.values())))
    rows = [(f"{c.channels}, {c.side}x{c.side}", seconds[:, i]) for i, c in enumerate(cases)]
    for label, times in [*rows, ("network", network)]:
        ratios = np.median(times / times[:, :1], axis=0)
        own = 1e6 * np.median(times[:, 0])
        print(f"{sparsity:<9} {label:12} {own:9.0f} us " + "".join(f"{r:14.2f}" for r in ratios[1:]))


def turn(kernel: Kernel, calls: int) -> float:
    """Seconds of a call."""
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
    for kernel in MAKERS[WORKER.value](cases):
        kernel()
    print(json.dumps([imported, time.perf_counter() - start]))


def main(_: list[str]) -> None:
    """Prints the tables."""
    if WORKER.value:
        work()
        return
    found = {"llvmlite": True, "C": c_compiler(), "Numba": importlib.util.find_spec("numba")}
    peers = [name for name in MAKERS if found[name]]
    for name in MAKERS:
        if not found[name]:
            print(f"{name} is missing on this machine")
    widen_numba()
    print(f"{'sparsity':9} {'layer':12} {'llvmlite':>12} " + "".join(f"{name:>14}" for name in peers[1:]))
    for sparsity in SPARSITIES.value:
        measure(float(sparsity), peers)
    print(f"\n{'to the first results of the four layers':42} import  compilation")
    for name in peers:
        command = [sys.executable, __file__, f"--worker={name}"]
        runs = [
            json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            for _ in range(PROCESSES.value)
        ]
        imported, compiled = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{name:42} {imported:4.2f} s  {compiled:4.2f} s")


def widen_numba() -> None:
    """Lets LLVM use all of AVX-512's width in Numba's code, as the runtime does in its own."""
    from tfprune.runtime import machine

    target = machine.host()
    if target.lanes == 16:
        os.environ.setdefault("NUMBA_CPU_NAME", target.cpu)
        os.environ.setdefault("NUMBA_CPU_FEATURES", target.features + ",-prefer-256-bit")


if __name__ == "__main__":
    app.run(main)

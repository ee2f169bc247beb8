r"""Measures a network as a C library: latency beside the Python runtime's; start, memory, size beside TFLite.

    python benchmarks/c_library.py --sparsities=0.95 --image_size=224
    python benchmarks/c_library.py --sparsities=0.95 --image_size=32 --stem=cifar --width=16

The networks are those of sparse_inference.py. The library's own benchmark program, compiled by the C compiler
of this machine (`--cc`), and the Python runtime are timed in turn, round after round, each for `--images`
images a round; a ratio is the median over the rounds of the ratio within a round, least and largest in
parentheses. The first image is the whole process of a program that classifies one, from its start to its end;
of the others, from the import on. Memory is the peak of such a process. At the end is what a Python process
waits for before its first image: the import, and `runtime.load` with the library beside the file and without.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sparse_inference as networks
from absl import app, flags

CPU = flags.DEFINE_string("cpu", "", "As of tfprune-export. Empty: the target's own processors.")
CC = flags.DEFINE_string("cc", "cc", "The C compiler.")
IMAGES = flags.DEFINE_integer("images", 50, "Images of each in a round.", lower_bound=1)
THREAD_COUNTS = flags.DEFINE_list("thread_counts", ["1", "2"], "Numbers of threads.")


LOAD = """
import sys
import time

start = time.perf_counter()
from tfprune import runtime

imported = time.perf_counter()
runtime.load(sys.argv[1], 1, use_library=sys.argv[2] == "with")
print(imported - start, time.perf_counter() - imported)
"""


def ratios(theirs: list[float], own: list[float]) -> str:
    """Returns how many times as fast `own` is, over rounds."""
    found = [a / b for a, b in zip(theirs, own, strict=True)]
    return f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def process_seconds(command: list[str]) -> float:
    """Returns the seconds of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def load_milliseconds(path: Path, library: str) -> tuple[float, float]:
    """Returns the times of the import and of `runtime.load`, `"with"` or `"without"` the library."""
    command = [sys.executable, "-c", LOAD, str(path), library]
    seconds = [
        tuple(map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))
        for _ in range(networks.ROUNDS.value)
    ]
    imports, loads = zip(*seconds, strict=True)
    return 1e3 * statistics.median(imports), 1e3 * statistics.median(loads)


def peak_bytes(benchmark: str) -> int:
    """Returns the peak memory of the benchmark program, read while it runs."""
    # `ru_maxrss`, which could be had at its end, begins at its parent's.
    with subprocess.Popen([benchmark, str(10**9)], stdout=subprocess.DEVNULL) as process:
        time.sleep(1)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status).group(1))


def measure(sparsity: float, folder: Path) -> None:
    """Measures one network."""
    import numpy as np

    from tfprune import runtime
    from tfprune.benchmark.memory import first_run
    from tfprune.compiler.compile import compile_model
    from tfprune.compiler.paths import choose_paths
    from tfprune.export.export import export_model
    from tfprune.runtime.ahead.targets import this_machines_target

    target = this_machines_target()
    model, masks = networks.pruned_network(sparsity, "uniform")
    images = networks.random_images(1)
    export_model(
        model,
        str(folder),
        inputs=images,
        masks=masks,
        formats=["tflite", "sparse"],
        sparse_weights="float32",
        progress=lambda _: None,
    )
    graph = choose_paths(compile_model(model))
    runtime.write_file(graph, folder / "model.tfprune", "float32")
    library = runtime.compile_library(folder / "model.tfprune", targets=target, cpu=CPU.value or None)
    built = library.built[0]
    for program in ("example", "benchmark"):
        source, archive = library.folder / f"{program}.c", library.folder / target / "libmodel.a"
        command = [CC.value, "-O2", "-std=c11", "-I", library.folder, source, archive, "-pthread"]
        subprocess.run([*map(str, command), "-o", str(folder / program)], check=True)

    size = networks.IMAGE_SIZE.value
    print(f"\n{model.name}, width {networks.WIDTH.value}, {size} pixels, sparsity {sparsity:g}")
    image = images.astype(np.float32)
    for threads in map(int, THREAD_COUNTS.value):
        model_here = runtime.Model(graph, threads)
        model_here(image)
        python, c = [], []
        for _ in range(networks.ROUNDS.value):
            times = []
            for _ in range(IMAGES.value):
                start = time.perf_counter()
                model_here(image)
                times.append(1e3 * (time.perf_counter() - start))
            python.append(statistics.median(times))
            command = [str(folder / "benchmark"), str(IMAGES.value), str(threads)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            c.append(float(re.search(r"median ([\d.]+) ms", printed).group(1)))
        print(
            f"{threads} threads: C {statistics.median(c):.3f} ms, Python {statistics.median(python):.3f} ms;"
            f" C {ratios(python, c)} times as fast",
            flush=True,
        )
    images[0].tofile(folder / "image.bin")
    np.save(folder / "image.npy", images)
    program = [str(folder / "example"), str(folder / "image.bin")]
    seconds = statistics.median(process_seconds(program) for _ in range(networks.ROUNDS.value))
    rows = [("C", 1e3 * seconds, peak_bytes(str(folder / "benchmark")), built.object_bytes)]
    for name, file in (("tfprune", "model.tfprune"), ("tflite_float32", "model_float32.tflite")):
        first = first_run(name, str(folder / file), str(folder / "image.npy"))
        rows.append((name, 1e3 * first.seconds, first.peak_bytes, (folder / file).stat().st_size))
    for name, milliseconds, peak, size in rows:
        numbers = f"{milliseconds:8.1f} ms   peak {peak / 1e6:7.1f} MB   file {size / 1e6:7.2f} MB"
        print(f"{name:15} first image {numbers}")
    imported, loaded = load_milliseconds(folder / "model.tfprune", "with")
    _, compiled = load_milliseconds(folder / "model.tfprune", "without")
    print(
        f"import of tfprune.runtime {imported:.0f} ms, load with the library {loaded:.0f} ms,"
        f" without {compiled:.0f} ms"
    )
    print(library)


def main(_: list[str]) -> None:
    """Measures each network."""
    for sparsity in map(float, networks.SPARSITIES.value):
        with tempfile.TemporaryDirectory() as folder:
            measure(sparsity, Path(folder))


if __name__ == "__main__":
    sys.path.insert(0, str(networks.REPOSITORY))
    app.run(main)

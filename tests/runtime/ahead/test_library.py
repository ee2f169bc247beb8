"""C libraries: this machine's in this process, and others compiled, linked and run as their users do."""

import dataclasses
import json
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest

from tests.support.networks import random_images, random_kernel, random_network, several_ends
from tfprune import runtime
from tfprune.runtime import machine
from tfprune.runtime.ahead.loaded import LoadedLibrary
from tfprune.runtime.ahead.sources import argument_names
from tfprune.runtime.ahead.targets import TARGETS, this_machines_target
from tfprune.runtime.graph import (
    CELLS,
    FLOAT_PATHS,
    Activation,
    Concatenate,
    Conv,
    Flatten,
    Gather,
    GlobalPool,
    Graph,
    Input,
    Quantize,
    Recurrent,
)
from tfprune.runtime.model import Model
from tfprune.runtime.plan.lowering import make_plan
from tfprune.runtime.plan.plan import Port

pytestmark = pytest.mark.one_backend
HERE = this_machines_target()
C_FLAGS = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
# Target -> compiler and its flags, and what runs the program.
CROSS = {
    "aarch64-linux": (["aarch64-linux-gnu-gcc", "-static"], ["qemu-aarch64"]),
    "armv7-linux": (["arm-linux-gnueabihf-gcc", "-static", "-mfpu=neon-vfpv4"], ["qemu-arm"]),
    "riscv64-linux": (["riscv64-linux-gnu-gcc", "-static"], ["qemu-riscv64"]),
    # A microcontroller's instructions are the larger processors', too: Linux starts the program here.
    "thumbv7em": (
        ["arm-linux-gnueabihf-gcc", "-static", "-mthumb", "-Wl,--no-warn-mismatch"],
        ["qemu-arm", "-cpu", "max"],
    ),
}
needs_here = pytest.mark.skipif(HERE is None, reason="this machine is none of the targets")
THREADS_PROGRAM = """
#include "model.h"
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
static _Alignas(64) unsigned char arena[MODEL_ARENA_BYTES], other[MODEL_ARENA_BYTES];
static float image[MODEL_IMAGE_NUMBERS], alone[MODEL_CLASSES], together[MODEL_CLASSES];
static int threads;
static void wait_for_others(void) { sched_yield(); }
static void *work(void *number) { model_work(arena, (int32_t)(intptr_t)number, threads); return NULL; }
int main(void) {
    for (int i = 0; i < MODEL_IMAGE_NUMBERS; i++) image[i] = (float)((i * 7919) % 256);
    model_run(other, image, alone);
    for (threads = 1; threads <= MODEL_THREADS + 2; threads++) { /* Those beyond have nothing to do. */
        for (int round = 0; round < 50; round++) {
            pthread_t pool[MODEL_THREADS + 2];
            model_begin(arena, image, round % 2 ? wait_for_others : NULL);
            for (int i = 0; i < threads; i++) pthread_create(&pool[i], NULL, work, (void *)(intptr_t)i);
            for (int i = 0; i < threads; i++) pthread_join(pool[i], NULL);
            model_end(arena, together);
            if (memcmp(alone, together, sizeof alone)) return printf("%d threads differ\\n", threads), 1;
        }
    }
    puts("equal");
    return 0;
}
"""


@pytest.fixture(scope="module")
def network():
    return random_network(np.random.default_rng(3))


@pytest.fixture(scope="module")
def image(network):
    return random_images(np.random.default_rng(1), network, 1, "uint8")


@pytest.fixture(scope="module")
def folder(network, image, tmp_path_factory):
    """The library for every target, with an image beside it."""
    folder = tmp_path_factory.mktemp("c")
    runtime.compile_library(network, folder, list(TARGETS), threads=2)
    image.tofile(folder / "image.bin")
    return folder


def need(*tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")


def call(*command, cwd=None):
    found = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert found.returncode == 0, f"{command}: {found.stdout}{found.stderr}"
    return found.stdout


def outputs_of(printed):
    """The numbers that the example prints, of all outputs one after the other."""
    lines = [line.split()[-2:] for line in printed.splitlines()]
    return np.array([float(number) for word, number in lines if word.isdigit()], np.float32)


@needs_here
@pytest.mark.parametrize("seed", range(4))
def test_results_are_the_python_runtimes_to_the_bit(seed, tmp_path):
    rng = np.random.default_rng(100 + seed)
    graph = random_network(rng)
    runtime.compile_library(graph, tmp_path, HERE)
    library = LoadedLibrary(tmp_path)
    own = {processor.cpu: processor for processor in TARGETS[HERE].machines()}
    for dtype in ("float32", "uint8"):
        images = random_images(rng, graph, 3, dtype)
        found = library(images)
        expected = Model(graph, 1, target=own[library.processor])(images)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(library(images), found)  # The arena is used again.


@needs_here
def test_every_processor_that_this_machine_is(network, image, tmp_path):
    tried = 0
    for cpu, features in TARGETS[HERE].variants:
        has = machine.host().features.split(",")
        if set(filter(None, features.split(","))) - set(has):
            continue
        tried += 1
        target = machine.machine(TARGETS[HERE].triple, cpu, features)
        runtime.compile_library(network, tmp_path, HERE, cpu=",".join(filter(None, (cpu, features))))
        library = LoadedLibrary(tmp_path)
        np.testing.assert_array_equal(library(image), Model(network, 1, target=target)(image))
        assert library.processor == cpu
    assert tried


@needs_here
@pytest.mark.parametrize("seed", range(4))
def test_weights_of_8_bits(seed, tmp_path):
    """To the bit as the Python runtime computes with them, and close to the network."""
    rng = np.random.default_rng(200 + seed)
    graph = random_network(rng, version=1)
    runtime.compile_library(graph, tmp_path, HERE, weights="int8")
    library, images = LoadedLibrary(tmp_path), random_images(rng, graph, 2)
    found = library(images)
    (target,) = [own for own in TARGETS[HERE].machines() if own.cpu == library.processor]
    np.testing.assert_array_equal(found, Model.from_plan(make_plan(graph, target, compact=True), 1)(images))
    exact = Model(graph, 1)(images)
    assert 0 < np.abs(found - exact).max() < 0.05 * max(1, np.abs(exact).max())


@pytest.mark.parametrize("target", ["x86_64-linux", "thumbv7em"])
def test_weights_of_8_bits_are_smaller(target, tmp_path):
    rng = np.random.default_rng(0)
    ones = np.ones(32, np.float32)
    nodes = (
        Input("image", (), (12, 12, 16), ones[:16], ones[:16]),
        Conv("conv", (0,), random_kernel(rng, (3, 3, 16, 32), 0.8), ones),
        GlobalPool("pool", (1,), "average"),
        Conv("dense", (2,), random_kernel(rng, (1, 1, 32, 32), 0.0), ones, path="dense"),
        Conv("head", (3,), random_kernel(rng, (1, 1, 32, 10), 0.5), ones[:10]),
    )
    sizes = {}
    for weights in ("float32", "int8"):
        (built,) = runtime.compile_library(Graph(nodes), tmp_path, target, weights=weights).built
        sizes[weights] = built.weight_bytes, built.list_bytes
    assert sizes["int8"][0] < 0.35 * sizes["float32"][0]
    assert sizes["int8"][1] < 0.6 * sizes["float32"][1]


@needs_here
@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_example_is_compiled_linked_and_run(folder, image, network, language, tmp_path):
    compiler = {"c": "gcc", "c++": "g++"}[language]
    need(compiler)
    program = tmp_path / "example"
    source = folder / "example.c"
    flags = C_FLAGS
    if language == "c++":  # The header, with the functions' C names.
        source = tmp_path / "example.cc"
        text = (folder / "example.c").read_text().replace("_Alignas", "alignas")
        source.write_text(text)
        flags = ["-std=c++17", "-Wall", "-Werror"]
    call(compiler, *flags, "-I", folder, source, folder / HERE / "libmodel.a", "-o", program)
    elsewhere = ["-U__linux__", "-fsyntax-only"]  # A system that is not asked for large pages.
    call(compiler, *flags, *elsewhere, "-I", folder, source)
    found = outputs_of(call(program, folder / "image.bin"))
    loaded = LoadedLibrary(folder)
    np.testing.assert_array_equal(found, loaded(image)[0])
    floats = image.astype(np.float32) / 2
    floats.tofile(tmp_path / "floats.bin")
    np.testing.assert_array_equal(outputs_of(call(program, tmp_path / "floats.bin")), loaded(floats)[0])
    np.testing.assert_array_equal(outputs_of(call(program)), loaded(np.zeros_like(image))[0])
    refused = subprocess.run([program, folder / "model.h"], capture_output=True, text=True)
    size = image.size
    assert (refused.returncode, refused.stderr) == (
        1,
        f"{folder / 'model.h'} must have {size} bytes, or {4 * size} for floats\n",
    )


@needs_here
def test_several_inputs_and_outputs(tmp_path):
    """As the Python runtime, to the bit; in C each is an argument, by its name."""
    rng = np.random.default_rng(4)
    graph = several_ends(rng)
    library = runtime.compile_library(graph, tmp_path, HERE, threads=2)
    assert library.inputs == {"image": (5, 6, 3), "signal": (6, 3)}
    assert library.outputs == {"kind": (4,), "signal_2": (6, 3), "shares": (5, 6, 4)}
    given = {
        "image": rng.integers(0, 256, (3, 5, 6, 3)).astype(np.uint8),
        "signal": rng.normal(size=(3, 6, 3)).astype(np.float32),
    }
    expected, loaded = Model(graph, 1)(given), LoadedLibrary(tmp_path)
    for found in (loaded(given), loaded(list(given.values()))):
        assert list(found) == ["kind", "signal", "shares"]
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name])
    with pytest.raises(ValueError, match="must be a list of 2 inputs. Received: 1"):
        loaded(given["image"])

    need("gcc")
    path = tmp_path / HERE / "libmodel.a"
    call("gcc", *C_FLAGS, "-I", tmp_path, tmp_path / "example.c", path, "-o", tmp_path / "example")
    one = np.concatenate([values[0].astype(np.float32).ravel() for values in given.values()])
    one.tofile(tmp_path / "floats.bin")
    (tmp_path / "bytes.bin").write_bytes(bytes(range(one.size)))
    in_bytes = np.arange(one.size, dtype=np.uint8)
    of_bytes = loaded([in_bytes[:90].reshape(1, 5, 6, 3), in_bytes[90:].reshape(1, 6, 3)])
    for file, wanted in (("floats.bin", expected), ("bytes.bin", of_bytes)):
        printed = call(tmp_path / "example", tmp_path / file)
        assert "signal_2 17 " in printed and "shares largest " in printed
        wanted = np.concatenate([values[0].ravel() for values in wanted.values()])
        np.testing.assert_array_equal(outputs_of(printed), wanted)
    flags = [*C_FLAGS, "-pthread", "-I", tmp_path]
    call("gcc", *flags, tmp_path / "benchmark.c", path, "-o", tmp_path / "benchmark")
    assert "median" in call(tmp_path / "benchmark", 5, 2)


def test_the_names_of_arguments():
    def names(inputs, outputs, shape=(4,)):
        return argument_names([Port(name, shape) for name in inputs], [Port(name, (4,)) for name in outputs])

    assert names(["Left eye", "while", "7", "__x", "left__eye", "arena", ""], ["only"]) == (
        ["left_eye", "while_2", "input_7", "input_x", "left_eye_2", "arena_2", "input"],
        ["output"],
    )
    assert names(["日本", "uint8_t"], ["only"])[0] == ["input", "uint8_t_2"]
    assert names(["a", "b"], ["a", "größe"]) == (["a", "b"], ["a_2", "gr_e"])
    # An only one has its name first.
    assert names(["output", "b"], ["only"]) == (["output_2", "b"], ["output"])
    assert names(["only"], ["image", "image"], (4, 4, 3)) == (["image"], ["image_2", "image_3"])
    assert names(["image"], ["input", "image"]) == (["input"], ["input_2", "image"])


@needs_here
def test_threads_share_an_image(folder, tmp_path):
    need("gcc")
    (tmp_path / "threads.c").write_text(THREADS_PROGRAM)
    library = folder / HERE / "libmodel.a"
    call("gcc", *C_FLAGS, "-I", folder, "threads.c", library, "-pthread", "-o", "threads", cwd=tmp_path)
    assert call(tmp_path / "threads") == "equal\n"
    call(
        "gcc",
        *C_FLAGS,
        "-I",
        folder,
        folder / "benchmark.c",
        library,
        "-pthread",
        "-o",
        tmp_path / "benchmark",
    )
    for threads in (1, 2):
        printed = call(tmp_path / "benchmark", 5, threads)
        first, least, median = map(float, re.findall(r"[\d.]+", printed))
        assert 0 < least <= median
        assert first > 0
    assert subprocess.run([tmp_path / "benchmark", "5", "3"], capture_output=True).returncode == 1


@needs_here
def test_it_becomes_part_of_a_shared_library(folder, image, tmp_path):
    need("gcc")
    library = folder / HERE / "libmodel.a"
    call(
        "gcc", "-shared", "-Wl,--whole-archive", library, "-Wl,--no-whole-archive", "-o", tmp_path / "libm.so"
    )
    link = ["-L", tmp_path, "-lm", f"-Wl,-rpath,{tmp_path}"]
    call("gcc", *C_FLAGS, "-I", folder, folder / "example.c", *link, "-o", tmp_path / "example")
    found = outputs_of(call(tmp_path / "example", folder / "image.bin"))
    np.testing.assert_array_equal(found, LoadedLibrary(folder)(image)[0])


@pytest.mark.parametrize("target", ["x86_64-linux", *CROSS])
def test_nothing_is_written_to_or_taken_from_elsewhere(folder, target):
    """Read from the ELF file itself: no section with data is writable, and no symbol is undefined."""
    need("readelf")
    file = folder / target / "model.o"
    sections = re.findall(
        r"^\s+\[ *\d+\]\s+(\S+)\s+\S+\s+\S+\s+\S+\s+(\S+)\s+\S+\s+(\w*)", sections_of(file), re.M
    )
    assert any(name.startswith(".text") for name, _, _ in sections)
    assert [name for name, size, flags in sections if "W" in flags and int(size, 16)] == []
    symbols = call("readelf", "-W", "--symbols", file)
    undefined = [
        line.split()[7] for line in symbols.splitlines() if " UND " in line and len(line.split()) > 7
    ]
    assert undefined == []
    visible = re.findall(r"GLOBAL\s+DEFAULT\s+\d+\s+(\S+)", symbols)
    assert set(visible) == {f"model_{end}" for end in names_of(target)}


def sections_of(file):
    return call("readelf", "-W", "--sections", file)


def names_of(target):
    shared = ["begin", "begin_uint8", "work", "end"] if TARGETS[target].threads else []
    return ["run", "run_uint8", "processor", "checksum", *shared]


def close(found, network, image, target):
    """Float32 weights give the network's outputs; those of 8 bits those of a plan of 8 bits."""
    compact = TARGETS[target].weights == "int8"
    plan = make_plan(network, machine.host(), compact=compact)
    expected = Model.from_plan(plan, 1)(image)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("target", CROSS)
def test_other_processors_agree(folder, image, network, target, tmp_path):
    compiler, runner = CROSS[target]
    need(compiler[0], runner[0])
    library = folder / target / "libmodel.a"
    flags = [flag for flag in C_FLAGS if flag != "-Werror"]
    call(*compiler, *flags, "-I", folder, folder / "example.c", library, "-o", tmp_path / "example")
    close(outputs_of(call(*runner, tmp_path / "example", folder / "image.bin")), network, image, target)


@pytest.fixture(scope="module")
def whole_numbers():
    """A network that is exact: three convolutions of whole numbers, in parts of all widths."""
    rng = np.random.default_rng(4)

    def conv(name, inputs, channels, filters, **options):
        kernel, bias = random_kernel(rng, (3, 3, channels, filters), 0.5), rng.normal(0, 0.3, filters)
        padding = {"padding": (1, 1, 1, 1), "activation": "relu", "path": "int8"}
        return Conv(name, inputs, kernel, bias.astype(np.float32), **padding | options)

    image = Input("image", (), (9, 11, 3), np.full(3, 1 / 255, np.float32), np.zeros(3, np.float32))
    nodes = (
        image,
        Quantize("steps", (0,), float(np.float32(1 / 255))),
        conv("first", (1,), 3, 8),
        Quantize("steps of the first", (2,), 2.0**-6),
        conv("second", (3, 3), 8, 8),
        Quantize("steps of the second", (4,), 2.0**-5),
        conv("third", (5,), 8, 4, strides=(2, 2), activation="linear"),
        Flatten("flat", (6,)),
    )
    return Graph(nodes)


@pytest.fixture(scope="module")
def whole_numbers_in_c(whole_numbers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    runtime.compile_library(whole_numbers, folder, list(CROSS))
    random_images(np.random.default_rng(1), whole_numbers, 1, "uint8").tofile(folder / "image.bin")
    return folder


@pytest.mark.parametrize("target", CROSS)
def test_whole_numbers_are_equal_on_other_processors(whole_numbers, whole_numbers_in_c, target, tmp_path):
    compiler, runner = CROSS[target]
    need(compiler[0], runner[0])
    folder, library = whole_numbers_in_c, whole_numbers_in_c / target / "libmodel.a"
    flags = [flag for flag in C_FLAGS if flag != "-Werror"]
    call(*compiler, *flags, "-I", folder, folder / "example.c", library, "-o", tmp_path / "example")
    found = outputs_of(call(*runner, tmp_path / "example", folder / "image.bin"))
    image = random_images(np.random.default_rng(1), whole_numbers, 1, "uint8")
    expected = Model(whole_numbers, 1)(image)[0]
    assert len(np.unique(expected)) > 50
    np.testing.assert_array_equal(found, expected)


@needs_here
def test_whole_numbers_to_the_bit_as_in_python(tmp_path):
    """By the processor that the library chooses; with all weights of 8 bits, or these only."""
    rng = np.random.default_rng(0)
    graph = random_network(rng, extra=0, version=3)
    images = random_images(rng, graph, 2)
    (built,) = runtime.compile_library(graph, tmp_path, HERE).built
    assert set(TARGETS[HERE].integer_variants) == set() or built.processors[0] == "icelake-client"
    library = LoadedLibrary(tmp_path)
    found = library(images)
    machines = TARGETS[HERE].machines(integers=True)
    (chosen,) = [own for own in machines if own.cpu == library.processor]
    assert chosen.dot_products == machine.host().dot_products
    np.testing.assert_array_equal(found, Model(graph, 1, target=chosen)(images))
    runtime.compile_library(graph, tmp_path, HERE, weights="int8")
    compact = Model.from_plan(make_plan(graph, chosen, compact=True), 1)
    np.testing.assert_array_equal(LoadedLibrary(tmp_path)(images), compact(images))


def test_webassembly_agrees(folder, image, network, tmp_path):
    need("wasm-ld", "node")
    arena = json.loads((folder / "model.json").read_text())["built"]
    size = next(built["arena_bytes"] for built in arena if built["target"] == "wasm32")
    exports = [f"--export={name}" for name in ("model_run_uint8", "__heap_base")]
    call("wasm-ld", "--no-entry", *exports, folder / "wasm32" / "libmodel.a", "-o", tmp_path / "model.wasm")
    (tmp_path / "run.js").write_text(f"""
const fs = require("fs");
const instance = new WebAssembly.Instance(new WebAssembly.Module(fs.readFileSync("model.wasm")));
const {{memory, __heap_base, model_run_uint8}} = instance.exports;
const arena = (__heap_base.value + 63) & ~63, image = arena + {size};
const output = image + {image.nbytes + 64 & ~63};
memory.grow(Math.ceil((output + 4096) / 65536));
new Uint8Array(memory.buffer, image).set(fs.readFileSync({json.dumps(str(folder / "image.bin"))}));
model_run_uint8(arena, image, output);
console.log(Array.from(new Float32Array(memory.buffer, output, {network.shapes()[-1][2]})).join(" "));
""")
    found = np.array(call("node", "run.js", cwd=tmp_path).split(), np.float32)
    close(found, network, image, "wasm32")


@pytest.mark.parametrize("target", ["arm64-apple", "x86_64-apple"])
def test_apples_files_have_what_its_linker_reads(folder, target):
    code = (folder / target / "model.o").read_bytes()
    assert code[:4] == b"\xcf\xfa\xed\xfe"
    archive = (folder / target / "libmodel.a").read_bytes()
    assert archive[8:13] == b"#1/12"
    assert archive[68:80] == b"__.SYMDEF\0\0\0"
    index = archive[80:]
    (rows,) = struct.unpack_from("<I", index)
    names = index[8 + rows :]
    found = {}
    for start, place in struct.iter_unpack("<II", index[4 : 4 + rows]):
        found[names[start : names.index(b"\0", start)].decode()] = place
    assert set(found) == {f"_model_{end}" for end in names_of(target)}
    for place in set(found.values()):
        assert archive[place : place + 5] == b"#1/12"
        assert (place + 72) % 8 == 0
        assert archive[place + 72 :][: len(code)] == code


def test_cmake_builds_the_example(folder, image, tmp_path):
    need("cmake", "gcc")
    if HERE is None:
        pytest.skip("this machine is none of the targets")
    call("cmake", "-S", folder, "-B", tmp_path, f"-DTFPRUNE_TARGET={HERE}")
    call("cmake", "--build", tmp_path)
    found = outputs_of(call(tmp_path / "example", folder / "image.bin"))
    np.testing.assert_array_equal(found, LoadedLibrary(folder)(image)[0])


def test_cmake_takes_no_library_of_an_earlier_call(network, tmp_path):
    need("cmake", "gcc")
    runtime.compile_library(network, tmp_path, ["x86_64-linux", "aarch64-linux"])
    runtime.compile_library(random_network(np.random.default_rng(9)), tmp_path, "aarch64-linux")
    assert (tmp_path / "x86_64-linux" / "libmodel.a").exists()
    command = ["cmake", "-S", tmp_path, "-B", tmp_path / "build", "-DTFPRUNE_TARGET=x86_64-linux"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode
    assert "TFPRUNE_TARGET must be one of: aarch64-linux.  Received: x86_64-linux" in found.stderr


def test_the_report_and_the_sizes(network, tmp_path):
    library = runtime.compile_library(network, tmp_path, ["aarch64-linux", "thumbv7em"], name="digits")
    big, small = library.built
    for built in library.built:
        parts = built.code_bytes + built.weight_bytes + built.list_bytes + built.table_bytes
        assert parts < built.object_bytes < parts + 8192
        assert (tmp_path / built.target / "digits.o").stat().st_size == built.object_bytes
        assert str(built.arena_bytes) in (tmp_path / "digits.h").read_text()
    assert small.arena_bytes < big.arena_bytes  # No counters of threads, no whole vectors.
    assert "aarch64-linux" in str(library)
    assert json.loads((tmp_path / "digits.json").read_text())["checksum"] == library.checksum


def test_the_description_goes_first_and_comes_last(network, tmp_path, monkeypatch):
    runtime.compile_library(network, tmp_path, "aarch64-linux")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("tfprune.runtime.ahead.sources.write_text", fail)
    with pytest.raises(OSError, match="no space"):
        runtime.compile_library(network, tmp_path, "aarch64-linux")
    assert not (tmp_path / "model.json").exists()


@needs_here
def test_files_of_two_networks_are_told_apart(network, tmp_path):
    runtime.compile_library(network, tmp_path / "one", HERE)
    runtime.compile_library(random_network(np.random.default_rng(9)), tmp_path / "other", HERE)
    shutil.copy(tmp_path / "other" / HERE / "model.o", tmp_path / "one" / HERE / "model.o")
    with pytest.raises(ValueError, match="must be the file that model.json describes"):
        LoadedLibrary(tmp_path / "one")


@pytest.mark.parametrize("arguments, message", [
    ({"targets": []}, "`targets` must name some of"),
    ({"targets": ["x86_64-linux", "amiga"]}, "amiga"),
    ({"targets": ["wasm32", "wasm32"]}, "each once"),
    ({"targets": ["wasm32", "thumbv7em"], "cpu": "generic"}, "`cpu` is for a single target"),
    ({"targets": "aarch64-linux", "cpu": "z80"}, "one that LLVM knows for aarch64.*z80"),
    ({"targets": "aarch64-linux", "cpu": "generic,+sse9"}, "sse9"),
    ({"targets": "aarch64-linux", "cpu": "generic,dotprod"}, "`cpu` must be a processor.*'generic,dotprod'"),
    ({"cpu": ""}, "`cpu` must be a processor.*cpu=''"),
    ({"cpu": "pentium"}, "one that LLVM knows for x86_64.*pentium"),  # It would end the process.
    ({"targets": "thumbv7em", "cpu": "cortex-m3"}, "cortex-m3.*no floating point unit"),
    ({"name": "Model"}, "`name` must be a small letter.*'Model'"),
    ({"name": "a b"}, "`name` must be a small letter"),
    ({"name": "stdint"}, "`name` must be neither .*name='stdint'"),
    ({"name": "example"}, "`name` must be neither"),
    ({"weights": "float16"}, "`weights` must be one of float32, int8. Received: weights='float16'"),
    ({"threads": 0}, "`threads` must be a whole number from 1 to 64. Received: 0"),
    ({"threads": True}, "`threads` must be"),
])  # fmt: skip
def test_bad_arguments(network, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        runtime.compile_library(network, tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit(folder, image):
    if HERE is None:
        pytest.skip("this machine is none of the targets")
    library = LoadedLibrary(folder)
    for wrong in (image[0], image.astype(np.complex64), image[:, 1:]):
        with pytest.raises(ValueError, match="`images` must be float32 or uint8"):
            library(wrong)
    assert library(image[:0]).shape == (0, library(image).shape[1])


def test_a_library_for_others_is_not_run_here(network, tmp_path):
    runtime.compile_library(network, tmp_path, "thumbv7em")
    with pytest.raises(ValueError, match="a target must be this machine.*thumbv7em"):
        LoadedLibrary(tmp_path)


@needs_here
@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("path", FLOAT_PATHS)
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_cells(cell, path, weights, tmp_path):
    """Along 100 columns, to the bit as in Python."""
    rng, width = np.random.default_rng(5), 24 * len(CELLS[cell])
    nodes = (
        Input("signal", (), (1, 100, 5), np.ones(5, np.float32), np.zeros(5, np.float32)),
        Conv("signals", (0,), random_kernel(rng, (1, 1, 5, width), 0.5), np.ones(width, np.float32)),
        Activation("some", (0,), "relu"),
        Gather("first", (2,), (0,), (0,), tuple(range(0, 500, 5))),
        Activation("mask", (3,), "nonzero"),
        Recurrent("cell", (1,), cell, random_kernel(rng, (1, 1, 24, width), 0.8), np.ones(width, np.float32)),
    )
    masked = dataclasses.replace(nodes[5], name="masked", inputs=(1, 4), masked=True)
    cells = [dataclasses.replace(node, path=path) for node in (nodes[5], masked)]
    graph = Graph((*nodes[:5], *cells, Concatenate("both", (5, 6)), Flatten("flat", (7,))))
    runtime.compile_library(graph, tmp_path, HERE, weights=weights)
    library, signals = LoadedLibrary(tmp_path), rng.normal(size=(2, 1, 100, 5)).astype(np.float32)
    found = library(signals)
    (target,) = [own for own in TARGETS[HERE].machines() if own.cpu == library.processor]
    plan = make_plan(graph, target, compact=weights == "int8")
    np.testing.assert_array_equal(found, Model.from_plan(plan, 1)(signals))

"""Writes a network as a C library: object files, static libraries, a header, an example and a benchmark."""

import dataclasses
import hashlib
import os
import re
import string
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from tfprune import __version__
from tfprune.files import write_bytes, write_json, write_text
from tfprune.runtime import machine
from tfprune.runtime.ahead.archive import Member, archive
from tfprune.runtime.ahead.front import chooser_name, entries, front, public_names
from tfprune.runtime.ahead.module import ROWS, STEPS, Variant, variant
from tfprune.runtime.ahead.targets import TARGETS, Target, check_targets, this_machines_target
from tfprune.runtime.errors import GraphError
from tfprune.runtime.format.file import UndecodedFile, file_bytes
from tfprune.runtime.graph import Graph, Output
from tfprune.runtime.plan.lowering import make_plan
from tfprune.runtime.plan.plan import Frame
from tfprune.text import text_table

# One image is cut for so many threads at most: a counter for each of them and each step is in the arena.
THREADS = 8
_MOST_THREADS = 64
WEIGHTS = ("float32", "int8")
# Added to a file's name, the folder of the library that `load` finds.
BESIDE = ".c"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
# NAME.h would stand before a header of C; CMake knows a target NAME already.
_TAKEN = frozenset(
    "assert complex ctype errno fenv float inttypes iso646 limits locale math pthread sched setjmp signal"
    " stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time"
    " uchar wchar wctype all benchmark clean example help install package test".split()
)
_TEMPLATES = ("example.c", "benchmark.c", "CMakeLists.txt")


@dataclasses.dataclass(frozen=True)
class Built:
    """A target's library.

    Attributes:
        target: The target's name.
        processors: The processors that it has code for, the best first, by LLVM's names.
        weights: How its weights are stored, one of `WEIGHTS`.
        object_sha256: The object file's SHA-256, hexadecimal.
        object_bytes: Bytes of the object file.
        code_bytes: Of them, machine code.
        weight_bytes: Of them, values of weights, of all processors together.
        list_bytes: Of them, the places where the weights belong.
        table_bytes: Of them, masks, tables and steps.
        arena_bytes: Bytes of the arena that the caller gives.
        frames: For each processor the facts that `Model` needs to call its code.
    """

    target: str
    processors: tuple[str, ...]
    weights: str
    object_sha256: str
    object_bytes: int
    code_bytes: int
    weight_bytes: int
    list_bytes: int
    table_bytes: int
    arena_bytes: int
    frames: tuple[Frame, ...]


@dataclasses.dataclass(frozen=True)
class Library:
    """The description of a folder that `compile_library` wrote; its text is a table of sizes.

    Attributes:
        folder: The folder.
        name: The beginning of the functions' names.
        version: tfprune's.
        checksum: Of the network, as header and library state it.
        image_shape: `(height, width, channels)` of an image.
        classes: The length of the output.
        input_shape: The shape of an example as the model takes it.
        output_shape: The shape of its output as the model gives it.
        source: SHA-256 of the `model.tfprune` that it was made of; empty for one made of a graph.
        built: The libraries, one for each target.
    """

    folder: Path
    name: str
    version: str
    checksum: int
    image_shape: tuple[int, int, int]
    classes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    source: str
    built: tuple[Built, ...]

    def __str__(self) -> str:
        """Returns the sizes as a table."""
        header = ("target", "processors", "stored", "object", "code", "weights", "lists", "tables", "arena")
        rows = [
            (
                built.target,
                " ".join(built.processors),
                built.weights,
                *(
                    f"{number:,}"
                    for number in (
                        built.object_bytes,
                        built.code_bytes,
                        built.weight_bytes,
                        built.list_bytes,
                        built.table_bytes,
                        built.arena_bytes,
                    )
                ),
            )
            for built in self.built
        ]
        return "\n".join([*text_table(header, rows, left=3), "bytes"])


def compile_library(
    network: Graph | str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    targets: str | Sequence[str] | None = None,
    *,
    cpu: str | None = None,
    weights: str | None = None,
    name: str = "model",
    threads: int = THREADS,
) -> Library:
    """Writes a network as a C library that needs neither Python nor any other library.

    Example:

    ```python
    from tfprune import runtime

    print(runtime.compile_library("model.tfprune", "c", ["x86_64-linux", "aarch64-linux"]))
    ```

    Args:
        network: The network, or its `model.tfprune`.
        folder: Where to; made where it is missing. None: beside the file, its name with `.c`, where `load`
            finds the library. Files of the same names are replaced. `NAME.json`, what is returned, is removed
            first and written last: while it is there, it describes the files beside it.
        targets: A target or several, of `tfprune.runtime.ahead.targets.TARGETS`; None for this machine's.
        cpu: A processor by LLVM's name, perhaps with instruction sets behind a comma (`"cortex-a53"`,
            `"generic,+dotprod"`), for a single target; None for the target's own. On x86-64 these are three,
            of which the library chooses at the first call; each has lists of its own. Vectors there are as
            wide as the instruction sets that are named: `"haswell,+avx2,+fma"`, not `"haswell"`.
        weights: `"float32"`; or `"int8"`: rounded to 8 bits, symmetric, with a scale for each output channel,
            and places in as few bits as they need; None: int8 for microcontrollers, float32 for all others.
            Computed is in float32 either way.
        name: The beginning of the functions' and files' names: a small letter, then small letters, digits and
            underscores, 31 at most; not that of a header of C, nor one that CMake or the folder's programs
            have.
        threads: The most threads that may share an image, from 1 to 64; each costs memory in the arena.

    Returns:
        The sizes.

    Raises:
        FileFormatError: The file is not sound.
        GraphError: The network is not, has several inputs or outputs, or is too large for a target.
        OSError: A file cannot be read or written.
        ValueError: Another argument breaks its rule.
    """
    targets = this_machines_target() if targets is None else targets
    if targets is None:
        raise ValueError(f"`targets` must be given: {machine.host().triple} is none of {', '.join(TARGETS)}")
    chosen = check_targets([targets] if isinstance(targets, str) else list(targets), cpu)
    if not _NAME.fullmatch(name):
        raise ValueError(
            "`name` must be a small letter and up to 30 small letters, digits and underscores."
            f" Received: name={name!r}"
        )
    if name in _TAKEN:
        raise ValueError(
            "`name` must be neither that of a header of C nor one of CMake's or of the folder's programs."
            f" Received: name={name!r}"
        )
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS:
        raise ValueError(f"`threads` must be a whole number from 1 to {_MOST_THREADS}. Received: {threads!r}")
    if weights not in (None, *WEIGHTS):
        raise ValueError(f"`weights` must be one of {', '.join(WEIGHTS)}. Received: weights={weights!r}")
    if folder is None and isinstance(network, Graph):
        raise ValueError("`folder` must be given for a network that is not a file's. Received: folder=None")
    if isinstance(network, Graph):
        graph, source = network, ""
    else:  # Read once: the file may be replaced meanwhile.
        file = UndecodedFile(network)
        graph, source = file.graph(), file.sha256
    folder = Path(f"{os.fspath(network)}{BESIDE}" if folder is None else folder)
    end = only_output(graph)
    checksum = zlib.crc32(file_bytes(graph, "float32"))
    objects = [
        (target, *_compile(graph, target, cpu, weights or target.weights, name, threads, checksum))
        for target in chosen
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    built = []
    for target, code, variants, machines in objects:
        (folder / target.name).mkdir(exist_ok=True)
        write_bytes(folder / target.name / f"{name}.o", code)
        member = Member("network.o", code, public_names(name, target.threads))
        write_bytes(
            folder / target.name / f"lib{name}.a", archive([member], apple="-apple-" in target.triple)
        )
        sums = {kind: sum(variant.bytes_of[kind] for variant in variants) for kind in variants[0].bytes_of}
        built.append(
            Built(
                target.name,
                tuple(machine.cpu for machine in machines),
                weights or target.weights,
                hashlib.sha256(code).hexdigest(),
                len(code),
                machine.instruction_bytes(code),
                sums["weights"],
                sums["lists"],
                sums["tables"],
                max(variant.arena_bytes for variant in variants),
                tuple(variant.frame for variant in variants),
            )
        )
    shapes = graph.shapes()
    library = Library(
        folder,
        name,
        __version__,
        checksum,
        shapes[0],
        shapes[end.node][2],
        graph.inputs[0].given or shapes[0],
        end.shape,
        source,
        tuple(built),
    )
    _write_sources(library, len(graph.nodes), threads, chosen)
    write_json(folder / f"{name}.json", dataclasses.asdict(library) | {"folder": None})
    return library


def only_output(graph: Graph) -> Output:
    """Returns the output of a network of which a library can be made.

    Raises:
        GraphError: It has several inputs or outputs.
    """
    ends = graph.results(graph.shapes())
    if len(graph.inputs) != 1 or len(ends) != 1:
        raise GraphError(
            "a C library is for networks of one input and one output."
            f" Received: {len(graph.inputs)} inputs, {len(ends)} outputs"
        )
    return ends[0]


def _compile(
    graph: Graph, target: Target, cpu: str | None, weights: str, name: str, threads: int, checksum: int
) -> tuple[bytes, list[Variant], list[machine.Machine]]:
    """Returns a target's object file, its modules, and its processors."""
    machines = target.machines(cpu, graph.has_integers)
    prefixes = [f"{name}_{index}" for index in range(len(machines))]
    share = threads if target.threads else 0
    variants = [
        variant(make_plan(graph, processor, compact=weights == "int8", tight=target.tight), prefix, share)
        for processor, prefix in zip(machines, prefixes, strict=True)
    ]
    pairs = list(zip(prefixes, machines, strict=True))
    code = machine.object_code(
        [front(name, pairs, checksum, target.threads), *(variant.assembly for variant in variants)],
        machines[-1],
        position_independent=target.position_independent,
        internal=[entry for prefix in prefixes for entry in entries(prefix, target.threads)],
        hidden=[
            *(f"{prefix}_{entry.name}" for prefix in prefixes for entry in (ROWS, STEPS) if target.threads),
            *([chooser_name(name)] if len(prefixes) > 1 else []),
        ],
    )
    return code, variants, machines


def _write_sources(library: Library, nodes: int, threads: int, chosen: Sequence[Target]) -> None:
    name, (height, width, channels) = library.name, library.image_shape
    arenas: dict[str, tuple[int, int]] = {}
    for target, built in zip(chosen, library.built, strict=True):
        # Targets with one condition have equal words, and plans for equal processors.
        size, most = arenas.get(target.macros, (0, 0))
        arenas[target.macros] = max(size, built.arena_bytes), max(most, threads if target.threads else 0)
    lines = []
    for index, (macros, (size, most)) in enumerate(arenas.items()):
        lines.append(f"#{'elif' if index else 'if'} {macros}")
        lines += [f"#define {name.upper()}_ARENA_BYTES {size}", f"#define {name.upper()}_THREADS {most}"]
    names = " ".join(target.name for target in chosen)
    lines += ["#else", f'#error "the library is for other processors: {names}"', "#endif"]
    values = {
        "name": name,
        "NAME": name.upper(),
        "version": library.version,
        "nodes": nodes,
        "height": height,
        "width": width,
        "channels": channels,
        "classes": library.classes,
        "checksum": library.checksum,
        "arenas": "\n".join(lines),
        "processors": _processors(library.built),
        "default": chosen[0].name,
        "targets": names,
    }
    templates = resources.files("tfprune.runtime.ahead").joinpath("templates")

    def filled(template: str) -> str:
        return string.Template(templates.joinpath(template).read_text("utf-8")).substitute(values)

    values["arena"] = filled("arena.c").rstrip()
    for template in (*_TEMPLATES, "model.h"):
        write_text(library.folder / (f"{name}.h" if template == "model.h" else template), filled(template))


def _processors(built: Sequence[Built]) -> str:
    """Returns the header's lines on processors."""
    several = [sizes for sizes in built if len(sizes.processors) > 1]
    return "".join(f"\n   {sizes.target}: {', '.join(sizes.processors)}." for sizes in several)

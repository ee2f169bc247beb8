"""Writes a network as a C library: object files, static libraries, a header, an example and a benchmark."""

import dataclasses
import hashlib
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from tfprune import __version__
from tfprune.files import write_bytes, write_json
from tfprune.runtime import machine
from tfprune.runtime.ahead.archive import Member, archive
from tfprune.runtime.ahead.description import BESIDE, Built, Library
from tfprune.runtime.ahead.front import chooser_name, entries, front, public_names
from tfprune.runtime.ahead.module import ROWS, STEPS, Variant, variant
from tfprune.runtime.ahead.sources import argument_names, write_sources
from tfprune.runtime.ahead.targets import TARGETS, Target, check_targets, this_machines_target
from tfprune.runtime.format.file import UndecodedFile, file_bytes
from tfprune.runtime.graph import Graph
from tfprune.runtime.plan.lowering import make_plan

# One image is cut for so many threads at most: a counter for each of them and each step is in the arena.
THREADS = 8
_MOST_THREADS = 64
WEIGHTS = ("float32", "int8")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
# NAME.h would stand before a header of C; CMake knows a target NAME already.
_TAKEN = frozenset(
    "assert complex ctype errno fenv float inttypes iso646 limits locale math pthread sched setjmp signal"
    " stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time"
    " uchar wchar wctype all benchmark clean example help install package test".split()
)


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
        threads: The most threads that may share an example, from 1 to 64; each costs memory in the arena.

    Returns:
        The sizes.

    Raises:
        FileFormatError: The file is not sound.
        GraphError: The network is not, or is too large for a target.
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
    frame = built[0].frames[0]
    names = argument_names(frame.inputs, frame.outputs)
    inputs, outputs = (
        {argument: port.shape for argument, port in zip(arguments, ports, strict=True)}
        for arguments, ports in zip(names, (frame.inputs, frame.outputs), strict=True)
    )
    library = Library(folder, name, __version__, checksum, inputs, outputs, source, tuple(built))
    write_sources(library, len(graph.nodes), threads, chosen)
    write_json(folder / f"{name}.json", dataclasses.asdict(library) | {"folder": None})
    return library


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
    pairs, frame = list(zip(prefixes, machines, strict=True)), variants[0].frame
    code = machine.object_code(
        [
            front(name, pairs, checksum, target.threads, len(frame.inputs), len(frame.outputs)),
            *(variant.assembly for variant in variants),
        ],
        machines[-1],
        position_independent=target.position_independent,
        internal=[entry for prefix in prefixes for entry in entries(prefix, target.threads)],
        hidden=[
            *(f"{prefix}_{entry.name}" for prefix in prefixes for entry in (ROWS, STEPS) if target.threads),
            *([chooser_name(name)] if len(prefixes) > 1 else []),
        ],
    )
    return code, variants, machines

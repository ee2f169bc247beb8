"""The texts of a C library: its header, an example, a benchmark and a CMake file."""

import math
import re
import string
from collections.abc import Collection, Sequence
from importlib import resources

from tfprune.files import write_text
from tfprune.runtime.ahead.description import Built, Library
from tfprune.runtime.ahead.targets import Target
from tfprune.runtime.plan.plan import Port
from tfprune.text import numbered

_TEMPLATES = ("example.c", "benchmark.c", "CMakeLists.txt")
# The keywords of C and C++, macros of their headers and of gcc, and what the header itself names.
_TAKEN = frozenset(
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t char8_t"
    " class co_await co_return co_yield compl complex concept const const_cast consteval constexpr constinit"
    " continue decltype default delete do double dynamic_cast else enum errno explicit export extern false"
    " float for friend goto if imaginary inline int linux long mutable namespace new noexcept noreturn not"
    " not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires restrict"
    " return short signed sizeof static static_assert static_cast struct switch template this thread_local"
    " throw true try typedef typeid typename typeof typeof_unqual union unix unsigned using virtual void"
    " volatile wchar_t while xor xor_eq int32_t uint8_t arena wait thread threads".split()
)


def argument_names(inputs: Sequence[Port], outputs: Sequence[Port]) -> tuple[list[str], list[str]]:
    """Returns the names of the arguments of a C function, each another.

    Args:
        inputs: The network's inputs. An only one is `image` if it is one, else `input`.
        outputs: Its outputs. An only one is `output`.
    """
    input_ = ["image" if _is_image(inputs[0].shape) else "input"] if len(inputs) == 1 else []
    output = ["output"] if len(outputs) == 1 else []
    taken = {*_TAKEN, *input_, *output}
    return (
        input_ or [_identifier(port.name, "input", taken) for port in inputs],
        output or [_identifier(port.name, "output", taken) for port in outputs],
    )


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3


def _identifier(name: str, kind: str, taken: set[str]) -> str:
    """Returns a name as C has it, and adds it to those that are taken."""
    # Names that begin with an underscore are C's own, those with two in a row C++'s.
    plain = re.sub(r"[\W_]+", "_", name.lower(), flags=re.ASCII)
    plain = plain if plain[:1].isalpha() else f"{kind}_{plain.lstrip('_')}".rstrip("_")
    found = numbered(plain, taken)
    taken.add(found)
    return found


def write_sources(library: Library, nodes: int, threads: int, chosen: Sequence[Target]) -> None:
    """Writes the texts into the library's folder.

    Args:
        library: The library.
        nodes: The number of nodes of the network.
        threads: The most threads that may share an example, on targets with threads.
        chosen: The targets.

    Raises:
        OSError: A file cannot be written.
    """
    templates = resources.files("tfprune.runtime.ahead").joinpath("templates")
    values = {
        "name": library.name,
        "NAME": library.name.upper(),
        "version": library.version,
        "nodes": nodes,
        "checksum": library.checksum,
        "arenas": _arenas(library, threads, chosen),
        "processors": _processors(library.built),
        "default": chosen[0].name,
        "targets": " ".join(target.name for target in chosen),
        **_arguments(library),
    }

    def filled(template: str) -> str:
        return string.Template(templates.joinpath(template).read_text("utf-8")).substitute(values)

    values["arena"] = filled("arena.c").rstrip()
    for template in (*_TEMPLATES, "model.h"):
        own = f"{library.name}.h" if template == "model.h" else template
        write_text(library.folder / own, filled(template))


def _arenas(library: Library, threads: int, chosen: Sequence[Target]) -> str:
    """Returns the header's lines on the arena's size and the threads, by target."""
    arenas: dict[str, tuple[int, int]] = {}
    for target, built in zip(chosen, library.built, strict=True):
        # Targets with one condition have equal words, and plans for equal processors.
        size, most = arenas.get(target.macros, (0, 0))
        arenas[target.macros] = max(size, built.arena_bytes), max(most, threads if target.threads else 0)
    name, lines = library.name.upper(), []
    for index, (macros, (size, most)) in enumerate(arenas.items()):
        lines.append(f"#{'elif' if index else 'if'} {macros}")
        lines += [f"#define {name}_ARENA_BYTES {size}", f"#define {name}_THREADS {most}"]
    names = " ".join(target.name for target in chosen)
    return "\n".join([*lines, "#else", f'#error "the library is for other processors: {names}"', "#endif"])


def _processors(built: Sequence[Built]) -> str:
    """Returns the header's lines on processors."""
    several = [sizes for sizes in built if len(sizes.processors) > 1]
    return "".join(f"\n   {sizes.target}: {', '.join(sizes.processors)}." for sizes in several)


def _arguments(library: Library) -> dict[str, str]:
    """Returns the texts of what is given to the functions and taken from them."""
    only = len(library.outputs) == 1
    # An only vector is taken for a classifier's.
    classes = only and len(next(iter(library.outputs.values()))) == 1
    inputs = {name: f"{library.name}_{name}_NUMBERS".upper() for name in library.inputs}
    outputs = {
        name: f"{library.name}_{'CLASSES' if classes else f'{name}_NUMBERS'}".upper()
        for name in library.outputs
    }
    macros = []
    for name, shape in library.inputs.items():
        if len(library.inputs) == 1 and _is_image(shape):
            sides = zip(("HEIGHT", "WIDTH", "CHANNELS"), shape, strict=True)
            macros += [f"#define {library.name.upper()}_{side} {size}" for side, size in sides]
        macros.append(f"#define {inputs[name]} {math.prod(shape)}")
    macros += [f"#define {outputs[name]} {math.prod(shape)}" for name, shape in library.outputs.items()]
    return {
        "sizes": "\n".join(macros),
        "inputs": _shapes(library.inputs),
        "outputs": _shapes(library.outputs),
        "all_inputs": " + ".join(inputs.values()),
        "all_outputs": " + ".join(outputs.values()),
        "floats": ", ".join(f"const float *{name}" for name in inputs),
        "bytes": ", ".join(f"const uint8_t *{name}" for name in inputs),
        "results": ", ".join(f"float *{name}" for name in outputs),
        "floats_given": _places("given", inputs.values()),
        "bytes_given": _places("bytes", inputs.values()),
        "results_taken": _places("results", outputs.values()),
        "output_parts": ", ".join(
            f'{{"{"" if only else f"{name} "}", {size}}}' for name, size in outputs.items()
        ),
    }


def _shapes(ports: dict[str, tuple[int, ...]]) -> str:
    """Returns what the header says of each input or output: how C declares it."""
    return "\n".join(
        f"      {name}{''.join(f'[{size}]' for size in shape or (1,))}" for name, shape in ports.items()
    )


def _places(array: str, sizes: Collection[str]) -> str:
    """Returns the arguments that lie one after the other in an array."""
    places = list(sizes)
    return ", ".join(" + ".join([array, *places[:index]]) for index in range(len(places)))

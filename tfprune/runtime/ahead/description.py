"""The description of a folder with C libraries, `NAME.json`: the last file that `compile_library` writes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tfprune import __version__
from tfprune.runtime import machine
from tfprune.runtime.ahead.targets import this_machines_target
from tfprune.runtime.plan.plan import Frame, Port
from tfprune.text import text_table

# Added to a file's name, the folder of the library that `load` finds.
BESIDE = ".c"


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
        inputs: The shape of an example of each input, by the name that its argument has in C.
        outputs: That of each output.
        source: SHA-256 of the `model.tfprune` that it was made of; empty for one made of a graph.
        built: The libraries, one for each target.
    """

    folder: Path
    name: str
    version: str
    checksum: int
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
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


def read_description(folder: Path, name: str) -> dict[str, Any]:
    """Reads what `compile_library` wrote about a folder.

    Args:
        folder: The folder.
        name: As of `compile_library`.

    Returns:
        The fields of `Library`, those of each target under `"built"`.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such description, or another version's with other fields.
    """
    described = json.loads((folder / f"{name}.json").read_text("utf-8"))
    if not isinstance(described, dict):
        raise ValueError(f"{name}.json must have an object. Received: {type(described).__name__}")
    built = described.get("built")
    entries = built if isinstance(built, list) else []
    for kind, found in ((Library, described), *((Built, entry) for entry in entries)):
        names = {field.name for field in dataclasses.fields(kind)}
        if not isinstance(found, dict) or found.keys() != names:
            other = sorted(names.symmetric_difference(found if isinstance(found, dict) else ()))
            raise ValueError(
                f"{name}.json must be made anew, by tfprune {__version__}: that of"
                f" {described.get('version')} differs in {', '.join(other)}"
            )
    return described


def built_here(described: dict[str, Any]) -> Built:
    """Returns the library of this machine's target.

    Args:
        described: The description of the folder.

    Raises:
        ValueError: None of the targets is this machine, or its processors have not a frame each, as this
            version makes them.
    """
    for entry in described["built"]:
        if entry["target"] == this_machines_target():
            frames, processors = len(entry["frames"]), len(entry["processors"])
            if frames != processors:
                raise ValueError(
                    f"each of {processors} processors must have a frame. Received: {frames} frames"
                )
            try:
                return Built(**entry | {"frames": tuple(map(_frame, entry["frames"]))})
            except (KeyError, TypeError) as error:
                raise ValueError(
                    f"{entry['target']}'s frames must have the fields of tfprune {__version__}: {error}"
                ) from error
    names = ", ".join(entry["target"] for entry in described["built"])
    raise ValueError(f"a target must be this machine, {machine.host().triple}. Received: {names}")


def _frame(described: dict[str, Any]) -> Frame:
    ports = {
        kind: tuple(Port(port["name"], tuple(port["shape"]), port["place"]) for port in described[kind])
        for kind in ("inputs", "outputs")
    }
    return Frame(**described | ports | {"owners": tuple(described["owners"])})

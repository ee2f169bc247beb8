"""Prints what a network takes in a microcontroller: flash and RAM of a program that runs it.

    python benchmarks/microcontroller_size.py runs/demo_one_shot/export/model.tfprune

The network is compiled for `thumbv7em` and linked by `arm-none-eabi-gcc` (Debian's package gcc-arm-none-eabi)
into a program of inputs as bytes, outputs, an arena and a call. Flash is what `arm-none-eabi-size` counts as
text and data, RAM data and bss. Both include the start of newlib (`--specs=nosys.specs`), in the place of
which a board has its own.
"""

import math
import string
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags

if TYPE_CHECKING:
    from tfprune.runtime.ahead.description import Library

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

CPU = flags.DEFINE_string("cpu", "cortex-m4", "The processor, by GCC's name.")

PROGRAM = string.Template("""
#include "model.h"

_Alignas(MODEL_ARENA_ALIGNMENT) static unsigned char arena[MODEL_ARENA_BYTES];
static uint8_t $inputs;
static float $outputs;

int main(void) {
    model_run_uint8(arena, $arguments);
    return output_0[0] > 0;
}
""")


def program_of(library: "Library") -> str:
    """Returns a C program that calls a library once."""
    inputs = {f"input_{index}": math.prod(shape) for index, shape in enumerate(library.inputs.values())}
    outputs = {f"output_{index}": math.prod(shape) for index, shape in enumerate(library.outputs.values())}
    declared = [", ".join(f"{name}[{size}]" for name, size in ends.items()) for ends in (inputs, outputs)]
    return PROGRAM.substitute(
        inputs=declared[0], outputs=declared[1], arguments=", ".join([*inputs, *outputs])
    )


def sizes(file: Path) -> tuple[int, int]:
    """Returns the bytes of flash and of RAM that a linked program takes."""
    printed = subprocess.run(["arm-none-eabi-size", file], check=True, capture_output=True, text=True).stdout
    text, data, bss = map(int, printed.splitlines()[1].split()[:3])
    return text + data, data + bss


def main(arguments: list[str]) -> None:
    """Compiles, links and prints."""
    from tfprune import runtime

    if len(arguments) != 2:
        sys.exit("error: give one model.tfprune")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = runtime.compile_library(arguments[1], folder, "thumbv7em")
        print(made)
        (folder / "main.c").write_text(program_of(made))
        library, program = folder / "thumbv7em" / "libmodel.a", folder / "program"
        flags_ = [f"-mcpu={CPU.value}", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-Os"]
        command = [
            "arm-none-eabi-gcc",
            *flags_,
            "--specs=nosys.specs",
            "-I",
            folder,
            folder / "main.c",
            library,
        ]
        subprocess.run([*command, "-o", program], check=True, stderr=subprocess.DEVNULL)
        flash, ram = sizes(program)
    print(f"flash {flash:,} bytes, RAM {ram:,} bytes")


if __name__ == "__main__":
    app.run(main)

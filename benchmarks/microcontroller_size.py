"""Prints what a network takes in a microcontroller: flash and RAM of a program that classifies an image.

    python benchmarks/microcontroller_size.py runs/demo_one_shot/export/model.tfprune

The network is compiled for `thumbv7em` and linked by `arm-none-eabi-gcc` (Debian's package gcc-arm-none-eabi)
into a program of an image, an arena and a call. Flash is what `arm-none-eabi-size` counts as text and data,
RAM data and bss. Both include the start of newlib (`--specs=nosys.specs`), in the place of which a board has
its own.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

CPU = flags.DEFINE_string("cpu", "cortex-m4", "The processor, by GCC's name.")

PROGRAM = """
#include "model.h"

_Alignas(MODEL_ARENA_ALIGNMENT) static unsigned char arena[MODEL_ARENA_BYTES];
static uint8_t image[MODEL_IMAGE_NUMBERS];
static float output[MODEL_CLASSES];

int main(void) {
    model_run_uint8(arena, image, output);
    return output[0] > 0;
}
"""


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
        print(runtime.compile_library(arguments[1], folder, "thumbv7em"))
        (folder / "main.c").write_text(PROGRAM)
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

"""The names of what can be written; apart, so that they are known before TensorFlow is loaded."""

import dataclasses
from typing import Any

# The formats that are written unless others are asked for, and one that only then is.
DEFAULT_FORMATS = ("keras", "saved_model", "tflite", "sparse")
FORMATS = (*DEFAULT_FORMATS, "c")
# How `model.tfprune` can store its weights; the first is the default.
SPARSE_WEIGHTS = ("float16", "float32", "int8")
# How `model.tfprune` can have its values between the operations; the first is the default.
SPARSE_VALUES = ("float32", "int8")
# What a C library can be for; `tfprune.runtime.ahead.targets` says what each is.
TARGETS = (
    "x86_64-linux",
    "x86_64-apple",
    "aarch64-linux",
    "aarch64-linux-android",
    "arm64-apple",
    "armv7-linux",
    "riscv64-linux",
    "thumbv7em",
    "wasm32",
)
# How a C library can store its weights, and the targets that store them in 8 bits.
C_WEIGHTS = ("float32", "int8")
INT8_TARGETS = ("thumbv7em",)


@dataclasses.dataclass(frozen=True)
class Options:
    """The choices that formats are told besides the network.

    Attributes:
        sparse_weights: How `model.tfprune` stores its weights, one of `SPARSE_WEIGHTS`.
        sparse_values: How it has its values, one of `SPARSE_VALUES`.
        calibration: Examples like those that the network will see; for values of 8 bits.
        targets: What the C library is for, some of `TARGETS`.
        cpu: The processor of its one target, by LLVM's name; None for the target's own.
    """

    sparse_weights: str = SPARSE_WEIGHTS[0]
    targets: tuple[str, ...] = TARGETS[:1]
    cpu: str | None = None
    sparse_values: str = SPARSE_VALUES[0]
    calibration: Any = None

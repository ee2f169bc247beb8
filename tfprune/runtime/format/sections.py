"""Arrays as the sections of a `model.tfprune`: all values or those that are not zero, of 32, 16 or 8 bits."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tfprune.runtime.errors import FileFormatError
from tfprune.runtime.format.deflate import MOST_VALUES_A_BYTE, deflate, inflate
from tfprune.runtime.format.indices import decode_positions, encode_positions
from tfprune.runtime.integers import LARGEST_INT8, to_int8
from tfprune.runtime.sparse_array import SparseArray, nonzeros

ALIGNMENT = 64
DTYPES = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "int8": np.dtype("i1")}
SCALED = "int8"
ENCODINGS = ("dense", "sparse")
# A few bytes can stand for a tensor of any size, so that what a file may ask for has to have a limit:
# 1 GiB of float32 values, twice the weights of VGG-16.
MAX_SPARSE_VALUES = 2**28
KERNEL_AXES = 4
# float16 keeps 11 bits of what lies in its normal range. More is lost of what is tiny.
MAX_ROUNDING_ERROR = 2.0**-10


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """The description of an array in the header.

    Attributes:
        shape: The array's.
        dtype: Of the stored values: one of `DTYPES`.
        encoding: `"dense"`: all values, in row-major order; `"sparse"`: those that are not zero, in that
            order, and at the end the code of their positions. Behind values of 8 bits follow the scales that
            they are multiplied by, a float32 for each output channel.
        count: The number of stored values.
        remainder_bits: The positions' code's; 0 for a dense array.
        offset: Of the section behind the start of the first, in bytes.
        length: Of the section, in bytes.
        packed: The bytes that values of 8 bits take compressed; 0 where they are as they are.
    """

    shape: tuple[int, ...]
    dtype: str
    encoding: str
    count: int
    remainder_bits: int
    offset: int
    length: int
    packed: int = dataclasses.field(default=0, metadata={"since": 2})

    @property
    def size(self) -> int:
        """Returns the number of values in the array."""
        return math.prod(self.shape)

    @property
    def value_bytes(self) -> int:
        """Returns the number of bytes that the stored values take, with their scales."""
        return (self.packed or self.count * DTYPES[self.dtype].itemsize) + 4 * self.scales

    @property
    def scales(self) -> int:
        """Returns the number of scales."""
        return self.shape[-1] if self.dtype == SCALED else 0

    @property
    def decoded_bytes(self) -> int:
        """Returns the number of bytes that the array takes in memory: a sparse one has positions as well."""
        return self.count * (4 if self.encoding == "dense" else 4 + 8) + 4 * self.scales

    def check(self) -> None:
        """Checks the rules that need no section.

        Raises:
            FileFormatError: The description breaks a rule.
        """
        if not 1 <= len(self.shape) <= KERNEL_AXES or min(self.shape) < 1:
            raise FileFormatError(f"`shape` must be 1 to {KERNEL_AXES} sizes above 0. Received: {self.shape}")
        for value, choices in ((self.dtype, DTYPES), (self.encoding, ENCODINGS)):
            if value not in choices:
                raise FileFormatError(f"must be one of {', '.join(choices)}. Received: {value!r}")
        if len(self.shape) < KERNEL_AXES and (self.dtype, self.encoding) != ("float32", "dense"):
            raise FileFormatError("an array that is no kernel must be float32 and dense")
        if self.packed and (self.dtype != SCALED or not 0 <= self.count <= MOST_VALUES_A_BYTE * self.packed):
            raise FileFormatError(
                f"`packed` must be for {SCALED} values, at most {MOST_VALUES_A_BYTE} a byte."
                f" Received: {self.count} {self.dtype} values in {self.packed} bytes"
            )
        if self.encoding == "dense":
            wrong = self.count != self.size or self.length != self.value_bytes or self.remainder_bits != 0
        else:
            wrong = not 0 <= self.count <= self.size or self.length < self.value_bytes
        if wrong:
            raise FileFormatError(
                f"{self.count} values, {self.remainder_bits} remainder bits, {self.length} bytes do not fit"
                f" a {self.encoding} {self.dtype} array of shape {self.shape}"
            )


def encode_array(array: np.ndarray | SparseArray, weights: str, offset: int) -> tuple[StoredArray, bytes]:
    """Encodes an array in as few bytes as it takes.

    Args:
        array: float32, finite.
        weights: The type to store a kernel's values in, where it can hold them.
        offset: Where the section will be, behind the start of the first.

    Returns:
        The description for the header, and the section.
    """
    if array.ndim != KERNEL_AXES:
        section = np.asarray(array, DTYPES["float32"]).tobytes()
        return StoredArray(array.shape, "float32", "dense", array.size, 0, offset, len(section)), section
    dtype, scales = "float32", b""
    if weights == SCALED:
        dtype, (positions, values, of_channels) = SCALED, to_int8(array)
        scales = of_channels.astype(DTYPES["float32"]).tobytes()
    else:
        positions, values = nonzeros(array)
        if weights == "float16" and fits_float16(values):
            dtype = "float16"
    values = values.astype(DTYPES[dtype])
    # The smallest may have been rounded to zero.
    positions, values = positions[values != 0], values[values != 0]
    code, remainder_bits = encode_positions(positions)
    encoding = "sparse"
    if values.nbytes + len(code) >= array.size * values.itemsize:
        dense = np.zeros(array.size, values.dtype)
        dense[positions] = values
        encoding, values, code, remainder_bits = "dense", dense, b"", 0
    stored, packed = values.tobytes(), 0
    if dtype == SCALED:
        # Those that pruning by magnitude leaves are seldom small.
        compressed = deflate(stored, repeats=False)
        if len(compressed) < len(stored):
            stored, packed = compressed, len(compressed)
    section = stored + scales + code
    return StoredArray(
        array.shape, dtype, encoding, values.size, remainder_bits, offset, len(section), packed
    ), section


def fits_float16(values: np.ndarray) -> bool:
    """Returns whether float16 holds a kernel well enough.

    The measure is the whole kernel's largest weight: a channel that its BatchNorm has all but silenced is
    tiny, and may lose more.

    Args:
        values: float32, those of the kernel that are not zero.

    Returns:
        Whether all values are in its range and no rounding error is above 2**-10 of the largest absolute
        value.
    """
    largest = np.abs(values).max(initial=0)
    if largest > np.finfo(np.float16).max:
        return False
    errors = np.abs(values.astype(np.float16).astype(np.float32) - values)
    return bool((errors <= MAX_ROUNDING_ERROR * largest).all())


def check_layout(arrays: Sequence[StoredArray], sections: np.ndarray) -> None:
    """Checks that sections follow one another up to the file's end, and the sum of their sizes.

    Args:
        arrays: In the order of the header.
        sections: uint8, from the start of the first section to the file's end.

    Raises:
        FileFormatError: A section is elsewhere, or the sparse arrays are too large.
    """
    end = 0
    for array in arrays:
        if array.offset != aligned(end):
            raise FileFormatError(f"a section must be at {aligned(end)}. Received: offset={array.offset}")
        if sections[end : array.offset].any():
            raise FileFormatError("bytes between sections must be zero")
        end = array.offset + array.length
    if end != len(sections):
        raise FileFormatError(f"the last section ends at {end}, the file at {len(sections)}")
    sparse_values = sum(array.size for array in arrays if array.encoding == "sparse")
    if sparse_values > MAX_SPARSE_VALUES:
        raise FileFormatError(
            f"sparse arrays may have {MAX_SPARSE_VALUES} values in a file. Received: {sparse_values}"
        )


def decode_array(array: StoredArray, sections: np.ndarray) -> np.ndarray | SparseArray:
    """Reads an array whose place in the file has been checked.

    Args:
        array: The description in the header.
        sections: uint8, from the start of the first section.

    Returns:
        float32 of the array's shape, a copy; a `SparseArray` where it is stored so.

    Raises:
        FileFormatError: The section does not fit the description.
    """
    section = sections[array.offset : array.offset + array.length]
    kind = DTYPES[array.dtype]
    behind = array.value_bytes - 4 * array.scales
    stored = section[:behind]
    if array.packed:
        stored = np.frombuffer(inflate(stored.tobytes(), array.count), np.uint8)
        if len(stored) != array.count:
            raise FileFormatError(f"{len(stored)} values are packed and should be {array.count}")
    stored = stored.view(kind)
    values = stored.astype(np.float32)
    scales = np.frombuffer(section[behind : array.value_bytes].tobytes(), DTYPES["float32"])
    if not np.isfinite(values).all() or not np.isfinite(scales).all():
        raise FileFormatError("a value is not finite")
    if array.scales and (scales.min() <= 0 or (array.count and stored.min() < -LARGEST_INT8)):
        raise FileFormatError(f"scales must be above 0, and values from {-LARGEST_INT8} to {LARGEST_INT8}")
    if array.encoding == "dense":
        return _scaled(values.reshape(array.shape), scales)
    if np.count_nonzero(values) != array.count:
        raise FileFormatError("a sparse array's stored values must not be zero")
    code = section[array.value_bytes :]
    positions = decode_positions(code, array.count, array.remainder_bits, array.size)
    if array.scales:
        values = _scaled(values, scales[positions % array.scales])
    return SparseArray(array.shape, positions, values)


def _scaled(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns values times their scales, if there are any."""
    if not len(scales):
        return values
    with np.errstate(over="ignore"):
        scaled = values * scales
    if not np.isfinite(scaled).all():
        raise FileFormatError("a value times its scale is not finite")
    return scaled


def aligned(offset: int) -> int:
    """Returns the first place at or behind an offset where a section may start."""
    return -(-offset // ALIGNMENT) * ALIGNMENT

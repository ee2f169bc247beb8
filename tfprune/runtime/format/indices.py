"""Codes the positions of a tensor's nonzero weights in few bits: the gaps between them, in Rice code.

A nonzero follows the one before it after a gap of `g >= 0` zeros. `g` is split at bit `k`: the remainder
`g % 2**k` takes `k` bits in one stream; the quotient `g >> k` is that many zero bits and a one bit in
another. Two streams, instead of the usual single one, can be decoded without a loop over the weights. At
`k = 0` the second stream is a bitmap of the tensor. Streams fill each byte from its lowest bit and end in
zero bits.

Where weights are zero at random, this takes 0.3 to 1.5 % more than the entropy, which is `-log2(p) - (1 - p)
/ p * log2(1 - p)` bits a nonzero at density `p` (0.1 to 0.005); an Elias-Fano code takes 0.5 bits more.

Source: Rice, Some practical universal noiseless coding techniques, JPL 79-22, 1979.
"""

import numpy as np

from tfprune.runtime.errors import FileFormatError

# A gap is below 2**32, so that sums of them stay within 64 bits.
MAX_REMAINDER_BITS = 31


def encode_positions(positions: np.ndarray) -> tuple[bytes, int]:
    """Encodes positions with the `k` that takes the fewest bytes.

    Args:
        positions: Integers, strictly increasing, from 0.

    Returns:
        The remainders' bytes and behind them the quotients', and `k`.
    """
    gaps = np.diff(positions.astype(np.int64), prepend=-1) - 1
    if not len(gaps):
        return b"", 0
    # Beyond the mean gap's bits, another remainder bit costs more than it saves.
    choices = range(min(int(gaps.mean()).bit_length() + 1, MAX_REMAINDER_BITS) + 1)
    remainder_bits = min(choices, key=lambda k: _bytes_for(len(gaps) * k) + _bytes_for(_unary_bits(gaps, k)))
    return _pack_remainders(gaps, remainder_bits) + _pack_quotients(gaps >> remainder_bits), remainder_bits


def decode_positions(encoded: np.ndarray, count: int, remainder_bits: int, size: int) -> np.ndarray:
    """Decodes positions, and checks that no other bytes could mean the same positions.

    Args:
        encoded: uint8, the bytes that `encode_positions` returned.
        count: The number of positions.
        remainder_bits: The `k` of the code.
        size: All positions must be below it.

    Returns:
        int64 `[count]`, strictly increasing, each at least 0 and below `size`.

    Raises:
        FileFormatError: The bytes are not a code of `count` positions below `size`.
    """
    if not 0 <= remainder_bits <= MAX_REMAINDER_BITS:
        raise FileFormatError(f"remainder bits must be 0 to {MAX_REMAINDER_BITS}. Received: {remainder_bits}")
    split = _bytes_for(count * remainder_bits)
    if len(encoded) < split:
        raise FileFormatError(f"{len(encoded)} bytes of positions are too few for {count} positions")
    ends = np.flatnonzero(np.unpackbits(encoded[split:], bitorder="little"))
    # The last one bit is in the last byte, or bytes would be left over.
    if len(ends) != count or _bytes_for(int(ends[-1]) + 1 if count else 0) != len(encoded) - split:
        raise FileFormatError(f"the positions' quotients do not code {count} positions")
    quotients = np.diff(ends, prepend=-1) - 1
    # Before the sum of the gaps could leave 64 bits, as it can in a file of 512 MiB.
    if count and int(quotients.max()) > size >> remainder_bits:
        raise FileFormatError(f"a position is not below the tensor's {size} values")
    gaps = (quotients << remainder_bits) + _unpack_remainders(encoded[:split], count, remainder_bits)
    positions = np.cumsum(gaps + 1) - 1
    if count and int(positions[-1]) >= size:
        raise FileFormatError(f"a position is not below the tensor's {size} values")
    return positions


def _bytes_for(bits: int) -> int:
    return (bits + 7) // 8


def _unary_bits(gaps: np.ndarray, remainder_bits: int) -> int:
    return len(gaps) + int((gaps >> remainder_bits).sum())


def _pack_quotients(quotients: np.ndarray) -> bytes:
    ends = np.cumsum(quotients + 1) - 1
    bits = np.zeros(int(ends[-1]) + 1, np.uint8)
    bits[ends] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def _pack_remainders(gaps: np.ndarray, remainder_bits: int) -> bytes:
    bits = np.empty((len(gaps), remainder_bits), np.uint8)
    for bit in range(remainder_bits):
        bits[:, bit] = (gaps >> bit) & 1
    return np.packbits(bits, bitorder="little").tobytes()


def _unpack_remainders(encoded: np.ndarray, count: int, remainder_bits: int) -> np.ndarray:
    bits = np.unpackbits(encoded, bitorder="little")
    if bits[count * remainder_bits :].any():
        raise FileFormatError("bits behind the positions' remainders must be zero")
    bits = bits[: count * remainder_bits].reshape(count, remainder_bits)
    remainders = np.zeros(count, np.int64)
    for bit in range(remainder_bits):
        remainders |= bits[:, bit].astype(np.int64) << bit
    return remainders

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune.runtime.errors import FileFormatError
from tfprune.runtime.format.indices import decode_positions, encode_positions


def encode(positions):
    code, remainder_bits = encode_positions(np.array(positions, np.int64))
    return np.frombuffer(code, np.uint8), remainder_bits


def entropy_bits(density):
    """Returns the entropy in bits of one nonzero."""
    return -np.log2(density) - (1 - density) / density * np.log2(1 - density)


@given(st.sets(st.integers(0, 5000), max_size=300))
def test_positions_come_back(positions):
    expected = np.array(sorted(positions), np.int64)
    code, remainder_bits = encode(expected)
    size = max(positions, default=0) + 1
    found = decode_positions(code, len(expected), remainder_bits, size)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def test_a_code_by_hand():
    # Gaps 5 and 10 at k = 2: remainders 1 and 2, quotients 1 and 2.
    code, remainder_bits = encode([5, 16])
    assert (code.tobytes(), remainder_bits) == (bytes([0b1001, 0b10010]), 2)


def test_dense_positions_are_a_bitmap():
    code, remainder_bits = encode([0, 1, 2, 4, 5, 7, 8])
    assert (code.tobytes(), remainder_bits) == (bytes([0b10110111, 0b1]), 0)


def test_nothing_takes_no_bytes():
    code, remainder_bits = encode([])
    assert (len(code), remainder_bits) == (0, 0)
    assert len(decode_positions(code, 0, 0, 5)) == 0


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.98, 0.995])
def test_the_bits_are_close_to_the_entropy(sparsity):
    positions = np.flatnonzero(np.random.default_rng(0).random(2_000_000) >= sparsity)
    code, _ = encode(positions)
    bits = 8 * len(code) / len(positions)
    assert entropy_bits(1 - sparsity) * 0.99 < bits < entropy_bits(1 - sparsity) * 1.02


def test_no_other_number_of_remainder_bits_is_shorter():
    rng = np.random.default_rng(0)
    for _ in range(20):
        # Uneven gaps, where the mean gap's bits are too many.
        gaps = rng.geometric(rng.uniform(0.001, 0.9), 500) * rng.choice([1, 1, 50], 500) - 1
        lengths = [(500 * k + 7) // 8 + (500 + int((gaps >> k).sum()) + 7) // 8 for k in range(32)]
        assert len(encode(np.cumsum(gaps + 1) - 1)[0]) == min(lengths)


@given(st.binary(max_size=40), st.integers(-1, 60), st.integers(-1, 33), st.integers(1, 200))
def test_any_bytes_give_an_error_or_the_only_code_of_sound_positions(code, count, remainder_bits, size):
    if count < 0:
        return
    code = np.frombuffer(code, np.uint8)
    try:
        positions = decode_positions(code, count, remainder_bits, size)
    except FileFormatError:
        return
    assert len(positions) == count
    assert (np.diff(positions) > 0).all() and (positions >= 0).all() and (positions < size).all()
    # Every bit counts: another bit flipped gives other positions or an error.
    for bit in range(8 * len(code)):
        flipped = code.copy()
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            other = decode_positions(flipped, count, remainder_bits, size)
        except FileFormatError:
            continue
        assert not np.array_equal(other, positions)


WRONG = {
    "too many remainder bits": ([0, 1], 1, 32, 5, "remainder bits"),
    "negative remainder bits": ([1], 1, -1, 5, "remainder bits"),
    "no room for the remainders": ([1], 2, 5, 9, "too few"),
    "fewer positions": ([0b01], 2, 0, 9, "do not code 2"),
    "more positions": ([0b111], 2, 0, 9, "do not code 2"),
    "a byte behind the last": ([0b11, 0], 2, 0, 9, "do not code 2"),
    "a byte where there is nothing": ([0], 0, 0, 9, "do not code 0"),
    "a bit behind the remainders": ([0b10, 1], 1, 1, 9, "must be zero"),
    "a position at the size": ([0b100001], 2, 0, 5, "not below the tensor's 5"),
    "a quotient above the size": ([0, 0, 0, 0, 0, 0b10000000], 1, 31, 5, "too few|not below"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_codes(case):
    code, count, remainder_bits, size, message = WRONG[case]
    with pytest.raises(FileFormatError, match=message):
        decode_positions(np.array(code, np.uint8), count, remainder_bits, size)


def test_a_huge_gap():
    # A quotient of 2**20 at k = 31: a gap of 2**51.
    code = np.zeros(4 + 2**17, np.uint8)
    code[-1] = 0b10000000
    with pytest.raises(FileFormatError, match="not below"):
        decode_positions(code, 1, 31, 2**28)

"""Compressed parts of a `model.tfprune`: raw deflate (RFC 1951), read up to a size that is known."""

import zlib

from tfprune.runtime.errors import FileFormatError

# No zlib header: the file has a checksum.
_RAW = -zlib.MAX_WBITS
# A value that only its own frequency shortens takes a bit at least.
MOST_VALUES_A_BYTE = 8


def deflate(content: bytes, *, repeats: bool) -> bytes:
    """Returns compressed bytes.

    Args:
        content: The bytes.
        repeats: Whether sequences that repeat are looked for, as in text; weights have none.
    """
    strategy = zlib.Z_DEFAULT_STRATEGY if repeats else zlib.Z_HUFFMAN_ONLY
    compressor = zlib.compressobj(9, zlib.DEFLATED, _RAW, 9, strategy)
    return compressor.compress(content) + compressor.flush()


def inflate(compressed: bytes, most: int) -> bytes:
    """Returns the bytes that were compressed.

    Args:
        compressed: What `deflate` returned, and nothing behind it.
        most: The most bytes that may come out: no more are made.

    Raises:
        FileFormatError: It is no such stream, or has more.
    """
    stream = zlib.decompressobj(_RAW)
    try:
        content = stream.decompress(compressed, most + 1)
    except zlib.error as error:
        raise FileFormatError(f"not a deflate stream: {error}") from None
    if len(content) > most:
        raise FileFormatError(f"a deflate stream has more than {most} bytes")
    if not stream.eof or stream.unused_data:
        raise FileFormatError("a deflate stream must end where its place in the file does")
    return content

"""The parts of a `model.tfprune`, as docs/file_format.md has them, and how to put altered ones together."""

import hashlib
import json
import struct
import zlib

START = 56


def split(content: bytes) -> tuple[dict, bytes]:
    """The header, unpacked and parsed, and the sections."""
    magic, version, header_bytes, size = struct.unpack("<8sIIQ", content[:24])
    assert (magic, size) == (b"TFPRUNE\0", len(content)) and version in (1, 2, 3, 4)
    end = START + header_bytes
    header = content[START:end]
    if not header.startswith(b"{"):
        header = zlib.decompress(header, -zlib.MAX_WBITS)
    return json.loads(header), content[-(-end // 64) * 64 :]


def join(header: dict | str | bytes, sections: bytes, **changes: int) -> bytes:
    """A file whose size and checksum are right, whatever its header and sections are."""
    if isinstance(header, dict | list):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode("utf-8", "surrogatepass")
    body = header + bytes(-(START + len(header)) % 64) + sections
    fields = {"version": 2, "header_bytes": len(header), "size": START + len(body), **changes}
    return seal(struct.pack("<8sIIQ", b"TFPRUNE\0", *fields.values()) + bytes(32) + body)


def seal(content: bytes) -> bytes:
    """The file with the checksum that is right for it."""
    return content[:24] + hashlib.sha256(content[:24] + content[START:]).digest() + content[START:]

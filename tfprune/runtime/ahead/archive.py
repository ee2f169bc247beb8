"""Writes static libraries: archives of object files with an index of their functions.

Two kinds are in use. That of System V and GNU has an index of big-endian numbers and is read for ELF and
WebAssembly; that of BSD, Apple's, has one of little-endian numbers, and names inside the members.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

_MAGIC = b"!<arch>\n"
_HEADER = "{name:<16}{date:<12}{owner:<6}{group:<6}{mode:<8}{size:<10}`\n"
_HEADER_BYTES = 60
# Of GNU, a name ends with a slash in 16 characters.
_LONGEST_NAME = 15


class Member(NamedTuple):
    """An object file of an archive.

    Attributes:
        name: The file's name, 15 characters of ASCII at most.
        data: The file.
        symbols: The names of the functions that it has for others.
    """

    name: str
    data: bytes
    symbols: Sequence[str]


def archive(members: Sequence[Member], apple: bool) -> bytes:
    """Returns an archive. Equal members give equal bytes: dates and owners are zero.

    Args:
        members: The object files.
        apple: Whether it is for Apple's linker.

    Raises:
        ValueError: A name is too long.
    """
    for member in members:
        if not member.name.isascii() or len(member.name) > _LONGEST_NAME:
            raise ValueError(
                f"a member's name must have at most {_LONGEST_NAME} characters of ASCII."
                f" Received: {member.name!r}"
            )
    index_size = len(_index(members, [0] * len(members), apple))
    at, places = len(_MAGIC) + len(_packed("", bytes(index_size), apple)), []
    packed = [_packed(member.name, member.data, apple) for member in members]
    for data in packed:
        places.append(at)
        at += len(data)
    index = _index(members, places, apple)
    return b"".join([_MAGIC, _packed("", index, apple), *packed])


def _packed(name: str, data: bytes, apple: bool) -> bytes:
    """Returns a member with its header; without a name it is the index."""
    if not apple:
        return _header(f"{name}/", len(data)) + data + b"\n" * (len(data) % 2)
    # Apple's linker maps members in place: a name inside of the member brings its content to a multiple of 8.
    inside = (name or "__.SYMDEF").encode("ascii")
    inside += bytes(-(_HEADER_BYTES + len(inside)) % 8)
    content = inside + data + bytes(-len(data) % 8)
    return _header(f"#1/{len(inside)}", len(content)) + content


def _header(name: str, size: int) -> bytes:
    return _HEADER.format(name=name, date=0, owner=0, group=0, mode=644, size=size).encode("ascii")


def _index(members: Sequence[Member], places: Sequence[int], apple: bool) -> bytes:
    """Returns the index: for each symbol the place of its member's header."""
    pairs = [
        (f"_{symbol}" if apple else symbol, place)
        for member, place in zip(members, places, strict=True)
        for symbol in member.symbols
    ]
    names = b"".join(symbol.encode("ascii") + b"\0" for symbol, _ in pairs)
    if not apple:
        return struct.pack(f">{1 + len(pairs)}I", len(pairs), *(place for _, place in pairs)) + names
    names += b"\0" * (-len(names) % 8)
    rows, start = b"", 0
    for symbol, place in pairs:
        rows += struct.pack("<II", start, place)
        start += len(symbol) + 1
    return struct.pack("<I", len(rows)) + rows + struct.pack("<I", len(names)) + names

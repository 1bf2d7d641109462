"""Libraries that executables and extensions pull in from outside their package, as the loader would find them."""

from __future__ import annotations

import mmap
import os
import re
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_LISTED: Final = re.compile(r"^\s*(?:\S+ => )?(/\S.*?) \(0x[0-9a-f]+\)$", re.MULTILINE)
_TIMEOUT: Final = 10.0
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_NEEDED, _STRINGS = 1, 5
_SEARCH: Final = (15, 29)
"""DT_RPATH, DT_RUNPATH."""


@dataclass(frozen=True, slots=True)
class Linkage:
    """What an ELF file asks for: its loader (empty for libraries), the names of its libraries, and where to look
    for them first (``DT_RPATH``, ``DT_RUNPATH``; as written)."""

    loader: str
    needed: tuple[str, ...]
    search: str = ""


def linkage(path: str) -> Linkage:
    """Read a 64-bit little-endian ELF file's dynamic section; anything else asks for nothing.

    Raises `OSError` where the file cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # empty
            return Linkage("", ())
        with data:
            try:
                return _linkage(data)
            except (struct.error, ValueError, IndexError, UnicodeDecodeError):
                return Linkage("", ())


def _linkage(data: mmap.mmap) -> Linkage:
    if data[:6] != b"\x7fELF\x02\x01":
        return Linkage("", ())
    offset, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    loads: list[tuple[int, int, int]] = []
    dynamic: tuple[int, int] | None = None
    loader = ""
    for index in range(count):
        kind, _, position, address, _, length = struct.unpack_from("<IIQQQQ", data, offset + index * size)
        if kind == _LOAD:
            loads.append((address, position, length))
        elif kind == _DYNAMIC:
            dynamic = (position, length)
        elif kind == _INTERPRETER:
            loader = data[position : position + length].rstrip(b"\x00").decode()
    if dynamic is None:
        return Linkage(loader, ())
    entries = list(struct.iter_unpack("<QQ", data[dynamic[0] : dynamic[0] + dynamic[1] // 16 * 16]))
    strings = next((value for tag, value in entries if tag == _STRINGS), None)
    if strings is None:
        return Linkage(loader, ())
    table = next(
        position + strings - address
        for address, position, length in loads
        if address <= strings < address + length
    )

    def text(value: int) -> str:
        return data[table + value : data.find(b"\x00", table + value)].decode()

    names = tuple(text(value) for tag, value in entries if tag == _NEEDED)
    return Linkage(loader, names, ":".join(text(value) for tag, value in entries if tag in _SEARCH))


def outside_libraries(loader: str, objects: Iterable[str]) -> tuple[str, ...]:
    """Real paths of the libraries that `objects` need and do not contain, the loader included.

    One question to the loader (``--list``, which runs no code of theirs) for each
    library name that was not met before by somebody who looks in the same places:
    a package's own libcrypto.so.3 is not what the interpreter will find under that
    name. Libraries that a program opens later by name are not found like this:
    measure a running process for those.
    """
    paths = sorted(set(objects))
    known: set[tuple[str, str]] = set()
    found: set[str] = set()
    for path in paths:
        try:
            link = linkage(path)
        except OSError:
            continue
        folder = os.path.dirname(path)
        search = link.search.replace("${ORIGIN}", folder).replace("$ORIGIN", folder)
        asked = {(search, name) for name in link.needed}
        if not known.issuperset(asked):
            found.update(map(os.path.realpath, _resolve(loader, path)))
            known.update(asked)
    found.add(os.path.realpath(loader))
    return tuple(sorted(found - {os.path.realpath(path) for path in paths}))


def _resolve(loader: str, path: str) -> tuple[str, ...]:
    environment = {"PATH": os.defpath}
    try:
        listed = subprocess.run(
            [loader, "--list", path],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(_LISTED.findall(listed.stdout))

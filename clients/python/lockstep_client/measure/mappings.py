"""Executable memory of a process: which files are behind it, by identity, and what has no file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from lockstep.formats import UnitKind
from lockstep_client.measure.hashing import FileDigest, HashCache
from lockstep_client.measure.model import AnonymousCode, Unit, UnitHint, UnknownCode

_BASELINE: Final = frozenset({"[vdso]", "[vsyscall]"})
_DELETED: Final = " (deleted)"
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_LINE: Final = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (..x.) [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One executable line of /proc/PID/maps; `size` in bytes, `path` without its ``(deleted)``."""

    span: str
    size: int
    permissions: str
    device: int
    inode: int
    path: str
    deleted: bool


@dataclass(frozen=True, slots=True)
class NativeCode:
    """Units and remarks of a process's executable memory; `files` by path, for naming modules."""

    units: frozenset[Unit]
    hints: tuple[UnitHint, ...]
    unknown: tuple[UnknownCode, ...]
    anonymous: tuple[AnonymousCode, ...]
    files: dict[str, bytes]


def parse_maps(text: bytes) -> tuple[Mapping, ...]:
    """The executable lines of /proc/PID/maps, but for the kernel's own pages."""
    found: list[Mapping] = []
    for match in _LINE.finditer(text):
        start, end, permissions, major, minor, inode, raw = match.groups()
        path = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), os.fsdecode(raw))
        if path in _BASELINE:
            continue
        deleted = path.endswith(_DELETED)
        found.append(
            Mapping(
                span=f"{start.decode().lstrip('0') or '0'}-{end.decode().lstrip('0')}",
                size=int(end, 16) - int(start, 16),
                permissions=permissions.decode(),
                device=os.makedev(int(major, 16), int(minor, 16)),
                inode=int(inode),
                path=path.removesuffix(_DELETED),
                deleted=deleted,
            )
        )
    return tuple(found)


def measure_native(cache: HashCache, pid: int | str = "self") -> NativeCode:
    """Everything that `pid` has mapped executable; raises nothing: what cannot be read is said.

    Opens by ``map_files`` where the kernel permits it (identity, whatever the
    path now is), else by path with the identity compared.
    """
    units: set[Unit] = set()
    hints: dict[bytes, UnitHint] = {}
    unknown: list[UnknownCode] = []
    anonymous: list[AnonymousCode] = []
    files: dict[str, bytes] = {}
    executable = _executable(cache, pid, units, hints, unknown)
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            mappings = parse_maps(file.read())
    except OSError as error:
        unknown.append(UnknownCode(UnitKind.SHARED_OBJECT, "native mappings", _why(error)))
        mappings = ()
    opener = _Opener(cache, pid)
    for mapping in _distinct(mappings):
        name = os.path.basename(mapping.path)
        if not mapping.inode:
            anonymous.append(AnonymousCode(mapping.size, mapping.permissions, mapping.deleted, mapping.path))
            continue
        digest, genuine = opener.digest(mapping)
        if mapping.deleted or not genuine:
            anonymous.append(
                AnonymousCode(mapping.size, mapping.permissions, True, mapping.path.removeprefix("/memfd:"))
                if not mapping.path.startswith("/memfd:")
                else AnonymousCode(mapping.size, mapping.permissions, True, mapping.path[1:])
            )
        if digest is None:
            continue
        if executable is not None and (digest.dev, digest.inode) == (executable.dev, executable.inode):
            continue
        units.add((UnitKind.SHARED_OBJECT, digest.whole))
        hints.setdefault(digest.whole, UnitHint(digest.whole, mapping.path, name))
        if genuine and not mapping.deleted:
            files[mapping.path] = digest.whole
    return NativeCode(frozenset(units), tuple(hints.values()), tuple(unknown), tuple(anonymous), files)


def hash_from_the_end(cache: HashCache, needed: Callable[[], bool]) -> None:
    """Fill the cache with this process's mapped files, last ones first, while `needed` says so.

    For a thread that has nothing better to do while another measures: they meet
    in the middle.
    """
    try:
        with open("/proc/self/maps", "rb") as file:
            mappings = parse_maps(file.read())
    except OSError:
        return
    opener = _Opener(cache, "self")
    for mapping in reversed([item for item in _distinct(mappings) if item.inode]):
        if not needed():
            return
        opener.digest(mapping)


def _executable(
    cache: HashCache,
    pid: int | str,
    units: set[Unit],
    hints: dict[bytes, UnitHint],
    unknown: list[UnknownCode],
) -> FileDigest | None:
    link = f"/proc/{pid}/exe"
    try:
        found = cache.file(link)
        path = os.readlink(link)
    except OSError as error:
        unknown.append(UnknownCode(UnitKind.EXECUTABLE, "executable", _why(error)))
        return None
    units.add((UnitKind.EXECUTABLE, found.whole))
    hints[found.whole] = UnitHint(found.whole, path.removesuffix(_DELETED), os.path.basename(path))
    return found


def _distinct(mappings: Iterable[Mapping]) -> Iterable[Mapping]:
    """Each file once; of anonymous memory every different kind once, with the sizes summed."""
    files: dict[tuple[int, int, bool], Mapping] = {}
    memory: dict[tuple[str, str], Mapping] = {}
    for mapping in mappings:
        if mapping.inode:
            files.setdefault((mapping.device, mapping.inode, mapping.deleted), mapping)
            continue
        key = (mapping.permissions, mapping.path)
        known = memory.get(key)
        size = mapping.size + (known.size if known else 0)
        memory[key] = Mapping("", size, mapping.permissions, 0, 0, mapping.path, mapping.deleted)
    return (*files.values(), *memory.values())


class _Opener:
    def __init__(self, cache: HashCache, pid: int | str) -> None:
        self._cache = cache
        self._root = "" if pid == "self" else f"/proc/{pid}/root"
        self._folder = f"/proc/{pid}/map_files/"
        self._permitted = True

    def digest(self, mapping: Mapping) -> tuple[FileDigest | None, bool]:
        """The digest where it can be learnt, and whether the path still leads to the mapped file."""
        if self._permitted:
            try:
                found = self._cache.file(self._folder + mapping.span)
            except PermissionError:
                self._permitted = False
            except OSError:
                pass
            else:
                return found, self._leads_to(mapping, found.dev, found.inode)
        if mapping.deleted:
            return None, False
        try:
            found = self._cache.file(self._root + mapping.path)
        except OSError:
            return None, False
        # Overlay and btrfs print another device in maps than stat gives; the inode is the same.
        return (found, True) if found.inode == mapping.inode else (None, False)

    def _leads_to(self, mapping: Mapping, dev: int, inode: int) -> bool:
        if mapping.deleted:
            return False
        try:
            status = os.stat(self._root + mapping.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (dev, inode)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()

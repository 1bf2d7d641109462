"""Digests of files, kept by identity so that a second measurement only asks for metadata."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

HEADER: Final = 16
"""Bytes before the code object in a .pyc (PEP 552)."""
_CHUNK: Final = 1 << 20
_SETTLED: Final = 1.0
_WHOLE: Final = 1
_BODY: Final = 2
_Key = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file as it was read: identity, times (seconds), size (bytes) and digests.

    `body` is the SHA-256 after the 16-byte header `head`, for bytecode; `whole`
    is that of every byte. What was not asked for is empty.
    """

    dev: int
    inode: int
    size: int
    mtime: float
    ctime: float
    whole: bytes
    head: bytes = b""
    body: bytes = b""

    def changed_since(self, moment: float) -> bool:
        """True where content or metadata may have changed after `moment` (seconds since the epoch)."""
        return self.mtime >= moment or self.ctime >= moment


class HashCache:
    """Digests by (device, inode, size, mtime, ctime); safe to use from several threads.

    An optimisation only: whoever can set a clock or write to the raw device
    beats it, so a caller may pass a fresh one at any time. A file that changed
    within the last second is never kept, since a second write in the same tick
    would not show.
    """

    def __init__(self, limit: int = 200_000) -> None:
        """`limit` bounds the number of entries; a full cache starts anew."""
        self._limit = limit
        self._known: dict[tuple[int, _Key], FileDigest] = {}

    def __len__(self) -> int:
        return len(self._known)

    def file(self, path: str | bytes | int) -> FileDigest:
        """The digest of a whole regular file, by path or descriptor; raises `OSError`."""
        return self._digest(path, _WHOLE)

    def bytecode(self, path: str) -> FileDigest:
        """Header and body digest of a .pyc; raises `OSError`."""
        return self._digest(path, _BODY)

    def whole_bytecode(self, path: str) -> FileDigest:
        """Header, body digest and whole digest of a .pyc, of one reading; raises `OSError`."""
        return self._digest(path, _WHOLE | _BODY)

    def _digest(self, path: str | bytes | int, wanted: int) -> FileDigest:
        # stat first: where the cache knows the file, nothing is opened.
        found = self._known.get((wanted, _key(os.stat(path))))
        if found is not None:
            return found
        if isinstance(path, int):
            return self._read(path, wanted)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            return self._read(descriptor, wanted)
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int, wanted: int) -> FileDigest:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(f"not a regular file (mode {before.st_mode:o})")
        if before.st_size <= _CHUNK:
            data = os.pread(descriptor, before.st_size + 1, 0)
            head, body = (data[:HEADER], sha256(data[HEADER:]).digest()) if wanted & _BODY else (b"", b"")
            whole = sha256(data).digest() if wanted & _WHOLE else b""
        else:
            head, body, whole = _stream(descriptor, wanted)
        found = FileDigest(
            before.st_dev, before.st_ino, before.st_size, before.st_mtime, before.st_ctime, whole, head, body
        )
        key = _key(before)
        if key != _key(os.fstat(descriptor)):
            raise OSError("changed while it was read")
        if max(before.st_mtime, before.st_ctime) < time.time() - _SETTLED:
            if len(self._known) >= self._limit:
                self._known.clear()
            self._known[wanted, key] = found
        return found


def _key(status: os.stat_result) -> _Key:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _stream(descriptor: int, wanted: int) -> tuple[bytes, bytes, bytes]:
    head = os.pread(descriptor, HEADER, 0) if wanted & _BODY else b""
    offset = len(head)
    hashers = [sha256(), sha256(head)]
    active = [hasher for hasher, bit in zip(hashers, (_BODY, _WHOLE), strict=True) if wanted & bit]
    while chunk := os.pread(descriptor, _CHUNK, offset):
        for hasher in active:
            hasher.update(chunk)
        offset += len(chunk)
    body, whole = (
        hasher.digest() if wanted & bit else b"" for hasher, bit in zip(hashers, (_BODY, _WHOLE), strict=True)
    )
    return head, body, whole

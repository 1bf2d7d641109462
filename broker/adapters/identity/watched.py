"""WatchedFile: a parsed file that is read anew when it changes, and whose last good content is good for a while."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from broker.crypto.keyfiles import read_public
from broker.errors import Unavailable
from lockstep.formats import Reason

T = TypeVar("T")

Warn = Callable[[str], None]
"""Takes one line for the operator; nothing of a token or a file's content is in it."""


def no_warning(line: str) -> None:
    """For callers who have nobody to tell."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells one content of a path from the next without reading it."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, path: str) -> _Stamp | None:
        try:
            status = os.stat(path)
        except OSError:
            return None
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class WatchedFile(Generic[T]):
    """One file of public trust material.

    Whoever writes it may be in the middle of writing: a content that does not
    parse leaves the last good one in force, but for `stale` seconds at most.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        parse: Callable[[bytes], T],
        *,
        limit: int,
        stale: float,
        warn: Warn = no_warning,
    ) -> None:
        """Reads the file; `limit` in bytes. Raises ``ValueError`` (`KeyFileError` for the file itself)."""
        self._warn = warn
        self._path = os.fspath(path)
        self._parse = parse
        self._limit = limit
        self._stale = stale
        self._stamp = _Stamp.of(self._path)
        self._value = self._read()
        self._failed_since: float | None = None

    def current(self, now: float) -> T:
        """The content in force; the same object until the file changes. Raises `Unavailable`."""
        stamp = _Stamp.of(self._path)
        # A content that failed is tried again at every call: it may have been read half written.
        if stamp != self._stamp or self._failed_since is not None:
            try:
                self._value = self._read()
            except ValueError as error:
                if self._failed_since is None:
                    self._failed_since = now
                    self._warn(f"{self._path}: {error}; what it said before holds for {self._stale:.0f} s")
            else:
                self._failed_since = None
            self._stamp = stamp
        if self._failed_since is not None and now - self._failed_since > self._stale:
            raise Unavailable(
                Reason.IDENTITY_UNAVAILABLE, "the identity source's trusted keys cannot be read"
            )
        return self._value

    def _read(self) -> T:
        return self._parse(read_public(self._path, limit=self._limit))

"""Code sets, each written once, and what an identity calls their units, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from broker.adapters.state.codec import (
    UNIT_CODES,
    UNIT_SIZE,
    pack_names,
    pack_units,
    unpack_names,
    unpack_units,
)
from broker.adapters.state.rules import beyond, merged_names
from broker.adapters.state.sqlite.session import Session
from broker.model.evidence import CodeSet, UnitHint


class _Progress(NamedTuple):
    """How many of the units of a set are members; `loose` where it was only judged, and none has to be."""

    number: int
    done: int
    total: int
    loose: int

    @property
    def whole(self) -> bool:
        return not self.loose and self.done == self.total


class SqliteCode:
    """Plug of `broker.ports.CodeSetStore`."""

    __slots__ = ("_db",)

    def __init__(self, session: Session) -> None:
        self._db = session

    async def put(self, code: CodeSet) -> None:
        """Idempotent; costs one look-up where the set is known."""
        if self._db.one("code.known", (code.digest,)) is not None:
            self._db.change_many("code.put_unit", ())
            return
        self._db.changing("code.put", (code.digest, pack_units(code.units)))

    async def index(self, code: CodeSet, most: int) -> bool:
        """Put the set and write up to `most` more of its members; True once all of them are there."""
        found = self._progress(code.digest)
        if found is None or not found.whole:
            await self.put(code)
            found = self._progress(code.digest)
        # A set that is known writes nothing, and is Misuse in a read all the same.
        self._db.change_many("code.put_unit", ())
        if found is None or found.whole:
            return found is not None
        [(packed,)] = self._db.all("code.slice", (1 + found.done * UNIT_SIZE, most * UNIT_SIZE, found.number))
        units = [(unit.digest, UNIT_CODES[unit.kind]) for unit in unpack_units(packed)]
        self._db.change_many("code.put_unit", units)
        self._db.change_many("code.put_member", [(found.number, *unit) for unit in units])
        self._db.change("code.advance", (found.done + len(units), found.number))
        return found.done + len(units) == found.total

    async def indexed(self, digest: bytes) -> bool:
        """True where every member of the set is there."""
        found = self._progress(digest)
        return found is not None and found.whole

    def _progress(self, digest: bytes) -> _Progress | None:
        row = self._db.one("code.progress", (digest,))
        return None if row is None else _Progress(*row)

    async def get(self, digest: bytes) -> CodeSet | None:
        """The set of a digest."""
        row = self._db.one("code.get", (digest,))
        return None if row is None else CodeSet(unpack_units(row[0]), digest)

    async def contains(self, digest: bytes, units: Sequence[bytes]) -> bool:
        """True where the set has a unit with one of the digests."""
        found = self._progress(digest)
        if found is not None and found.whole:
            return any(self._db.one("code.contains", (unit, found.number)) is not None for unit in units)
        code = await self.get(digest)
        return code is not None and any(unit.digest in units for unit in code.units)

    async def put_names(self, digest: bytes, identity: str, names: Iterable[UnitHint]) -> None:
        """Add what an identity calls units of a set that is kept: its first name of a digest stays."""
        row = self._db.one("code.known", (digest,))
        known = await self.names(digest, identity)
        wanted = merged_names(known, names)
        if row is None or len(wanted) == len(known):
            self._db.change_many("code.put_names", ())
            return
        size, packed = pack_names(wanted)
        self._db.change("code.put_names", (row[0], identity, size, packed))

    async def names(self, digest: bytes, identity: str) -> Sequence[UnitHint]:
        """What an identity calls the units of a set."""
        row = self._db.one("code.names", (digest, identity))
        return () if row is None else unpack_names(row[0])

    async def prune(self, sets: int, names: int, limit: int) -> int:
        """Drop the oldest beyond so many bytes: of sets that were never indexed and are no attestation's, of names."""
        loose = [(row[0], row[1]) for row in self._db.all("code.loose")]
        gone = beyond([row for row in loose if self._db.one("code.attested", row[:1]) is None], sets, limit)
        self._db.change_many("code.forget_names_of", [(number,) for number in gone])
        self._db.change_many("code.forget", [(number,) for number in gone])
        unnamed = beyond([(row[0], row[1]) for row in self._db.all("code.sizes_of_names")], names, limit)
        self._db.change_many("code.forget_names", [(number,) for number in unnamed])
        return len(gone) + len(unnamed)

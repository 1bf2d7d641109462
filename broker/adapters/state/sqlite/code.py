"""Code sets, each written once, and names of digests for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from broker.adapters.state.codec import UNIT_CODES, pack_units, unpack_units
from broker.adapters.state.sqlite.session import Session
from broker.model.evidence import CodeSet, UnitHint


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
        number = self._db.changing("code.put", (code.digest, pack_units(code.units)))[0][0]
        units = [(unit.digest, UNIT_CODES[unit.kind]) for unit in code.units]
        self._db.change_many("code.put_unit", units)
        self._db.change_many("code.put_member", [(number, *unit) for unit in units])

    async def get(self, digest: bytes) -> CodeSet | None:
        """The set of a digest."""
        row = self._db.one("code.get", (digest,))
        return None if row is None else CodeSet(unpack_units(row[0]), digest)

    async def contains(self, digest: bytes, units: Sequence[bytes]) -> bool:
        """True where the set has a unit with one of the digests."""
        row = self._db.one("code.known", (digest,))
        if row is None:
            return False
        return any(self._db.one("code.contains", (unit, row[0])) is not None for unit in units)

    async def put_hints(self, hints: Iterable[UnitHint]) -> None:
        """The first name of a digest wins."""
        self._db.change_many("code.put_hint", [(hint.digest, hint.path, hint.name) for hint in hints])

    async def hints(self, digests: Sequence[bytes]) -> Sequence[UnitHint]:
        """Known names, in the order asked, each digest once."""
        rows = (self._db.one("code.hint", (digest,)) for digest in dict.fromkeys(digests))
        return [UnitHint(*row) for row in rows if row is not None]

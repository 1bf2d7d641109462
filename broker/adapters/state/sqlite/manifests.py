"""Published manifests, their floors, and which package a digest comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from broker.adapters.state.codec import pack_manifest, to_json, unpack_manifest
from broker.adapters.state.rules import package_digests
from broker.adapters.state.sqlite.session import Row, Session
from broker.model.manifest import ManifestRecord, ManifestState


class SqliteManifests:
    """Plug of `broker.ports.ManifestStore`. WITHDRAWN is terminal."""

    __slots__ = ("_db",)

    def __init__(self, session: Session) -> None:
        self._db = session

    async def add(self, record: ManifestRecord) -> bool:
        """False where (application, version) or the digest is there already."""
        manifest = record.manifest
        added = self._db.change(
            "manifests.add",
            (
                manifest.digest,
                manifest.application,
                manifest.version,
                record.state,
                record.published_at,
                to_json(record.signers),
                record.envelope,
                pack_manifest(manifest),
                record.state is ManifestState.IN_FORCE,
            ),
        )
        if not added:
            return False
        packages = package_digests(manifest)
        self._db.change_many(
            "manifests.put_package", [(purl,) for purl in sorted({row[0] for row in packages})]
        )
        rows = [(digest, unit, purl) for (purl, digest), unit in packages.items()]
        self._db.change_many("manifests.put_package_digest", rows)
        return True

    async def add_signatures(self, digest: bytes, envelope: bytes, signers: Sequence[str]) -> None:
        """Take an envelope with more signatures; `signers` join those already named."""
        row = self._db.one("manifests.signers", (digest,))
        known = [] if row is None else json.loads(row[0])
        everybody = list(dict.fromkeys((*known, *signers)))
        self._db.change("manifests.set_signatures", (envelope, to_json(everybody), digest))

    async def get(self, digest: bytes) -> ManifestRecord | None:
        """The manifest of a digest."""
        return _first(self._db.one("manifests.get", (digest,)))

    async def by_version(self, application: str, version: int) -> ManifestRecord | None:
        """The manifest of a version."""
        return _first(self._db.one("manifests.by_version", (application, version)))

    async def of_application(
        self, application: str, states: Sequence[ManifestState]
    ) -> Sequence[ManifestRecord]:
        """Newest version first; empty `application` is all, empty `states` is all."""
        wanted = to_json(list(states or ManifestState))
        if application:
            rows = self._db.all("manifests.of_application", (application, wanted))
        else:
            rows = self._db.all("manifests.all", (wanted,))
        return [_read(row) for row in rows]

    async def digests(self, application: str, states: Sequence[ManifestState], limit: int) -> Sequence[bytes]:
        """Which `of_application` would read; the newest ones."""
        wanted = to_json(list(states or ManifestState))
        if application:
            rows = self._db.all("manifests.digests_of_application", (application, wanted, limit))
        else:
            rows = self._db.all("manifests.all_digests", (wanted, limit))
        return [row[0] for row in rows]

    async def set_state(self, digest: bytes, state: ManifestState) -> bool:
        """False where there is no such manifest, or it was withdrawn."""
        return self._db.change("manifests.set_state", (state, state, digest, state)) > 0

    async def reached(self, application: str) -> int:
        """The greatest version that came into force; 0 where none did, or an operator let older ones in again."""
        row = self._db.one("manifests.reached", (application,))
        return 0 if row is None or row[0] is None else int(row[0])

    async def floor(self, application: str) -> int:
        """The least version that may be published; 0 where nobody raised it."""
        row = self._db.one("manifests.floor", (application,))
        return 0 if row is None else int(row[0])

    async def raise_floor(self, application: str, version: int) -> None:
        """Never lowers."""
        self._db.change("manifests.raise_floor", (application, version))

    async def lower_floor(self, application: str, version: int) -> None:
        """From here on `version` and later may be published, whatever was reached before."""
        self._db.change("manifests.set_floor", (application, version))
        self._db.change("manifests.forget_reached", (application, version))

    async def last_index(self, application: str) -> tuple[int, bytes]:
        """(version, digest of the payload) of the folder's index that was taken last; (0, b"") where none was."""
        row = self._db.one("manifests.last_index", (application,))
        return (0, b"") if row is None else (int(row[0]), bytes(row[1]))

    async def put_index(self, application: str, version: int, digest: bytes) -> None:
        """This index was taken."""
        self._db.change("manifests.put_index", (application, version, digest))

    async def digests_of_package(self, purl: str) -> Sequence[bytes]:
        """Unit digests that any manifest lists under a package URL, in order."""
        return [row[0] for row in self._db.all("manifests.digests_of_package", (purl,))]

    async def packages_of_digests(self, digests: Sequence[bytes]) -> Mapping[bytes, str]:
        """Package URLs of digests, unit or whole file; of several, the first in order."""
        found: dict[bytes, str] = {}
        for digest in set(digests):
            row = self._db.one("manifests.package_of_digest", (digest,))
            if row is not None and row[0] is not None:
                found[digest] = row[0]
        return found


def _first(row: Row | None) -> ManifestRecord | None:
    return None if row is None else _read(row)


def _read(row: Row) -> ManifestRecord:
    digest, application, version, state, published_at, signers, envelope, content = row
    return ManifestRecord(
        manifest=unpack_manifest(digest, application, version, content),
        envelope=envelope,
        signers=tuple(json.loads(signers)),
        state=ManifestState(state),
        published_at=published_at,
    )

"""Attestations as rows: what look-ups need is a column, the rest is one text."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from broker.adapters.state.codec import (
    identity_json,
    pack_digests,
    process_json,
    read_identity,
    read_process,
    read_results,
    results_json,
    to_json,
    unpack_digests,
)
from broker.adapters.state.rules import check_kind, refreshed, selector_digest, single_keys
from broker.adapters.state.sqlite.session import Row, Session
from broker.model.attestation import Attestation, AttestationState
from broker.model.evidence import Assurance, InstanceKey
from broker.model.revocation import Selector, SelectorKind

_REMEMBERED: Final = 1_024
_SHORT: Final = 4_096
"""Characters of a row's details that is remembered."""
_BY_DIGEST: Final = frozenset((SelectorKind.KEY, SelectorKind.MANIFEST, SelectorKind.DIGEST))


class SqliteAttestations:
    """Plug of `broker.ports.AttestationStore`."""

    __slots__ = ("_db", "_read_before")

    def __init__(self, session: Session) -> None:
        self._db = session
        # One instance asks again and again: a row that is as it was is the same attestation.
        self._read_before: OrderedDict[str, tuple[Row, Attestation]] = OrderedDict()

    async def add(self, attestation: Attestation) -> None:
        """Raises `Conflict` where the id is taken."""
        manifests = sorted(attestation.manifest_digests())
        self._db.change(
            "attestations.add",
            (
                attestation.id,
                attestation.state,
                attestation.identity.name,
                attestation.key.thumbprint,
                *_places(attestation),
                pack_digests(manifests),
                self._intern(attestation.code_set),
                attestation.created_at,
                attestation.refreshed_at,
                attestation.expires_at,
                attestation.as_of,
                attestation.decision_id,
                attestation.assurance,
                attestation.key.spki,
                attestation.key.algorithm,
                _details(attestation),
            ),
        )
        if attestation.state is AttestationState.ALIVE:
            self._link(attestation.id, manifests)

    async def get(self, attestation_id: str) -> Attestation | None:
        """The attestation of an id."""
        row = self._db.one("attestations.get", (attestation_id,))
        if row is None:
            return None
        known = self._read_before.get(attestation_id)
        if known is not None and known[0] == row:
            return known[1]
        found = _read(row)
        # What a workload says of itself may be long, and what has ended is asked for by nobody.
        if found.state is AttestationState.ALIVE and len(row[-2]) <= _SHORT:
            self._read_before[attestation_id] = row, found
            if len(self._read_before) > _REMEMBERED:
                self._read_before.popitem(last=False)
        else:
            self._read_before.pop(attestation_id, None)
        return found

    async def refresh(self, attestation: Attestation) -> bool:
        """Replace the mutable part of one that is ALIVE."""
        row = self._db.one("attestations.get", (attestation.id,))
        old = None if row is None else _read(row)
        if old is None or old.state is not AttestationState.ALIVE:
            # A refusal writes nothing, and is Misuse in a read all the same.
            self._db.change_many("attestations.refresh", ())
            return False
        new = refreshed(old, attestation)
        manifests = sorted(new.manifest_digests())
        self._db.change(
            "attestations.refresh",
            (
                new.identity.name,
                *_places(new),
                pack_digests(manifests),
                self._intern(new.code_set),
                new.refreshed_at,
                new.expires_at,
                new.as_of,
                _details(new),
                new.id,
            ),
        )
        before = sorted(old.manifest_digests())
        if before != manifests:
            self._unlink(new.id, before)
            self._link(new.id, manifests)
        return True

    async def end(self, ids: Sequence[str], state: AttestationState) -> Sequence[str]:
        """Those of `ids` that were ALIVE and are now in `state`, in id order."""
        ended = self._db.changing("attestations.end", (state, to_json(list(ids))))
        if state is not AttestationState.ALIVE:
            for attestation_id, manifests in ended:
                self._unlink(attestation_id, unpack_digests(manifests))
        return sorted(row[0] for row in ended)

    async def alive_by(self, selector: Selector, limit: int, after: str = "") -> Sequence[Attestation]:
        """ALIVE ones that a selector hits, in id order after an id; `Misuse` for LEASE, TOKEN and PACKAGE."""
        check_kind(selector)
        value: str | bytes | None = selector.value
        if selector.kind in _BY_DIGEST:
            value = selector_digest(selector)
            if value is None:
                return ()
        return self._of(self._db.all(f"attestations.alive_by_{selector.kind}", (value, after, limit)))

    async def last_of_process(self, process: str) -> Attestation | None:
        """The newest in any state that ran as a process."""
        found = self._of(self._db.all("attestations.last_of_process", (process,)))
        return found[0] if found else None

    async def page(
        self, since: float, limit: int, after: str = "", identity: str = ""
    ) -> Sequence[Attestation]:
        """Any state: those refreshed at or after `since`, of one identity or of all, in id order after an id."""
        if identity:
            return self._of(self._db.all("attestations.page_of_identity", (identity, after, since, limit)))
        return self._of(self._db.all("attestations.page", (after, since, limit)))

    async def loaded(
        self, digests: Sequence[bytes], since: float, limit: int, after: str = ""
    ) -> Sequence[Attestation]:
        """Any state: those whose code set has one of the digests, refreshed at or after `since`, in id order."""
        sets = {
            row[0]
            for digest in set(digests)
            for row in self._db.all("attestations.code_sets_with", (digest,))
        }
        return self._of(self._db.all("attestations.loaded", (to_json(sorted(sets)), since, after, limit)))

    async def count_alive(self, identity: str = "") -> int:
        """How many are ALIVE, of an identity or of all."""
        if identity:
            row = self._db.one("attestations.count_alive_of", (identity,))
        else:
            row = self._db.one("attestations.count_alive")
        return 0 if row is None else int(row[0])

    async def due(self, now: float, limit: int) -> Sequence[str]:
        """Ids of ALIVE ones past `expires_at`, longest past first."""
        return [row[0] for row in self._db.all("attestations.due", (now, limit))]

    def _of(self, ids: list[Row]) -> Sequence[Attestation]:
        if not ids:
            return ()
        return [
            _read(row) for row in self._db.all("attestations.of_ids", (to_json([row[0] for row in ids]),))
        ]

    def _intern(self, digest: bytes) -> int:
        row = self._db.one("attestations.find_code_set", (digest,))
        if row is None:
            row = self._db.changing("attestations.intern_code_set", (digest,))[0]
        return int(row[0])

    def _link(self, attestation_id: str, manifests: Sequence[bytes]) -> None:
        self._db.change_many("attestations.link_manifest", [(digest, attestation_id) for digest in manifests])

    def _unlink(self, attestation_id: str, manifests: Sequence[bytes]) -> None:
        self._db.change_many(
            "attestations.unlink_manifest", [(digest, attestation_id) for digest in manifests]
        )


def _places(attestation: Attestation) -> tuple[str | None, ...]:
    keys = single_keys(attestation)
    kinds = (SelectorKind.NODE, SelectorKind.CONTAINER, SelectorKind.POD, SelectorKind.PROCESS)
    return tuple(keys.get(kind) for kind in kinds)


def _details(attestation: Attestation) -> str:
    return to_json(
        {
            "identity": identity_json(attestation.identity),
            "process": process_json(attestation.process),
            "results": results_json(attestation.results),
            "unmeasured": attestation.unmeasured,
        }
    )


def _read(row: Row) -> Attestation:
    _, attestation_id, state, _, thumbprint, _, _, _, _, _, _, *rest = row
    created_at, refreshed_at, expires_at, as_of, decision_id, assurance, spki, algorithm, text, code_set = (
        rest
    )
    details: dict[str, Any] = json.loads(text)
    return Attestation(
        id=attestation_id,
        identity=read_identity(details["identity"]),
        key=InstanceKey(spki, thumbprint, algorithm),
        assurance=Assurance(assurance),
        process=read_process(details["process"]),
        results=read_results(details["results"]),
        code_set=code_set,
        state=AttestationState(state),
        created_at=created_at,
        refreshed_at=refreshed_at,
        expires_at=expires_at,
        as_of=as_of,
        decision_id=decision_id,
        unmeasured=tuple(details["unmeasured"]),
    )

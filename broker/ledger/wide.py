"""What a digest or a package hits: an attestation does not carry that itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from broker.model.attestation import Attestation
from broker.model.evidence import CodeSet
from broker.model.revocation import NewEntry, Selector, SelectorKind
from broker.ports import Transaction


async def wide_digests(tx: Transaction, selector: Selector) -> Sequence[bytes]:
    """The unit digests that a digest or package selector means."""
    if selector.kind is SelectorKind.DIGEST:
        return (bytes.fromhex(selector.value),)
    return await tx.manifests.digests_of_package(selector.value)


async def loaded_hit(tx: Transaction, entries: Iterable[NewEntry], code: CodeSet) -> NewEntry | None:
    """The first entry that names a digest, or a package with a unit, of a code set."""
    loaded: frozenset[bytes] | None = None
    for entry in entries:
        loaded = loaded or frozenset(unit.digest for unit in code.units)
        if not loaded.isdisjoint(await wide_digests(tx, entry.selector)):
            return entry
    return None


async def wide_hit(tx: Transaction, entries: Iterable[NewEntry], attestation: Attestation) -> bool:
    """True where the recorded code set has what a digest or package entry names."""
    for entry in entries:
        digests = await wide_digests(tx, entry.selector)
        if digests and await tx.code.contains(attestation.code_set, digests):
            return True
    return False

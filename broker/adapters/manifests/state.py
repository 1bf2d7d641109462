"""Reference values from the broker's own state: what pipelines published and nobody has ended since."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from broker.adapters.manifests.in_force import alternatives_in_force, next_change, reference_values
from broker.adapters.manifests.recent import Recent
from broker.model.manifest import Manifest, ManifestRecord, ManifestState, ReferenceValues
from broker.ports import StateStore, Transaction

MAX_LAYER_NAMES: Final = 64
"""Applications that one application may reach by its includes."""


class _Answer(NamedTuple):
    """Alternatives, and the span (seconds, UTC) in which they hold without a look at the state."""

    alternatives: tuple[ReferenceValues, ...]
    since: float
    until: float


class StateManifests:
    """A `broker.ports.ManifestSource` over the state store.

    In force is what the state says is, within its not_before and not_after;
    signatures were judged when it was stored. Answers are remembered until
    `invalidate`, until a manifest begins or ends, and for `max_age` seconds at
    most: what another replica publishes or retires shows after that. (What is
    *withdrawn* denies at once, by the revocation log.)
    """

    def __init__(
        self,
        state: StateStore,
        *,
        max_age: float = 10.0,
        max_applications: int = 1024,
        max_manifests: int = 256,
    ) -> None:
        """`max_age` in seconds; the others bound what is kept in memory."""
        self._state = state
        self._max_age = max_age
        self._answers: Recent[str, _Answer] = Recent(max_applications)
        self._manifests: Recent[bytes, Manifest] = Recent(max_manifests)
        self._loading = asyncio.Lock()
        self._generation = 0

    async def alternatives(self, application: str, now: float) -> Sequence[ReferenceValues]:
        """Every manifest in force with its layers, newest version first. Raises `Unavailable`."""
        answer = self._answers.get(application)
        if answer is None or not answer.since <= now < answer.until:
            # One reader at a time: a hundred starts after a publication are one read of the state.
            async with self._loading:
                answer = self._answers.get(application)
                if answer is None or not answer.since <= now < answer.until:
                    answer = await self._load(application, now)
        return answer.alternatives

    async def by_digests(self, digests: Sequence[bytes]) -> ReferenceValues | None:
        """The reference values of an earlier result, in force or not. Raises `Unavailable`."""
        # A digest names one content for ever, so nothing that is remembered here is ever stale.
        found = {digest: item for digest in digests if (item := self._manifests.get(digest)) is not None}
        missing = [digest for digest in digests if digest not in found]
        if missing:

            async def work(tx: Transaction) -> list[ManifestRecord | None]:
                return [await tx.manifests.get(digest) for digest in missing]

            for record in await self._state.read(work):
                if record is None:
                    return None
                found[record.manifest.digest] = self._manifests.put(record.manifest.digest, record.manifest)
        return reference_values(digests, found)

    def invalidate(self) -> None:
        """Something was published, retired or withdrawn: the next question reads the state."""
        self._generation += 1
        self._answers.clear()

    async def _load(self, application: str, now: float) -> _Answer:
        generation = self._generation

        async def work(tx: Transaction) -> dict[str, tuple[Manifest, ...]]:
            found: dict[str, tuple[Manifest, ...]] = {}
            names = [application]
            while names and len(found) < MAX_LAYER_NAMES:
                name = names.pop()
                if name not in found:
                    records = await tx.manifests.of_application(name, (ManifestState.IN_FORCE,))
                    found[name] = tuple(record.manifest for record in records)
                    names.extend(include for manifest in found[name] for include in manifest.includes)
            return found

        found = await self._state.read(work)
        # The same content is the same object: a reload must not keep a second copy of ten thousand units.
        published = {
            name: tuple(self._manifests.put(item.digest, item) for item in items)
            for name, items in found.items()
        }
        answer = _Answer(
            alternatives_in_force(published, application, now),
            since=now,
            until=min(now + self._max_age, next_change(published, now)),
        )
        # An answer read before an invalidation may still be given to who asked before it, and is not kept.
        if generation == self._generation:
            self._answers.replace(application, answer)
        return answer

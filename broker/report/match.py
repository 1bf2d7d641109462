"""Match: whom a report means among what is attested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.model.attestation import Attestation, AttestationState
from broker.model.detection import DetectionState, DetectionSubject
from broker.model.matching import elsewhere, may_be, subject_selectors
from broker.model.revocation import Selector, SelectorKind
from broker.model.role import Role
from broker.ports import RevocationFeed, StateStore, Transaction

MATCH_LIMIT = 1000

_ONE_INSTANCE = frozenset(
    {SelectorKind.ATTESTATION, SelectorKind.PROCESS, SelectorKind.CONTAINER, SelectorKind.POD}
)
"""Selectors of one instance, however many attestations it has made: more of them must not buy it a cap."""


@dataclass(frozen=True, slots=True)
class Match:
    """Whom a report means: `exact` where it names them, `instance` where that is one of ours and no more.

    `state` is set where the report ends here, `reason` says why.
    """

    attestations: tuple[Attestation, ...] = ()
    exact: bool = True
    instance: bool = True
    state: DetectionState | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """An instance that a report counts against, in some of its roles."""

    attestation: Attestation
    roles: tuple[Role, ...]


class Matcher:
    """Looks; decides nothing."""

    def __init__(self, state: StateStore, feed: RevocationFeed) -> None:
        self._state = state
        self._feed = feed

    async def match(self, subject: DetectionSubject, now: float) -> Match:
        """Most exact first; what a level does not find, the next wider one may.

        A subject that is fully named and not ours is unrelated; one that is
        incomplete and could be ours is matched loosely.
        """
        selectors = subject_selectors(subject)
        if not selectors:
            return await self._loosely(subject)

        async def work(tx: Transaction) -> tuple[Selector, Attestation | None, Sequence[Attestation]] | None:
            for selector in selectors:
                if selector.kind is SelectorKind.ATTESTATION:
                    named = await tx.attestations.get(selector.value)
                    alive = [named] if named is not None and named.state is AttestationState.ALIVE else []
                    return selector, named, alive
                found = await tx.attestations.alive_by(selector, MATCH_LIMIT)
                fitting = [item for item in found if not elsewhere(item, subject.process)]
                if fitting:
                    return selector, None, fitting
            return None

        found = await self._state.read(work)
        if found is not None:
            selector, named, alive = found
            if alive:
                return Match(tuple(alive), instance=selector.kind in _ONE_INSTANCE)
            if named is not None:
                return ended(named)
        last = await self._last(selectors)
        if last is not None:
            return ended(last)
        denials = self._feed.denials
        if denials.cut(selectors, 0) is not None or denials.banned(selectors, now) is not None:
            return Match(state=DetectionState.DUPLICATE, reason="already revoked")
        return Match(state=DetectionState.UNRELATED, reason="no attested workload")

    async def _last(self, selectors: Sequence[Selector]) -> Attestation | None:
        """Whose process this was: a second detector often sees what the first has ended."""
        named = [selector for selector in selectors if selector.kind is SelectorKind.PROCESS]
        if not named:
            return None
        return await self._state.read(lambda tx: tx.attestations.last_of_process(named[0].value))

    async def _loosely(self, subject: DetectionSubject) -> Match:
        node = subject.process.node
        if not node:
            return Match(state=DetectionState.UNMATCHED, reason="the subject names nothing")
        selector = Selector(SelectorKind.NODE, node)
        alive = await self._state.read(lambda tx: tx.attestations.alive_by(selector, MATCH_LIMIT))
        fitting = tuple(found for found in alive if may_be(found, subject.process))
        if not fitting:
            return Match(state=DetectionState.UNMATCHED, reason="nobody fits the subject")
        return Match(fitting, exact=False, instance=False)


def ended(attestation: Attestation) -> Match:
    """A report about what has ended."""
    if attestation.state is AttestationState.REVOKED:
        return Match(state=DetectionState.DUPLICATE, reason="already revoked")
    return Match(state=DetectionState.UNRELATED, reason="the attestation has ended")

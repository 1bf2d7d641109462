"""Match: whom a report means among what is attested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.model.attestation import Attestation, AttestationState
from broker.model.detection import DetectionState, DetectionSubject
from broker.model.evidence import ProcessRef
from broker.model.matching import another_process, elsewhere, may_be, subject_selectors, vouched
from broker.model.revocation import Selector, SelectorKind
from broker.ports import RevocationFeed, StateStore, Transaction

MATCH_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Match:
    """Whom a report means: `exact` where it names them, `instance` where that is one of ours and no more, however
    many attestations it has made (more of them must not buy it a cap), `whole` where these are all.

    `state` is set where the report ends here, `reason` says why.
    """

    attestations: tuple[Attestation, ...] = ()
    exact: bool = True
    instance: bool = True
    whole: bool = True
    state: DetectionState | None = None
    reason: str = ""


class Matcher:
    """Looks; decides nothing."""

    def __init__(self, state: StateStore, feed: RevocationFeed) -> None:
        self._state = state
        self._feed = feed

    async def match(self, subject: DetectionSubject, now: float) -> Match:
        """A subject that is fully named and not ours is unrelated; one that is
        incomplete and could be ours is matched loosely.
        """
        selectors = subject_selectors(subject)
        if not selectors:
            return await self._loosely(subject)
        if selectors[0].kind is SelectorKind.ATTESTATION:
            found = await self._named(selectors[0])
        else:
            found = await self._state.read(lambda tx: _seen(tx, selectors, subject.process))
        if found is not None:
            return found
        last = await self._last(selectors)
        if last is not None:
            return ended(last)
        denials = self._feed.denials
        if denials.cut(selectors, 0) is not None or denials.banned(selectors, now) is not None:
            return Match(state=DetectionState.DUPLICATE, reason="already revoked")
        return Match(state=DetectionState.UNRELATED, reason="no attested workload")

    async def _named(self, selector: Selector) -> Match | None:
        named = await self._state.read(lambda tx: tx.attestations.get(selector.value))
        if named is None:
            return None
        return Match((named,)) if named.state is AttestationState.ALIVE else ended(named)

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
        return Match(fitting, exact=False, instance=False, whole=len(alive) < MATCH_LIMIT)


async def _seen(tx: Transaction, selectors: Sequence[Selector], process: ProcessRef) -> Match | None:
    """Whom places and an identity mean, most exact first; None where nobody.

    What somebody else vouches for decides. What a workload says of itself adds it to those who are meant, or picks
    it among the instances of the identity that is named; it takes nobody out, neither itself nor another.
    """
    certain: dict[str, Attestation] = {}
    stated: dict[str, Attestation] = {}
    whole, exact, wide = True, False, False
    for selector in selectors:
        by_identity = selector.kind is SelectorKind.IDENTITY
        if by_identity and (certain or any(vouched(item, selector) for item in stated.values())):
            break
        found = await tx.attestations.alive_by(selector, MATCH_LIMIT)
        whole = whole and len(found) < MATCH_LIMIT
        sure = {item.id: item for item in found if vouched(item, selector)}
        if not certain and not stated:
            said = (item for item in found if item.id not in sure)
            stated = {item.id: item for item in said if not elsewhere(item.whereabouts, process)}
        here = {name: item for name, item in sure.items() if not elsewhere(item.place, process)}
        certain.update(here)
        exact = exact or (selector.kind is SelectorKind.PROCESS and bool(here))
        wide = wide or (by_identity and bool(here))
    if exact:
        certain = {name: item for name, item in certain.items() if not another_process(item, process)}
    meant = {**certain, **stated}
    return Match(tuple(meant.values()), instance=not wide, whole=whole) if meant else None


def ended(attestation: Attestation) -> Match:
    """A report about what has ended."""
    if attestation.state is AttestationState.REVOKED:
        return Match(state=DetectionState.DUPLICATE, reason="already revoked")
    return Match(state=DetectionState.UNRELATED, reason="the attestation has ended")

"""The verbs of one broker, made once; they reach through `Live` for what a reload changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from broker.adapters.challenges import HmacChallenges
from broker.adapters.evidence.sdk import SdkEvidence
from broker.adapters.limits import TokenBuckets
from broker.api.answers import log_unexpected
from broker.attest import Verifier
from broker.bootstrap import limits as bounds
from broker.bootstrap.live import (
    Live,
    LiveBackends,
    LiveCutters,
    LiveEnvelopes,
    LiveIdentities,
    LiveManifests,
    LiveRates,
    LiveReceipts,
    LiveRoles,
)
from broker.errors import LockstepError
from broker.explain import Explainer
from broker.issue import Issuer
from broker.ledger import Ledger
from broker.model.account import Account
from broker.model.credential import Lease
from broker.oversee import Overseer
from broker.ports import (
    AuditLog,
    Clock,
    Entropy,
    ManifestSource,
    RateLimiter,
    RevocationFeed,
    StateStore,
)
from broker.publish import Publisher
from broker.report import Approver, Reporter
from broker.revoke import Proposer, Revoker
from broker.settings.server import Server
from broker.upkeep import Upkeep

Log = structlog.typing.FilteringBoundLogger


@dataclass(frozen=True, slots=True)
class Verbs:
    """Everything that a broker does."""

    verifier: Verifier
    issuer: Issuer
    reporter: Reporter
    approver: Approver
    revoker: Revoker
    proposer: Proposer
    publisher: Publisher
    explainer: Explainer
    overseer: Overseer
    upkeep: Upkeep
    rates: RateLimiter


def make_verbs(
    server: Server,
    live: Live,
    *,
    clock: Clock,
    entropy: Entropy,
    secret: bytes,
    state: StateStore,
    state_manifests: ManifestSource,
    feed: RevocationFeed,
    audit: AuditLog,
    audited: Callable[[], str],
    log: Log,
) -> Verbs:
    """Wire them; `secret` is behind the challenges."""
    limits = server.limits
    roles = LiveRoles(live)
    backends = LiveBackends(live)
    manifests = LiveManifests(live, state_manifests)
    ledger = Ledger(state, feed, audit)
    rates = LiveRates(live, TokenBuckets(bounds.rates(limits)))

    def trouble(error: LockstepError) -> None:
        log.error("upkeep is held up", reason=error.reason.value, problem=error.message)

    def stuck(what: Lease | Account) -> None:
        # An account belongs to many grants; a lease to one decision.
        granted = {"decision": what.decision_id} if isinstance(what, Lease) else {}
        log.critical(
            "a credential cannot be taken back yet",
            stuck=what.id,
            backend=what.backend,
            problem=what.detail,
            **granted,
        )

    def alarm(line: str) -> None:
        log.critical("an operator has to put this right", problem=line)

    def fault(what: str, error: Exception) -> None:
        log_unexpected(log, f"upkeep, {what}", error)

    return Verbs(
        verifier=Verifier(
            clock=clock,
            entropy=entropy,
            roles=roles,
            challenges=HmacChallenges(secret, limits.challenge),
            identities=LiveIdentities(live),
            evidence=SdkEvidence(bounds.evidence(limits)),
            manifests=manifests,
            state=state,
            feed=feed,
            ledger=ledger,
            rates=rates,
            audit=audit,
            limits=bounds.attest(limits),
        ),
        issuer=Issuer(
            clock=clock,
            entropy=entropy,
            roles=roles,
            backends=backends,
            state=state,
            feed=feed,
            ledger=ledger,
            audit=audit,
            limits=bounds.issue(limits),
        ),
        reporter=Reporter(
            clock=clock,
            entropy=entropy,
            roles=roles,
            manifests=manifests,
            state=state,
            feed=feed,
            ledger=ledger,
            rates=rates,
            audit=audit,
            limits=bounds.report(limits),
        ),
        approver=Approver(
            clock=clock,
            entropy=entropy,
            roles=roles,
            state=state,
            feed=feed,
            ledger=ledger,
            audit=audit,
            limits=bounds.report(limits),
        ),
        revoker=Revoker(
            clock=clock,
            entropy=entropy,
            roles=roles,
            state=state,
            feed=feed,
            ledger=ledger,
            audit=audit,
        ),
        proposer=Proposer(
            clock=clock,
            entropy=entropy,
            roles=roles,
            state=state,
            feed=feed,
            ledger=ledger,
            audit=audit,
            limits=bounds.propose(limits),
        ),
        publisher=Publisher(
            clock=clock,
            entropy=entropy,
            roles=roles,
            envelopes=LiveEnvelopes(live),
            manifests=manifests,
            state=state,
            ledger=ledger,
            audit=audit,
        ),
        explainer=Explainer(state=state, roles=roles),
        overseer=Overseer(state=state, roles=roles),
        upkeep=Upkeep(
            clock=clock,
            backends=backends,
            cutters=LiveCutters(live),
            state=state,
            feed=feed,
            receipts=LiveReceipts(live),
            on_error=trouble,
            on_stuck=stuck,
            on_alarm=alarm,
            on_fault=fault,
            limits=bounds.upkeep(limits, server.retention),
            audited=audited,
        ),
        rates=rates,
    )

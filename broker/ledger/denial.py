"""What one decision takes back, and what it takes of an instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.model.attestation import Attestation
from broker.model.decision import Decision
from broker.model.revocation import LogEntry, LogHead, Selector, SelectorKind, taint
from broker.model.role import AfterRevocation, Role


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of a denial: what, and whether it cuts, bans, and until when (seconds, UTC).

    `audience` limits which resource servers see it, empty for all.
    """

    selector: Selector
    cut: bool
    ban: bool
    until: float | None = None
    audience: str = ""


@dataclass(frozen=True, slots=True)
class Denial:
    """Everything that one decision takes back.

    `targets` are the log entries, the first of which is what the revocation is
    aimed at; `attestations` are the instances that end in the same transaction;
    `wide` says that more may be hit, for `Upkeep` to find.
    """

    id: str
    targets: tuple[Target, ...]
    attestations: tuple[str, ...]
    wide: bool
    actor: str
    reason: str
    decision: Decision
    at: float
    ticket: str = ""
    detection_id: str = ""
    reported_at: float | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """A denial that is durable."""

    entries: tuple[LogEntry, ...]
    head: LogHead


def holds(roles: Sequence[Role]) -> bool:
    """Whether the strictest `after_revocation` of some roles holds; without a role it does."""
    return not roles or any(role.after_revocation is AfterRevocation.HOLD for role in roles)


def instance_targets(attestation: Attestation, *, hold: bool) -> tuple[Target, ...]:
    """What revoking one instance takes: the attestation, and the taint that outlives it.

    `hold` decides whether an identity whose instances cannot be told apart waits for a lift.
    """
    return (
        Target(Selector(SelectorKind.ATTESTATION, attestation.id), cut=True, ban=True),
        # Only what somebody else vouches for: what a workload says of its own place
        # may be the place of another, who must not fall with it.
        *(Target(selector, cut=False, ban=True) for selector in taint(attestation, hold=hold)),
    )


def quarantine_targets(attestation: Attestation, until: float, *, hold: bool) -> tuple[Target, ...]:
    """What a timed ban takes: as `instance_targets`, without a cut.

    The taint goes with it, or the instance would simply attest anew.
    """
    targets = instance_targets(attestation, hold=hold)
    return tuple(replace(target, cut=False, until=until) for target in targets if target.ban)

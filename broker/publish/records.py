"""Decisions about manifests: what was kept, what was refused, by whom and why."""

from __future__ import annotations

from dataclasses import replace

from broker.errors import LockstepError
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.manifest import Manifest
from broker.ports import AuditLog, Entropy, ManifestSource, StateStore
from lockstep.formats import Reason


class Records:
    """Makes them, keeps those that stand alone, and tells whoever has to know after a commit."""

    def __init__(
        self, *, entropy: Entropy, state: StateStore, manifests: ManifestSource, audit: AuditLog
    ) -> None:
        self._entropy = entropy
        self._state = state
        self._manifests = manifests
        self._audit = audit

    def recorded(
        self,
        manifest: Manifest | None,
        actor: str,
        detail: str,
        now: float,
        *,
        effect: Effect = Effect.RECORDED,
        ticket: str = "",
    ) -> Decision:
        """A decision about a manifest, None where it is not about one; `now` in seconds, UTC."""
        return Decision(
            id=self._entropy.identifier("D", now),
            kind=DecisionKind.MANIFEST,
            at=now,
            verdict=Reason.OK,
            effect=effect,
            application=manifest.application if manifest else "",
            manifests=(manifest.digest,) if manifest else (),
            actor=actor,
            ticket=ticket,
            detail=detail,
        )

    async def refused(self, error: LockstepError, manifest: Manifest | None, actor: str, now: float) -> None:
        """Keep a refusal and give the error its id. Raises `Unavailable`."""
        what = f"{manifest.application}@{manifest.version}: " if manifest else ""
        made = self.recorded(manifest, actor, f"{what}{error.message}", now, effect=Effect.REFUSED)
        decision = replace(made, verdict=error.reason)
        await self._state.transact(lambda tx: tx.decisions.add(decision))
        error.decision_id = decision.id
        self._audit.record(decision)

    def tell(self, decision: Decision) -> None:
        """What is in force may have changed."""
        self._manifests.invalidate()
        self._audit.record(decision)

"""Why something was granted, refused or revoked: verdict apart from effect."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from broker.model.appraisal import Finding
from broker.model.role import Mode
from lockstep.formats import Reason


class DecisionKind(enum.StrEnum):
    """What was asked."""

    ATTEST = "attest"
    REATTEST = "reattest"
    ISSUE = "issue"
    RENEW = "renew"
    DETECTION = "detection"
    REVOKE = "revoke"
    LIFT = "lift"
    MANIFEST = "manifest"


class Effect(enum.StrEnum):
    """What was done about the verdict. In observe, a bad verdict on code has the effect NONE."""

    GRANTED = "granted"
    REFUSED = "refused"
    REVOKED = "revoked"
    QUARANTINED = "quarantined"
    LIFTED = "lifted"
    HELD = "held"
    RECORDED = "recorded"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. `findings` are capped at the store; `findings_total` counts all of them."""

    id: str
    kind: DecisionKind
    at: float
    verdict: Reason
    effect: Effect
    mode: Mode | None = None
    identity: str = ""
    attestation_id: str = ""
    role: str = ""
    role_version: bytes = b""
    application: str = ""
    manifests: tuple[bytes, ...] = ()
    code_set: bytes = b""
    findings: tuple[Finding, ...] = ()
    findings_total: int = 0
    detection_id: str = ""
    revocation_id: str = ""
    instances: tuple[str, ...] = ()
    actor: str = ""
    ticket: str = ""
    detail: str = ""

    def part(self, instances: tuple[str, ...]) -> Decision:
        """What one that hit several says to some of them: what was seen and done, and nothing of the others or of
        their code."""
        return replace(
            self,
            identity="",
            attestation_id="",
            role="",
            role_version=b"",
            application="",
            manifests=(),
            code_set=b"",
            instances=instances,
        )

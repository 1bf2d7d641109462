"""Taking secrets away: what the watch tells becomes law here, on the watch's own thread, before anybody is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from lockstep.formats import Reason
from lockstep.v1 import revocation_pb2
from lockstep_client import schedule
from lockstep_client.clock import Clock
from lockstep_client.concern import EVERYTHING, taken_by, time_of
from lockstep_client.errors import LockstepError, Revoked
from lockstep_client.holding import Attestation, Holding, Revocation
from lockstep_client.transport import Transport

log = logging.getLogger("lockstep")


class Taking:
    """A `Sink` of the watch. `told` is called with each revocation after its secrets are gone.

    Before it, `cut` is called with the role that lost its secret, "" for all.
    `attest_soon` asks for a new look in some seconds, where the broker refuses
    the watch of this attestation.
    """

    def __init__(
        self,
        holding: Holding,
        thumbprint: bytes,
        transport: Transport,
        clock: Clock,
        cut: Callable[[str], None],
        told: Callable[[Revocation], None],
        attest_soon: Callable[[float], None],
    ) -> None:
        self._holding = holding
        self._thumbprint = thumbprint
        self._transport = transport
        self._clock = clock
        self._cut = cut
        self._told = told
        self._attest_soon = attest_soon
        self._denials = 0
        self._luck = schedule.luck()
        self._grace_until = 0.0
        self._log_id = ""
        # The attestation that was granted under another log than the one that is watched now.
        self._foreign: Attestation | None = None

    def silent(self) -> bool:
        """True where nobody has been heard for longer than the role's grace and secrets are to be dropped."""
        attestation = self._holding.attestation
        if attestation is None or attestation.silence_then == "keep":
            return False
        grace = schedule.silence_grace(attestation.silence_grace, self._luck)
        return self._clock.steady() > max(self._transport.last_heard + grace, self._grace_until)

    def snapshot(
        self, events: Sequence[revocation_pb2.RevocationEvent], position: revocation_pb2.LogPosition
    ) -> None:
        """Anything in the live deny set that is newer than what we were granted.

        Another log, as after a restored backup, or one that ends before our
        grant: only the broker can say what still holds, and is asked at once.
        """
        attestation = self._holding.attestation
        another = bool(self._log_id) and position.log_id != self._log_id
        self._log_id = position.log_id
        if attestation is not None and (another or position.seq < attestation.as_of):
            log.warning("the revocation log is another one than before: attesting again")
            self._foreign = attestation
            self._attest_soon(0.0)
        for event in events:
            self.event(event)

    def event(self, event: revocation_pb2.RevocationEvent) -> None:
        """Secrets go first; everybody else learns of it afterwards."""
        attestation = self._holding.attestation
        if attestation is None:
            return
        comparable = attestation is not self._foreign
        taken = taken_by(event, attestation, self._thumbprint, self._holding.held(), comparable=comparable)
        if not taken:
            return
        why = f": {event.reason}" if event.reason else ""
        if taken == EVERYTHING:
            error = Revoked(f"revoked{why}", reason=Reason.REVOKED, decision=event.decision_id)
            if not self._holding.revoke(error):
                return
            lost = None
        else:
            error = Revoked(
                f"the lease for {taken!r} was revoked{why}", reason=Reason.REVOKED, decision=event.decision_id
            )
            lost = self._holding.lose(taken, error)
        self._tell(
            Revocation(
                reason=event.reason or Reason.REVOKED,
                decision=event.decision_id,
                revocation_id=event.revocation_id,
                attestation_id=attestation.id,
                at=time_of(event),
                role="" if taken == EVERYTHING else taken,
                lease_id=lost.lease_id if lost else "",
            )
        )

    def over(self, error: Revoked) -> None:
        """The broker said that we are revoked, in an answer instead of an event."""
        attestation = self._holding.attestation
        if self._holding.revoke(error):
            self._tell(
                Revocation(
                    reason=error.reason,
                    decision=error.decision,
                    revocation_id="",
                    attestation_id=attestation.id if attestation else "",
                    at=None,
                )
            )

    def reached(self, position: revocation_pb2.LogPosition) -> None:
        """Nothing hangs on it here."""

    def beat(self, asked_at: float | None, grace: float) -> None:
        """The cluster lives; a draining replica says how long the silence may last."""
        if asked_at is not None:
            self._transport.last_heard = max(self._transport.last_heard, asked_at)
        self._grace_until = self._clock.steady() + grace if grace else 0.0
        self._denials = 0

    def denied(self, error: LockstepError) -> None:
        """The watch was refused: it is over, or the attestation has to be made anew."""
        if isinstance(error, Revoked):
            self.over(error)
            return
        self._denials += 1
        self._attest_soon(schedule.backoff(self._denials, 1.0))

    def _tell(self, revocation: Revocation) -> None:
        self._cut(revocation.role)
        log.critical("revoked: %s (lockstep explain %s)", revocation.reason, revocation.decision or "…")
        self._told(revocation)

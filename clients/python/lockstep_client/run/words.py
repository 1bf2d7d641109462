"""What a launcher says to people: what was measured, what was decided, what to do next. A line each, and no act."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from lockstep_client.errors import EXIT_DENIED
from lockstep_client.guarding import unseen_lines
from lockstep_client.holding import Attestation
from lockstep_client.leases import LiveCredential
from lockstep_client.measure import Measurement
from lockstep_client.words import plain

_SHOWN = 5


class Words:
    """`say` prints one line; with `quiet`, what is no decision is not said."""

    def __init__(self, say: Callable[[str], None], *, quiet: bool = False) -> None:
        self.say = say
        self._quiet = quiet

    def measured(self, found: Measurement | None, took: float) -> None:
        """`took` in seconds; what has no digest is named."""
        if found is None or self._quiet:
            return
        self.say(f"measured {len(found.units):,} units in {took * 1000:.0f} ms (self)")
        unseen = unseen_lines(found)
        for line in unseen[:_SHOWN]:
            self.say(f"  unseen: {line}")
        if len(unseen) > _SHOWN:
            self.say(f"  unseen: {len(unseen) - _SHOWN} more")

    def granted(self, attestation: Attestation, credential: LiveCredential) -> None:
        """The credential is there, and on which terms."""
        role = credential.role
        standing = attestation.roles.get(role)
        decision = standing.decision if standing is not None else attestation.decision
        if standing is not None and standing.findings:
            self.say(f"{role} observes, so the credential was given. Decision {decision}")
            self.next(decision)
            return
        observed = "; the role observes" if credential.mode == "observe" else ""
        self.say(
            f"credential for {role} until {credential.expires_at:%H:%M:%S}Z, renewed while approved{observed}"
        )

    def checked(self, attestation: Attestation, role: str, about: Callable[[str], Iterable[str]]) -> int:
        """What would be decided; the exit code that says the same. `about` tells what a decision is about, in lines."""
        standing = attestation.roles.get(role)
        status = standing.status if standing is not None else attestation.status
        decision = (standing.decision if standing is not None else "") or attestation.decision
        if status == "affirming":
            self.say(f"would be approved for {role}")
            return 0
        findings = standing.findings if standing is not None else 0
        reason = standing.reason if standing is not None else ""
        units = f"{findings:,} unit{'' if findings == 1 else 's'}"
        self.say(f"would be refused: {units}, {reason or status}, decision {decision}")
        for line in about(decision) if decision else ():
            self.say(f"  {line}")
        self.next(decision)
        return EXIT_DENIED

    def rotation_is_not_followed(self, credential: LiveCredential, output: str) -> None:
        """The role rotates, and the way of handing over reaches no running program."""
        self.say(
            f"{credential.role} rotates every {_span(credential.rotate_every)}, and a running program learns nothing "
            f"of it by --output {output}: its login ends {_span(credential.overlap)} after that"
        )
        self.say("  next: --on-rotated restart, or an output that follows: file, pgservice")

    def unguarded(self, pid: int) -> None:
        """A Python process without our hook."""
        if not self._quiet:
            self.say(f"process {pid} has no hook: what it loads later is seen when it is measured again")

    def next(self, decision: str) -> None:
        """The command that approves what a decision found."""
        if decision:
            self.say(f"  next: lockstep manifest approve --from {decision}")


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def stderr_line(text: str) -> None:
    """One line for people; the child owns the standard output, and its names no line, colour or direction of ours."""
    sys.stderr.write(f"lockstep: {plain(text)}\n")
    sys.stderr.flush()

"""Two kinds of no, for workloads: denied (do not ask again) and unavailable (ask again)."""

from __future__ import annotations

EXIT_UNAVAILABLE = 75
"""Process exit code: no answer; try again later (``EX_TEMPFAIL`` of sysexits)."""
EXIT_REVOKED = 77
"""Process exit code: what was granted has been taken back."""
EXIT_DENIED = 78
"""Process exit code: refused; trying again with the same code is useless."""


class LockstepError(Exception):
    """Base of everything that this package raises on purpose.

    `reason` is a code of the one table (``lockstep.formats.Reason``), `decision`
    the id for ``lockstep explain``, `count` how many units of code failed.
    Nothing in it is a secret.
    """

    def __init__(self, message: str, *, reason: str = "", decision: str = "", count: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.decision = decision
        self.count = count

    def __str__(self) -> str:
        facts = [self.reason] if self.reason else []
        if self.count:
            facts.append(f"{self.count} unit{'' if self.count == 1 else 's'}")
        if self.decision:
            facts.append(f"lockstep explain {self.decision}")
        return f"{self.message} ({', '.join(facts)})" if facts else self.message


class Denied(LockstepError):
    """The broker decided against the caller. Never retry: the same facts give the same answer."""


class Revoked(Denied):
    """What was granted has been taken back. Terminal for this process's attestation."""


class Unavailable(LockstepError):
    """Nobody answered, or the broker lacks a part that it needs. The only error worth a retry.

    `retry_after` is in seconds, None where the broker did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        decision: str = "",
        count: int = 0,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason, decision=decision, count=count)
        self.retry_after = retry_after


class Unreachable(Unavailable):
    """No connection to any broker comes up: whatever else is asked will not fare better now."""


class InvalidRequest(LockstepError):
    """The request itself is wrong: malformed, too large, or it names what does not exist."""


class ConfigurationError(LockstepError):
    """A setting is missing or wrong; the message says which, and how to set it."""

    def __init__(self, message: str, *, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting

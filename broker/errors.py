"""Two kinds of no: denied (do not ask again) and unavailable (ask again).

Each error carries a reason code of the one table (`lockstep.formats.Reason`),
a count where units failed, and the decision's id. Nothing in it is a secret, a
digest or a path: those go to the audit log and to ``explain``.
"""

from __future__ import annotations

from lockstep.formats import Reason


class LockstepError(Exception):
    """Base of everything that a door may tell a caller."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        decision_id: str = "",
        count: int = 0,
        retry_after: float | None = None,
    ) -> None:
        """`message` is shown to the caller; `retry_after` is in seconds.

        `without_effect` is set by whoever knows that nothing came of what was asked of an outside.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.decision_id = decision_id
        self.count = count
        self.retry_after = retry_after
        self.without_effect = False


class Unauthenticated(LockstepError):
    """No usable identity or proof on a call that needs one: `no_identity`, `proof_rejected`."""


class Denied(LockstepError):
    """A decision against the caller. Asking again with the same facts is useless."""


class InvalidRequest(LockstepError):
    """The request is malformed; says which field."""

    def __init__(self, message: str, *, reason: Reason = Reason.INVALID_REQUEST) -> None:
        super().__init__(reason, message)


class NotFound(LockstepError):
    """What was named does not exist, or is not the caller's to see."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.NOT_FOUND, message)


class Conflict(LockstepError):
    """The state moved, or contradicts the request (for example another content under one version)."""

    def __init__(self, message: str, *, reason: Reason = Reason.CONFLICT) -> None:
        super().__init__(reason, message)


class LimitExceeded(LockstepError):
    """A limit or rate was hit; `retry_after` says when to come back, where it is known."""

    def __init__(
        self, message: str, *, reason: Reason = Reason.RATE_LIMITED, retry_after: float | None = None
    ) -> None:
        super().__init__(reason, message, retry_after=retry_after)


class Unavailable(LockstepError):
    """A part that is needed does not answer. The only error worth a retry."""


class Misuse(Exception):
    """A programming error inside the broker (for example a foreign await in a transaction)."""

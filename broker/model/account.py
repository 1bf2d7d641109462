"""Accounts: what a backend holds for one attestation, so that one act stops every credential of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from broker.model.step import Step


class AccountState(enum.StrEnum):
    """OPENING → OPEN → CLOSING → CLOSED, or STUCK (retried until confirmed)."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"
    STUCK = "stuck"

    @property
    def live(self) -> bool:
        """True where something may exist at the backend."""
        return self is not AccountState.CLOSED


@dataclass(frozen=True, slots=True)
class Account:
    """One account of an attestation at a backend, opened by one process; times are seconds, UTC.

    At Vault it is a service token, whose entity all accounts of the attestation
    share. `replica` names the process that opened it: the secret of an account
    lives in the memory of that process alone. `accessor` takes the account back
    and is no secret; it is empty until the backend has answered. `steps` say how
    far its closing has come, for the receipt.
    """

    id: str
    attestation_id: str
    backend: str
    replica: str
    state: AccountState
    opened_at: float
    accessor: str = ""
    closing_at: float = 0.0
    closed_at: float = 0.0
    attempts: int = 0
    next_attempt_at: float = 0.0
    detail: str = ""
    steps: tuple[Step, ...] = ()

    def did(self, name: str) -> bool:
        """True where a step of that name was done."""
        return any(step.name == name for step in self.steps)


@dataclass(frozen=True, slots=True)
class Remains:
    """What a look at the target still found of an attestation: logins that could log in, sessions that live.

    `known` is told by a cut alone: how many logins of the attestation it found there,
    0 only where there was none at all, not even one that could log in no more. A cut
    that knows none of a login that was handed out has looked in the wrong place.
    """

    logins: int
    sessions: int
    known: int = field(default=0, compare=False)

    @property
    def gone(self) -> bool:
        """True where nothing was found."""
        return not self.logins and not self.sessions


@dataclass(frozen=True, slots=True)
class TargetFault:
    """What is wrong with a target for its cutter. `mend` is a line for a shell, or a comment where none helps;
    `wide` says that the cutter may more than it should, rather than less."""

    what: str
    mend: str
    wide: bool = False

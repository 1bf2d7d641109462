"""A state that was restored from a copy: seen at start, where it can be, and said by an operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from broker.adapters.audit import AuditLines, last_decision, taken_back
from broker.adapters.clock import SystemClock
from broker.adapters.entropy import SystemEntropy
from broker.adapters.state.sqlite.store import SqliteLimits, SqliteState
from broker.errors import Conflict
from broker.ports import StateStore, Transaction
from broker.restore import Restored, Restorer
from broker.settings import Settings
from broker.settings.server import Server

_PATIENCE: Final = 3600.0
"""Seconds: nobody waits for this broker, and a hundred thousand instances take their time."""
_SHOWN: Final = 1_000


@dataclass(frozen=True, slots=True)
class Account:
    """What was done, and the decisions of the audit log that took something back and that the state has forgotten.

    `forgotten` is as the audit log has them, at most a thousand; `more` says that there are others.
    """

    restored: Restored
    forgotten: Sequence[Mapping[str, Any]]
    more: bool


def audit_path(server: Server) -> Path:
    """Where decisions are written as lines."""
    return server.audit.path or server.state.path.parent / "audit.jsonl"


async def refuse_a_copy(state: StateStore, server: Server) -> None:
    """Raises `Conflict` where the audit log goes on after the state: it is a copy from before.

    A line is written after its decision is durable, so a state that lacks the decision of the last line is older
    than it, or another one.
    """
    path = audit_path(server)
    name, at = last_decision(path)
    if name and await state.read(lambda tx: tx.decisions.get(name)) is None:
        raise Conflict(
            f"{path} has the decision {name} of {at}, which {server.state.path} has not: it is a copy from before, "
            "and bans may be lost; if it was restored, run: lockstep-broker state restored"
        )


async def restored(settings: Settings, actor: str, reason: str, ticket: str) -> Account:
    """Let the log begin anew, for a broker that is not running. Raises `InvalidRequest`, `Unavailable`, `Conflict`."""
    server = settings.server
    clock, entropy = SystemClock(), SystemEntropy()
    state = await SqliteState.open(server.state.path, clock, entropy, SqliteLimits(patience=_PATIENCE))
    try:
        forgotten, more = await _forgotten(state, audit_path(server))
        done = await Restorer(clock=clock, entropy=entropy, state=state).restored(actor, reason, ticket)
    finally:
        await state.close()
    # The last line names a decision that the state has: the next start finds that the two agree.
    audit = AuditLines.append_to(audit_path(server), f"{server.cluster}/restored-{entropy.token(8).hex()}")
    try:
        audit.append(done.decision)
    finally:
        audit.close()
    return Account(done, forgotten, more)


async def _forgotten(state: StateStore, path: Path) -> tuple[list[Mapping[str, Any]], bool]:
    found: list[Mapping[str, Any]] = []
    for decision in _taken_back(path):
        # What only gave a lease back banned nothing, and may have been dropped long ago.
        if decision.get("revocation") and not await state.read(_Has(str(decision.get("id", "")))):
            found.append(decision)
    return found[:_SHOWN], len(found) > _SHOWN


def _taken_back(path: Path) -> list[Mapping[str, Any]]:
    try:
        with path.open("rb") as lines:
            return list(taken_back(lines))
    except FileNotFoundError:
        return []


class _Has:
    """Asks whether a decision is there."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def __call__(self, tx: Transaction) -> bool:
        return await tx.decisions.get(self._name) is not None

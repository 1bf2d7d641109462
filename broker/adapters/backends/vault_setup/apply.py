"""Sets a server up: what would be changed, and changing it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from broker.adapters.backends.vault_setup.acts import Act
from broker.adapters.backends.vault_setup.eyes import Eyes
from broker.errors import Unavailable
from lockstep.formats import Reason


class State(enum.StrEnum):
    """What an act finds."""

    DONE = "as it should be"
    ABSENT = "to be made"
    DIFFERENT = "to be changed"
    BY_HAND = "by hand"


@dataclass(frozen=True, slots=True)
class Pending:
    """An act, and what is there before it."""

    act: Act
    state: State

    @property
    def open(self) -> bool:
        """True where there is something that can be done."""
        return self.state in (State.ABSENT, State.DIFFERENT)


async def compare(acts: Sequence[Act], eyes: Eyes) -> tuple[Pending, ...]:
    """What each act would do; changes nothing. Raises `Unavailable`, also where the token may not look."""
    return tuple([Pending(act, await _state(act, eyes)) for act in acts])


async def apply(pending: Sequence[Pending], eyes: Eyes) -> None:
    """Do what is open, in order. Raises `Unavailable` at the first that is refused: run it again after mending."""
    for item in pending:
        if not item.open:
            continue
        answer = await eyes.ask("POST", item.act.path, item.act.body)
        if not answer.ok:
            raise _refused("write", item.act.path, answer.status)


async def _state(act: Act, eyes: Eyes) -> State:
    if not act.path:
        return State.BY_HAND
    # The method itself is not read, but found in the list of them.
    mount = act.path.removeprefix("sys/auth/") if act.path.startswith("sys/auth/") else ""
    answer = await eyes.ask("GET", "sys/auth" if mount else act.path)
    if answer.status == 404:
        return State.ABSENT
    if not answer.ok:
        raise _refused("read", act.path, answer.status)
    if mount:
        found = answer.data.get(f"{mount}/")
        if found is None:
            return State.ABSENT
        if found.get("type") != act.body["type"]:
            message = f"{mount}/ is another auth method ({found.get('type')}): choose another mount"
            raise Unavailable(Reason.BACKEND_UNAVAILABLE, message)
        return State.DONE
    same = all(answer.data.get(name) == value for name, value in act.body.items())
    return State.DONE if same else State.DIFFERENT


def _refused(verb: str, path: str, status: int) -> Unavailable:
    message = (
        f"Vault: the token may not {verb} {path}" if status == 403 else f"Vault: {path} answers {status}"
    )
    return Unavailable(Reason.BACKEND_UNAVAILABLE, message)

"""What the launcher does when the credential changes or is taken back, as the command line says it."""

from __future__ import annotations

import enum
import shlex
import signal
from dataclasses import dataclass

from lockstep_client.errors import ConfigurationError


class Act(enum.StrEnum):
    """`exit` ends the child; `signal` tells it; `restart` starts it anew; `command` runs something, and where a
    credential was revoked, ends the child then.
    """

    EXIT = "exit"
    NOTHING = "nothing"
    RESTART = "restart"
    SIGNAL = "signal"
    COMMAND = "command"


_WAYS = {
    Act.EXIT: "exit",
    Act.NOTHING: "nothing",
    Act.RESTART: "restart",
    Act.SIGNAL: "signal:NAME",
    Act.COMMAND: "command:PROGRAM ARGUMENTS",
}


@dataclass(frozen=True, slots=True)
class Reaction:
    """An act with its signal or its command."""

    act: Act
    signal: signal.Signals = signal.SIGTERM
    command: tuple[str, ...] = ()


def when_revoked(text: str) -> Reaction:
    """``exit``, ``nothing``, ``restart``, ``signal:HUP`` or ``command:…``. Raises `ConfigurationError`."""
    return _reaction(text, "--on-revoked", tuple(Act))


def when_rotated(text: str) -> Reaction:
    """The same but for ``exit``: a new secret ends nobody."""
    return _reaction(text, "--on-rotated", tuple(act for act in Act if act is not Act.EXIT))


def _reaction(text: str, option: str, acts: tuple[Act, ...]) -> Reaction:
    word, _, detail = text.partition(":")
    try:
        act = Act(word)
        if act not in acts:
            raise ValueError(word)
        if act is Act.SIGNAL:
            return Reaction(act, signal.Signals[f"SIG{detail.upper().removeprefix('SIG')}"])
        if act is Act.COMMAND and shlex.split(detail):
            return Reaction(act, command=tuple(shlex.split(detail)))
        if not detail and act is not Act.COMMAND:
            return Reaction(act)
    except (ValueError, KeyError):
        pass
    ways = ", ".join(_WAYS[act] for act in acts)
    raise ConfigurationError(f"{option} {text}: one of {ways}", setting=option)

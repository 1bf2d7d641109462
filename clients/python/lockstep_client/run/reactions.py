"""What the launcher does when the credential changes or is taken back, as the command line says it."""

from __future__ import annotations

import enum
import shlex
import signal
from dataclasses import dataclass

from lockstep_client.errors import ConfigurationError


class Act(enum.StrEnum):
    """`exit` ends the child; `signal` tells it; `restart` starts it anew; `command` runs something."""

    EXIT = "exit"
    SIGNAL = "signal"
    RESTART = "restart"
    COMMAND = "command"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Reaction:
    """An act with its signal or its command."""

    act: Act
    signal: signal.Signals = signal.SIGTERM
    command: tuple[str, ...] = ()


def reaction(text: str, option: str) -> Reaction:
    """``exit``, ``nothing``, ``signal:HUP``, ``restart`` or ``command:…``. Raises `ConfigurationError`."""
    word, _, detail = text.partition(":")
    try:
        act = Act(word)
        if act is Act.SIGNAL:
            return Reaction(act, signal.Signals[f"SIG{detail.upper().removeprefix('SIG')}"])
        if act is Act.COMMAND and shlex.split(detail):
            return Reaction(act, command=tuple(shlex.split(detail)))
        if not detail and act is not Act.COMMAND:
            return Reaction(act)
    except (ValueError, KeyError):
        pass
    raise ConfigurationError(
        f"{option} {text}: exit, nothing, restart, signal:NAME or command:PROGRAM ARGUMENTS", setting=option
    )

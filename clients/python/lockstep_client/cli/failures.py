"""Errors that end a command well: what happened, what to do next, and an exit code."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

import click

from lockstep_client.cli.main import exit_code
from lockstep_client.errors import Denied, InvalidRequest, LockstepError, Unavailable

P = ParamSpec("P")
R = TypeVar("R")

_NEXT_STEPS: Final = {
    "no_identity": "set LOCKSTEP_OPERATOR_TOKEN_FILE to a token of yours, or use a client certificate",
    "not_entitled": "ask whoever keeps the broker's configuration: see [operators.*] there",
    "signature_rejected": "sign with a key that the application's signers name: lockstep manifest sign",
    "rollback": "build with a higher --version (lockstep manifest list shows what is there)",
    "not_found": "compare the id; lockstep manifest list --all shows every manifest",
}


def next_step(error: LockstepError) -> str:
    """What to do about it, empty where the message says it all."""
    if isinstance(error, Unavailable):
        return "try again; the broker or a part of it does not answer"
    if isinstance(error, InvalidRequest | Denied) and error.reason in _NEXT_STEPS:
        return _NEXT_STEPS[error.reason]
    return f"lockstep explain {error.decision}" if error.decision else ""


class CommandFailed(click.ClickException):
    """An error of the SDK as a command's end: a message, what to do next, and an exit code."""

    def __init__(self, error: LockstepError, *, as_json: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.exit_code = exit_code(error)  # type: ignore[misc]  # click documents it so
        self._as_json = as_json

    def show(self, file: Any = None) -> None:
        """On standard error; as JSON for programs."""
        step = next_step(self.error)
        if self._as_json:
            facts = {
                "error": self.message,
                "reason": self.error.reason,
                "decision": self.error.decision,
                "count": self.error.count,
                "next": step,
            }
            click.echo(json.dumps({key: value for key, value in facts.items() if value}), err=True, file=file)
            return
        known = ", ".join(fact for fact in (self.error.reason, self.error.decision) if fact)
        click.echo(f"error: {self.message}" + (f" ({known})" if known else ""), err=True, file=file)
        if step:
            click.echo(f"  next: {step}", err=True, file=file)


def command_errors(function: Callable[P, R]) -> Callable[P, R]:
    """For a click command: the SDK's errors end it with their exit code. Reads the command's own ``as_json``."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except LockstepError as error:
            raise CommandFailed(error, as_json=bool(kwargs.get("as_json"))) from None

    return run

"""The command line's calls to a broker: an operator's credentials, and errors that end a command well."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar

import click
from google.protobuf.message import Message

from lockstep_client.clock import Clock, SystemClock
from lockstep_client.errors import (
    EXIT_DENIED,
    EXIT_REVOKED,
    EXIT_UNAVAILABLE,
    ConfigurationError,
    Denied,
    InvalidRequest,
    LockstepError,
    Revoked,
    Unavailable,
)
from lockstep_client.identity import channel_credentials
from lockstep_client.methods import Method
from lockstep_client.settings import Settings, load, read_secret_file, require
from lockstep_client.callers import Anonymous, Bearer, Caller
from lockstep_client.transport import Transport

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")

TIMEOUT: Final = 30.0
"""Seconds that one call of a command may take: a manifest may be many megabytes."""
EXIT_CONFIGURATION: Final = 2
"""Process exit code: a setting is missing or wrong, as for a wrong command line."""

_NEXT_STEPS: Final = {
    "no_identity": "set LOCKSTEP_OPERATOR_TOKEN_FILE to a token of yours, or use a client certificate",
    "not_entitled": "ask whoever keeps the broker's configuration: see [operators.*] there",
    "signature_rejected": "sign with a key that the application's signers name: lockstep manifest sign",
    "rollback": "build with a higher --version (lockstep manifest list shows what is there)",
    "not_found": "lockstep manifest list --all shows what is there",
}


class Remote:
    """Calls in an operator's name. Raises the SDK's errors only."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        """Raises `ConfigurationError` where there is no address, or nothing to say who calls."""
        require(settings, "address", "the broker's address")
        self._transport = Transport(
            settings.addresses, lambda: channel_credentials(settings), clock or SystemClock()
        )
        self._caller = _caller(settings)

    def call(self, method: Method[A], message: Message, timeout: float = TIMEOUT) -> A:
        """One answer within `timeout` seconds."""
        return self._transport.unary(method, message, self._caller, timeout)

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()


@contextmanager
def remote() -> Iterator[Remote]:
    """A connection as the environment and ``LOCKSTEP_CONFIG`` say."""
    connection = Remote(load())
    try:
        yield connection
    finally:
        connection.close()


def _caller(settings: Settings) -> Caller:
    for path, variable in (
        (settings.operator_token_file, "LOCKSTEP_OPERATOR_TOKEN_FILE"),
        (settings.identity_token_file, "LOCKSTEP_IDENTITY_TOKEN_FILE"),
    ):
        if path:
            return Bearer(functools.partial(read_secret_file, path, variable))
    if settings.client_cert_file:
        return Anonymous()  # the connection itself says who calls
    raise ConfigurationError(
        "who are you? set LOCKSTEP_OPERATOR_TOKEN_FILE to a file with your token, or LOCKSTEP_CLIENT_CERT_FILE "
        "and LOCKSTEP_CLIENT_KEY_FILE to an X.509-SVID",
        setting="LOCKSTEP_OPERATOR_TOKEN_FILE",
    )


def exit_code_of(error: LockstepError) -> int:
    """75 unavailable, 77 revoked, 78 denied, 2 configuration, 1 for the rest."""
    kinds: tuple[tuple[type[LockstepError], int], ...] = (
        (Revoked, EXIT_REVOKED),
        (Denied, EXIT_DENIED),
        (Unavailable, EXIT_UNAVAILABLE),
        (ConfigurationError, EXIT_CONFIGURATION),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), 1)


def next_step(error: LockstepError) -> str:
    """What to do about it, empty where the message says it all."""
    if error.decision:
        return f"lockstep explain {error.decision}"
    if isinstance(error, Unavailable):
        return "try again; the broker or a part of it does not answer"
    if isinstance(error, InvalidRequest | Denied):
        return _NEXT_STEPS.get(error.reason, "")
    return ""


class CommandFailed(click.ClickException):
    """An error of the SDK as a command's end: a message, what to do next, and an exit code."""

    def __init__(self, error: LockstepError, *, as_json: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.exit_code = exit_code_of(error)  # type: ignore[misc]  # click documents it so
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
        reason = f" ({self.error.reason})" if self.error.reason else ""
        click.echo(f"error: {self.message}{reason}", err=True, file=file)
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

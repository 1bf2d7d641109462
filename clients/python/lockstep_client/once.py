"""One credential for a job that is over before it would be renewed: this process proves itself, takes it and leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lockstep_client import hardening
from lockstep_client.client import guarded_connection, persist
from lockstep_client.connection import Connection, wait_for
from lockstep_client.errors import ConfigurationError
from lockstep_client.guarding import Guarding
from lockstep_client.holding import Attestation, Held
from lockstep_client.settings import Settings


@dataclass(frozen=True, slots=True)
class Once:
    """What was granted, and on which verdict."""

    attestation: Attestation
    held: Held


@contextmanager
def credential_once(settings: Settings, role: str, *, wait: float = 0.0) -> Iterator[Once]:
    """A credential that outlives this process where the block ends well, and is given back where it does not.

    Nobody renews it: it ends when it expires, at the latest with the
    attestation of this process, or when it is revoked. There is no guard: what
    this process loads once it has asked is not told. `wait`: seconds to try
    while nobody answers.

    Raises `Denied`, `Unavailable`, and `ConfigurationError` where the role binds
    its credentials to the key of the process, which ends with it.
    """
    hardening.harden(hardening.harden_use(None))
    connection = _connection(settings, role)
    handed_over = False
    try:
        attestation = persist(lambda: wait_for(connection.attest()), wait)
        held = persist(lambda: wait_for(connection.credential(role)), wait)
        if held.possession_required:
            raise ConfigurationError(
                f"{role} binds its credentials to the key of the process that asked, and that ends here: "
                'use the SDK, or possession = "bearer" in the role',
                setting="possession",
            )
        yield Once(attestation, connection.held(role))
        handed_over = True
    finally:
        connection.close(give_back=not handed_over)


def checked_once(settings: Settings, role: str, *, wait: float = 0.0) -> Attestation:
    """What the broker would decide about this process and a role; grants nothing. Raises `Denied`, `Unavailable`."""
    connection = _connection(settings, role)
    try:
        return persist(lambda: wait_for(connection.check()), wait)
    finally:
        connection.close()


def _connection(settings: Settings, role: str) -> Connection:
    return guarded_connection(settings, Guarding("off"), None, roles=(role,), on_revoked="raise")

"""Lockstep's SDK: prove what runs, hold a lease, let go when it is revoked."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lockstep_client.errors import (
    ConfigurationError,
    Denied,
    InvalidRequest,
    LockstepError,
    Revoked,
    Unavailable,
)

if TYPE_CHECKING:
    from lockstep_client import aio, sqlalchemy
    from lockstep_client.client import Lockstep, connect
    from lockstep_client.holding import Attestation, Revocation
    from lockstep_client.leases import LiveCredential
    from lockstep_client.secrets import Secret
    from lockstep_client.settings import Settings

__all__ = [
    "Attestation",
    "ConfigurationError",
    "Denied",
    "InvalidRequest",
    "LiveCredential",
    "Lockstep",
    "LockstepError",
    "Revocation",
    "Revoked",
    "Secret",
    "Settings",
    "Unavailable",
    "aio",
    "connect",
    "sqlalchemy",
]

# Imported when they are first asked for (PEP 562): whoever only catches errors pays for no gRPC.
_LATER = {
    "Attestation": "lockstep_client.holding",
    "LiveCredential": "lockstep_client.leases",
    "Lockstep": "lockstep_client.client",
    "Revocation": "lockstep_client.holding",
    "Secret": "lockstep_client.secrets",
    "Settings": "lockstep_client.settings",
    "connect": "lockstep_client.client",
}
_MODULES = ("aio", "sqlalchemy")


def __getattr__(name: str) -> object:
    if name in _LATER:
        value: object = getattr(import_module(_LATER[name]), name)
    elif name in _MODULES:
        value = import_module(f"lockstep_client.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""From a role's plan to a request, and from what Vault answers to the secret, its handle and its end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from broker.adapters.backends.vault.accounts import Held
from broker.adapters.backends.vault.engines import Method, Plan
from broker.adapters.backends.vault.errors import unavailable
from broker.adapters.backends.vault.handles import FOREVER, Handle
from broker.adapters.backends.vault.wire import Answer, Call, Lane
from broker.model.credential import Credential, Grant, Issued
from broker.model.role import Revocability

_FACTS: Final = frozenset({"serial_number", "expiration", "not_before", "private_key_type", "key_type"})
"""Of certificates: told beside the secret, not as part of it."""


def request(found: Plan, grant: Grant, held: Held, now: float) -> Call:
    """By the account's token, for no longer than the lease and the account live."""
    if found.method is Method.READ:
        return Call("GET", found.path, token=held.token, lane=Lane.GIVE)
    body = dict(found.data)
    if found.engine.lives:
        # What nobody takes back does not end with its account either.
        ends = grant.lease.expires_at
        hangs = found.revocability is not Revocability.UNTIL_EXPIRY
        left = math.floor((min(ends, held.until) if hangs else ends) - now)
        body["ttl"] = f"{max(left, found.engine.shortest, 1)}s"
    return Call("POST", found.path, body, held.token, Lane.GIVE)


def issued(found: Plan, grant: Grant, held: Held, answer: Answer, asked: float) -> Issued:
    """What a good answer to a request of `asked` (seconds, UTC) holds. Raises `Unavailable` where that is no secret,
    or none of the class that the role says."""
    lease, body = grant.lease, answer.body
    secret = answer.data
    if found.engine.name == "kv" and {"data", "metadata"} <= secret.keys():
        inner = secret["data"]  # version 2 wraps it
        secret = inner if isinstance(inner, dict) else {}
    certified = found.engine.name in ("pki", "ssh")
    facts = {name: secret[name] for name in secret.keys() & _FACTS} if certified else {}
    fields = {name: _text(value) for name, value in secret.items() if value is not None and name not in facts}
    if not fields:
        raise unavailable("the backend answered without a secret")
    lease_id, duration = body.get("lease_id"), body.get("lease_duration")
    lease_id = lease_id if isinstance(lease_id, str) else ""
    lives = asked + duration if isinstance(duration, int) and duration > 0 else 0.0
    most = min(lease.expires_at, held.until)
    match found.revocability:
        case Revocability.AT_TARGET:
            if not lease_id:
                raise unavailable("the backend answered without a lease: the role calls it revocable")
            handle, ends = Handle(lease_id), lives or lease.expires_at
        case Revocability.NEVER:
            handle, ends = Handle(until=FOREVER), lease.expires_at
        case _:
            most = lease.expires_at
            ends = _expiration(secret) or lives or lease.expires_at
            serial = secret.get("serial_number")
            has_serial = found.engine.name == "pki" and isinstance(serial, str)
            handle = Handle(
                lease_id="" if has_serial else lease_id,
                mount=found.mount if has_serial else "",
                serial=str(serial) if has_serial else "",
                until=math.ceil(ends),
            )
    return Issued(
        Credential(fields=fields),
        handle.text(lease.id),
        min(ends, most),
        parameters={**grant.parameters.get("target", {}), **facts},
    )


def named_after(made: Issued, attestation_id: str) -> bool:
    """True where a login's name begins with its instance, by which a cutter finds it."""
    name = made.credential.fields.get("username", "")
    return name.startswith(f"ls-{attestation_id}-")


def _expiration(secret: Mapping[str, Any]) -> float:
    value = secret.get("expiration")
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else 0.0


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return json.dumps(value)

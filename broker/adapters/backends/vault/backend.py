"""VaultBackend: any secret that Vault or OpenBao makes, on the account of its attestation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from broker.adapters.backends.vault.accounts import Held, VaultAccounts
from broker.adapters.backends.vault.engines import Method, Plan, plan
from broker.adapters.backends.vault.errors import refused, unavailable
from broker.adapters.backends.vault.flights import Flights
from broker.adapters.backends.vault.handles import FOREVER, Handle, parse_handle
from broker.adapters.backends.vault.leases import IRREVOCABLE, VaultLeases, given_up
from broker.adapters.backends.vault.options import VaultOptions
from broker.adapters.backends.vault.session import VaultSession
from broker.adapters.backends.vault.wire import Answer, Call, Lane, Wire
from broker.errors import Denied
from broker.model.credential import Confirmation, Confirmed, Credential, Grant, Issued, Lease
from broker.model.role import Revocability
from broker.ports import Clock
from lockstep.formats import Reason

_FACTS: Final = frozenset({"serial_number", "expiration", "not_before", "private_key_type", "key_type"})
"""Of certificates: told beside the secret, not as part of it."""
_NO_HANDLE: Final = "nothing was answered; a sweep finds what was made"


class VaultBackend:
    """`broker.ports.CredentialBackend`. Owned by one event loop; `close` at the end.

    Role parameters: `path` (required), `engine`, `method`, `data`,
    `revocability`, `cutter` (`broker.adapters.backends.vault.engines`).
    """

    def __init__(
        self,
        name: str,
        options: VaultOptions,
        clock: Clock,
        replica: str,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Opens no connection. `replica` names this process, new at every start; `warn` takes lines for the log."""
        self._name = name
        self._options = options
        self._clock = clock
        self._wire = Wire(
            namespace=options.namespace, ca_file=options.ca_file, connections=options.connections
        )
        self._session = VaultSession(name, options, self._wire, clock, warn)
        self._warn = warn
        self._leases = VaultLeases(self._session)
        self._accounts = VaultAccounts(
            options,
            self._session,
            self._leases,
            Flights(clock, max(options.max_request_duration, options.timeout)),
            clock,
            replica,
        )

    # --- about itself -------------------------------------------------------------------------------

    @property
    def outside(self) -> bool:
        """True: a lease is PENDING until Vault has answered."""
        return True

    @property
    def accounts(self) -> VaultAccounts:
        """One service token per attestation and process."""
        return self._accounts

    @property
    def session(self) -> VaultSession:
        """The broker at this Vault, for plugs that need no account of it."""
        return self._session

    @property
    def trouble(self) -> str:
        """What is wrong between the broker and Vault, for operators; empty where nothing is known to be."""
        return self._session.trouble

    def revocability_of(self, parameters: Mapping[str, Any]) -> Revocability:
        """Of the engine, or weaker where the role says so; never, for parameters that make nothing."""
        try:
            return plan(parameters, self._options.mounts).revocability
        except ValueError:
            return Revocability.NEVER

    def watch(self, paths: Iterable[str]) -> None:
        """Paths whose leases are ours alone: a sweep lists them, where it is wanted."""
        if self._options.sweep:
            self._leases.watch(paths)

    async def close(self) -> None:
        """Let calls under way be answered, give the broker's own token back, end the workers."""
        await self._wire.settled(self._options.timeout)
        await self._session.close()
        self._wire.close()

    # --- the port -----------------------------------------------------------------------------------

    async def issue(self, grant: Grant) -> Issued:
        """By the account's token, so that it hangs on it. Vault's own words say how long it lives."""
        account = grant.account
        if account is None:
            raise unavailable("no account was opened at the backend")
        found = self._plan(grant)
        held = await self._accounts.token(account, grant.lease.expires_at, grant.ttl)
        asked = self._clock.now()
        with self._accounts.sending(account.attestation_id) as flight:
            answer = await self._session.send(
                self._call(found, grant, held, asked),
                again=found.method is Method.READ and found.revocability is Revocability.NEVER,
                flight=flight,
            )
        if answer.status == 403:
            await self._accounts.refused(account)
            self._warn(f"backend {self._name}: its service tokens may not use {found.path}")
            raise unavailable("accounts at the backend may not use the role's path")
        if not answer.ok:
            self._warn(f"backend {self._name}: {found.path} answered {answer.status}")
            raise refused("making a secret", answer)
        return self._issued(found, grant, held, answer, asked)

    async def renew(self, grant: Grant) -> Issued | None:
        """Extend account and lease; None for what Vault cannot extend."""
        account, lease = grant.account, grant.lease
        if account is None:
            return None
        handle, found = parse_handle(lease.handle), self._plan(grant)
        if found.revocability is Revocability.UNTIL_EXPIRY:
            return None
        until = await self._accounts.extended(account, lease.expires_at, grant.ttl)
        if until is None:
            return None
        ends = min(lease.expires_at, until)
        if handle.lease_id:
            asked = self._clock.now()
            increment = math.ceil(lease.expires_at - asked)
            if increment < 1:
                return None
            with self._accounts.sending(account.attestation_id) as flight:
                lives = await self._leases.renew(handle.lease_id, increment, flight)
            if lives is None:
                return None
            ends = min(ends, asked + lives)
        return Issued(Credential(), lease.handle, ends)

    async def revoke(self, lease: Lease) -> None:
        """By lease id, at the target when it is answered; a certificate goes into its revocation list."""
        handle = parse_handle(lease.handle)
        if handle.serial:
            path, body = f"{handle.mount}/revoke", {"serial_number": handle.serial}
            answer = await self._session.ask("POST", path, body)
            # Not stored, or not allowed: it ends by itself, and `confirm` says so.
            if answer.status >= 500:
                raise refused("revoking a certificate", answer)
        elif handle.lease_id:
            await self._leases.revoke(handle.lease_id)

    async def confirm(self, lease: Lease, now: float) -> Confirmed:
        """Ask for the lease; what nobody can take back lives until its end."""
        handle = parse_handle(lease.handle)
        if handle.until:
            if now >= handle.until:
                return Confirmed(Confirmation.GONE, "it has expired")
            return Confirmed(Confirmation.UNTIL_EXPIRY, await self._last_word(handle), handle.until)
        if not handle.lease_id:
            return Confirmed(Confirmation.GONE, _NO_HANDLE)
        known = await self._leases.found(handle.lease_id)
        if known is None:
            return Confirmed(Confirmation.GONE, "lease unknown to the backend")
        if given_up(known):
            raise unavailable(IRREVOCABLE)
        return Confirmed(Confirmation.ALIVE, "the lease is there")

    # --- parts --------------------------------------------------------------------------------------

    def _plan(self, grant: Grant) -> Plan:
        try:
            return plan(grant.parameters, self._options.mounts)
        except ValueError:
            # Settings refuse such a role.
            raise Denied(Reason.NOT_ENTITLED, "the role names no secret that can be made") from None

    def _call(self, found: Plan, grant: Grant, held: Held, now: float) -> Call:
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

    def _issued(self, found: Plan, grant: Grant, held: Held, answer: Answer, asked: float) -> Issued:
        lease, body = grant.lease, answer.body
        secret = answer.data
        if found.engine.name == "kv" and {"data", "metadata"} <= secret.keys():
            inner = secret["data"]  # version 2 wraps it
            secret = inner if isinstance(inner, dict) else {}
        certified = found.engine.name in ("pki", "ssh")
        facts = {name: secret[name] for name in secret.keys() & _FACTS} if certified else {}
        fields = {
            name: _text(value) for name, value in secret.items() if value is not None and name not in facts
        }
        if not fields:
            raise unavailable("the backend answered without a secret")
        if "cutter" in grant.parameters and not _named(fields, lease.attestation_id):
            self._session.channel.tell(
                f"{found.path}: names of logins do not begin with the instance, so that no cutter finds them; "
                "lockstep-broker vault check prints what mends it"
            )
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

    async def _last_word(self, handle: Handle) -> str:
        if handle.until >= FOREVER:
            return "a static secret: change it at its source"
        if handle.serial:
            answer = await self._session.ask("GET", f"{handle.mount}/cert/{handle.serial}")
            if answer.ok and answer.data.get("revocation_time"):
                return "in the certificate revocation list; whoever does not look takes it until it expires"
        return "nobody can take it back"


def _named(fields: Mapping[str, str], attestation_id: str) -> bool:
    return fields.get("username", "").startswith(f"ls-{attestation_id}-")


def _expiration(secret: Mapping[str, Any]) -> float:
    value = secret.get("expiration")
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else 0.0


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return json.dumps(value)

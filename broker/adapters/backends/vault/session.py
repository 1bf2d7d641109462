"""The broker at Vault: its own login, kept alive, and what it asks with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from broker.adapters.backends.vault.channel import VaultChannel
from broker.adapters.backends.vault.errors import refused, unavailable
from broker.adapters.backends.vault.flights import Flight
from broker.adapters.backends.vault.login import login_call
from broker.adapters.backends.vault.options import VaultOptions
from broker.adapters.backends.vault.wire import Answer, Call, Lane, Wire
from broker.crypto.keyfiles import KeyFileError
from broker.errors import Unavailable
from broker.ports import Clock

PARTING: Final = 2.0
"""Seconds for giving the broker's own token back."""


@dataclass(frozen=True, slots=True)
class _Own:
    """The broker's own token; times are seconds of CLOCK_BOOTTIME."""

    token: str = field(repr=False)
    policies: frozenset[str]
    ttl: float
    renewable: bool
    renew_at: float
    until: float


class VaultSession:
    """Owned by one event loop. Raises `Unavailable` where Vault, or the way to it, is not there."""

    def __init__(
        self, name: str, options: VaultOptions, wire: Wire, clock: Clock, warn: Callable[[str], None]
    ) -> None:
        self._options = options
        self._clock = clock
        self.channel = VaultChannel(name, options, wire, clock, warn)
        self._own: _Own | None = None
        self._logging_in = asyncio.Lock()
        self._no_login_before = float("-inf")
        self._login_trouble = ""

    @property
    def trouble(self) -> str:
        """What is wrong; empty where the last call was answered, and the last login was granted."""
        return self.channel.trouble or self._login_trouble

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        lane: Lane = Lane.TAKE,
        again: bool = True,
        flight: Flight | None = None,
    ) -> Answer:
        """With the broker's own token. `again` says that doing it twice does no harm. Raises `Unavailable`;
        `LimitExceeded` where a quota is hit while giving."""
        own = await self._login()
        call = Call(method, path, body, own.token, lane)
        answer = await self.send(call, again=again, flight=flight)
        if answer.status == 403 and not await self._lives(own):
            own = await self._login(instead_of=own)
            answer = await self.send(replace(call, token=own.token), again=again, flight=flight)
        if answer.status == 403 and answer.says("permission denied"):
            self.channel.tell(f"its login may not {method} {path.partition('?')[0]}")
        return answer

    async def policies(self) -> frozenset[str]:
        """Those of the broker's own token."""
        return (await self._login()).policies

    async def send(self, call: Call, *, again: bool, flight: Flight | None = None) -> Answer:
        """With whatever token the call has (`VaultChannel.send`)."""
        return await self.channel.send(call, again=again, flight=flight)

    async def close(self) -> None:
        """Give the broker's own token back, where that is quickly done."""
        own, self._own = self._own, None
        if own is not None and self.channel.passable:
            try:
                async with asyncio.timeout(PARTING):
                    await self.send(Call("POST", "auth/token/revoke-self", {}, own.token), again=False)
            except (Unavailable, TimeoutError):
                return  # it ends by itself

    # --- the broker's own token ---------------------------------------------------------------------

    async def _login(self, instead_of: _Own | None = None) -> _Own:
        """The token; a new one where there is none, it is about to end, or it is `instead_of`."""
        own = self._own
        if own is not None and own is not instead_of and self._clock.monotonic() < own.renew_at:
            return own
        async with self._logging_in:
            own, now = self._own, self._clock.monotonic()
            if own is not None and own is not instead_of and now < own.renew_at:
                return own
            if own is not None and own is not instead_of and own.renewable and now < own.until:
                renewed = await self._renew(own)
                if renewed is not None:
                    self._own = renewed
                    return renewed
            self._own = None
            self._own = await self._log_in()
            return self._own

    async def _log_in(self) -> _Own:
        now = self._clock.monotonic()
        if now < self._no_login_before:
            raise unavailable("the broker cannot log in at the backend")
        try:
            # Files, and small ones: on the local disk of the broker.
            prepared = login_call(self._options.login)
        except KeyFileError as problem:
            raise self._login_refused(str(problem)) from None
        call = Call("POST", prepared.path, prepared.body, lane=Lane.STOP, certificate=prepared.certificate)
        answer = await self.send(call, again=True)
        token = answer.auth.get("client_token")
        if not answer.ok or not isinstance(token, str) or not token:
            raise self._login_refused(f"login at {prepared.path} answered {answer.status}")
        self._login_trouble = ""
        return _own(token, answer, now)

    def _login_refused(self, why: str) -> Unavailable:
        # Whoever asks again at once would only fill Vault's log.
        self._no_login_before = self._clock.monotonic() + self._options.circuit_pause
        if self._login_trouble != why:
            self.channel.warn(why)
        self._login_trouble = why
        return unavailable("the broker cannot log in at the backend")

    async def _renew(self, own: _Own) -> _Own | None:
        """None where it is at its end."""
        now = self._clock.monotonic()
        try:
            answer = await self.send(
                Call("POST", "auth/token/renew-self", {}, own.token, Lane.STOP), again=True
            )
        except Unavailable:
            # It still lives; the call that needs it says what is wrong.
            return own
        if not answer.ok:
            return None
        renewed = _own(own.token, answer, now)
        return replace(renewed, ttl=own.ttl, policies=own.policies) if renewed.ttl >= own.ttl / 2 else None

    async def _lives(self, own: _Own) -> bool:
        """False where the token itself is gone, rather than a right of it missing."""
        answer = await self.send(
            Call("GET", "auth/token/lookup-self", None, own.token, Lane.STOP), again=True
        )
        return answer.ok


def _own(token: str, answer: Answer, asked: float) -> _Own:
    ttl = answer.auth.get("lease_duration")
    if not isinstance(ttl, int | float) or ttl < 0:
        raise refused("login", answer)
    lives = float(ttl) or float("inf")
    policies = answer.auth.get("policies")
    named = frozenset(map(str, policies)) if isinstance(policies, list) else frozenset()
    return _Own(token, named, lives, bool(answer.auth.get("renewable")), asked + lives * 2 / 3, asked + lives)

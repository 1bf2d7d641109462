"""The broker at Vault: its own login, kept alive, and every request with deadline, retries and circuit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from broker.adapters.backends.vault.circuit import Circuit
from broker.adapters.backends.vault.errors import refused, unavailable
from broker.adapters.backends.vault.flights import Flight
from broker.adapters.backends.vault.login import login_call
from broker.adapters.backends.vault.nodes import PROBE, NoActiveNode, Nodes
from broker.adapters.backends.vault.options import VaultOptions
from broker.adapters.backends.vault.wire import Answer, Call, Lane, Lost, NotSent, Wire
from broker.crypto.keyfiles import KeyFileError
from broker.errors import LimitExceeded, Unavailable
from broker.ports import Clock

TRIES: Final = 3
"""Of one act."""
PARTING: Final = 2.0
"""Seconds for giving the broker's own token back."""
_TOLD: Final = 256
_REDIRECT: Final = 307
_NOT_DONE: Final = frozenset({412, 472, 473, 501, 503})
"""The node is sealed, a standby, or behind: it has not begun."""
_MAYBE_DONE: Final = frozenset({502, 504})
"""Something between us and the node gave up."""


class _Again(Exception):
    """Worth another try."""


class _Nowhere(_Again):
    """No node says that it is active."""


class _Failed(Exception):
    """Not worth another try."""


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
        self._name = name
        self._options = options
        self._wire = wire
        self._clock = clock
        self._warn = warn
        self._nodes = Nodes(wire, clock, options.addresses)
        self._circuit = Circuit(clock, failures=options.circuit_failures, pause=options.circuit_pause)
        self._own: _Own | None = None
        self._logging_in = asyncio.Lock()
        self._no_login_before = float("-inf")
        self._trouble = ""
        self._login_trouble = ""
        self._told: set[str] = set()

    @property
    def trouble(self) -> str:
        """What is wrong; empty where the last call was answered, and the last login was granted."""
        return self._trouble or self._login_trouble

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
            self._tell(f"its login may not {method} {path.partition('?')[0]}")
        return answer

    async def policies(self) -> frozenset[str]:
        """Those of the broker's own token."""
        return (await self._login()).policies

    async def send(self, call: Call, *, again: bool, flight: Flight | None = None) -> Answer:
        """With whatever token the call has; otherwise as `ask`."""
        self._circuit.enter()
        flight = flight or Flight()
        try:
            async with asyncio.timeout(self._options.timeout):
                try:
                    answer = await self._once(call, again, flight)
                except _Again:
                    # At once, first: a kept connection that has ended is no trouble of the server's.
                    answer = await self._more_tries()(self._once, call, again, flight)
        except _Nowhere as nowhere:
            raise self._failed(str(nowhere)) from None
        except (_Again, _Failed) as failure:
            raise await self._doubted(call, str(failure)) from None
        except TimeoutError:
            raise await self._doubted(call, f"no answer within {self._options.timeout:g} s") from None
        self._answered()
        if answer.status == 429:
            if call.lane is Lane.GIVE:
                raise LimitExceeded("the backend's limit is reached", retry_after=answer.retry_after)
            raise unavailable("the backend's limit is reached")
        return answer

    async def close(self) -> None:
        """Give the broker's own token back, where that is quickly done."""
        own, self._own = self._own, None
        if own is not None and not self._circuit.open:
            try:
                async with asyncio.timeout(PARTING):
                    await self.send(Call("POST", "auth/token/revoke-self", {}, own.token), again=False)
            except (Unavailable, TimeoutError):
                return  # it ends by itself

    def _more_tries(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(_Again),
            stop=stop_after_attempt(TRIES - 1),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        )

    # --- one exchange -------------------------------------------------------------------------------

    async def _once(self, call: Call, again: bool, flight: Flight) -> Answer:
        try:
            address = await self._nodes.active()
        except NoActiveNode as nothing:
            raise _Nowhere(str(nothing)) from None
        flight.open = True
        try:
            answer = await self._wire.exchange(address, call, self._options.timeout)
        except NotSent as failure:
            flight.open = False
            self._nodes.suspect(address)
            raise _Again(f"{address}: {failure}") from None
        except Lost as failure:
            flight.open, flight.lost = False, True
            self._nodes.suspect(address)
            raise (_Again if again else _Failed)(f"{address}: {failure}") from None
        flight.open = False
        if answer.status == _REDIRECT:
            if self._nodes.redirected(answer.location):
                raise _Again(f"{address}: standby")
            self._nodes.suspect(address)
            raise _Failed(f"{address} is a standby, and its active node is none of the configured addresses")
        if answer.status in _NOT_DONE:
            self._nodes.suspect(address)
            raise _Again(f"{address}: answers {answer.status}")
        if answer.status in _MAYBE_DONE:
            flight.lost = True
            self._nodes.suspect(address)
            raise (_Again if again else _Failed)(f"{address}: answers {answer.status}")
        return answer

    def _answered(self) -> None:
        self._circuit.answered()
        if self._trouble:
            self._trouble = ""
            self._warn(f"backend {self._name}: answers again")

    async def _doubted(self, call: Call, why: str) -> Unavailable:
        """One act was not answered: only a node that does not answer for itself either is away. A target that
        hangs must not close the way to everything else."""
        self._nodes.doubt()
        try:
            async with asyncio.timeout(2 * PROBE):
                await self._nodes.active()
        except (NoActiveNode, TimeoutError):
            return self._failed(why)
        self._answered()
        self._tell(f"{call.method} {call.path.partition('?')[0]}: {why}")
        return unavailable("the backend did not answer in time")

    def _failed(self, why: str) -> Unavailable:
        self._circuit.failed()
        if not self._trouble:
            self._warn(f"backend {self._name}: {why}")
        self._trouble = why
        return unavailable("the backend does not answer")

    def _tell(self, line: str) -> None:
        """Once, however often it happens."""
        if line not in self._told and len(self._told) < _TOLD:
            self._told.add(line)
            self._warn(f"backend {self._name}: {line}")

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
            self._warn(f"backend {self._name}: {why}")
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

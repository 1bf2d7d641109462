"""The way to Vault: every request with a deadline, retries where they are worth it, and a circuit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from broker.adapters.backends.vault.circuit import Circuit
from broker.adapters.backends.vault.errors import unavailable
from broker.adapters.backends.vault.flights import Flight
from broker.adapters.backends.vault.nodes import PROBE, NoActiveNode, Nodes
from broker.adapters.backends.vault.options import VaultOptions
from broker.adapters.backends.vault.wire import Answer, Call, Lane, Lost, NotSent, Wire
from broker.errors import LimitExceeded, Unavailable
from broker.ports import Clock

TRIES: Final = 3
"""Of one act."""
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


class VaultChannel:
    """Owned by one event loop. Raises `Unavailable` where Vault, or the way to it, is not there."""

    def __init__(
        self, name: str, options: VaultOptions, wire: Wire, clock: Clock, warn: Callable[[str], None]
    ) -> None:
        self._name = name
        self._options = options
        self._wire = wire
        self._warn = warn
        self._circuit = Circuit(clock, failures=options.circuit_failures, pause=options.circuit_pause)
        self._trouble = ""
        self._told: set[str] = set()
        self.nodes = Nodes(wire, clock, options.addresses)

    @property
    def trouble(self) -> str:
        """Why the last call was not answered; empty where it was."""
        return self._trouble

    @property
    def passable(self) -> bool:
        """False while the circuit keeps callers away."""
        return not self._circuit.open

    async def send(self, call: Call, *, again: bool, flight: Flight | None = None) -> Answer:
        """With whatever token the call has. `again` says that doing it twice does no harm; `flight` learns what
        became of it. Raises `LimitExceeded` where a quota is hit while giving."""
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

    def warn(self, line: str) -> None:
        """A line for the operator's log."""
        self._warn(f"backend {self._name}: {line}")

    def tell(self, line: str) -> None:
        """The same, once, however often it happens."""
        if line not in self._told and len(self._told) < _TOLD:
            self._told.add(line)
            self.warn(line)

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
            address = await self.nodes.active()
        except NoActiveNode as nothing:
            raise _Nowhere(str(nothing)) from None
        flight.open = True
        try:
            answer = await self._wire.exchange(address, call, self._options.timeout)
        except NotSent as failure:
            flight.open = False
            self.nodes.suspect(address)
            raise _Again(f"{address}: {failure}") from None
        except Lost as failure:
            flight.open, flight.lost = False, True
            self.nodes.suspect(address)
            raise (_Again if again else _Failed)(f"{address}: {failure}") from None
        flight.open = False
        if answer.status == _REDIRECT:
            if self.nodes.redirected(answer.location):
                raise _Again(f"{address}: standby")
            self.nodes.suspect(address)
            raise _Failed(f"{address} is a standby, and its active node is none of the configured addresses")
        if answer.status in _NOT_DONE:
            self.nodes.suspect(address)
            raise _Again(f"{address}: answers {answer.status}")
        if answer.status in _MAYBE_DONE:
            flight.lost = True
            self.nodes.suspect(address)
            raise (_Again if again else _Failed)(f"{address}: answers {answer.status}")
        return answer

    def _answered(self) -> None:
        self._circuit.answered()
        if self._trouble:
            self._trouble = ""
            self.warn("answers again")

    async def _doubted(self, call: Call, why: str) -> Unavailable:
        """One act was not answered: only a node that does not answer for itself either is away. A target that
        hangs must not close the way to everything else."""
        self.nodes.doubt()
        try:
            async with asyncio.timeout(2 * PROBE):
                await self.nodes.active()
        except (NoActiveNode, TimeoutError):
            return self._failed(why)
        self._answered()
        self.tell(f"{call.method} {call.path.partition('?')[0]}: {why}")
        return unavailable("the backend did not answer in time")

    def _failed(self, why: str) -> Unavailable:
        self._circuit.failed()
        if not self._trouble:
            self.warn(why)
        self._trouble = why
        return unavailable("the backend does not answer")

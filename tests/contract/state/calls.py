"""One store call as a transaction of its own, so that a test reads as what it asks."""

from __future__ import annotations

from typing import Any

from broker.ports import StateStore, Transaction


class Call:
    """``Call(state).leases.get("x")`` runs ``tx.leases.get("x")`` in a transaction, or in a read."""

    def __init__(self, state: StateStore, *, reading: bool = False) -> None:
        self._state = state
        self._reading = reading

    def __getattr__(self, family: str) -> _Family:
        return _Family(self._state, family, self._reading)


class _Family:
    def __init__(self, state: StateStore, family: str, reading: bool) -> None:
        self._state = state
        self._family = family
        self._reading = reading

    def __getattr__(self, method: str) -> Any:
        async def call(*arguments: Any, **named: Any) -> Any:
            async def work(tx: Transaction) -> Any:
                return await getattr(getattr(tx, self._family), method)(*arguments, **named)

            return await (self._state.read if self._reading else self._state.transact)(work)

        return call

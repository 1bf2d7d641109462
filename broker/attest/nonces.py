"""Nonces count once: in this process at once, everywhere with the outcome that they led to."""

from __future__ import annotations

from dataclasses import dataclass

from broker.errors import Denied, LimitExceeded
from broker.ports import ChallengeMint, Transaction
from lockstep.formats import Reason


@dataclass(frozen=True, slots=True)
class SpentNonce:
    """A nonce that this process will not take again; `ends` in seconds, UTC."""

    value: bytes
    ends: float

    async def claim(self, tx: Transaction) -> bool:
        """Make it durable; False where another process was first."""
        return await tx.replays.claim("nonce", self.value, self.ends)


class Nonces:
    """Those that were spent here and have not ended. Owned by one event loop."""

    def __init__(self, challenges: ChallengeMint, most: int) -> None:
        self._challenges = challenges
        self._most = most
        self._spent: dict[bytes, float] = {}

    def spend(self, nonce: bytes, thumbprint: bytes, now: float) -> SpentNonce:
        """Raises `Denied` (challenge_rejected) for a bad or used one, `LimitExceeded` beyond the bound."""
        ends = self._challenges.check(nonce, thumbprint, now)
        if nonce in self._spent:
            raise used_before()
        if len(self._spent) >= self._most:
            self._spent = {known: end for known, end in self._spent.items() if end > now}
            if len(self._spent) >= self._most:
                raise LimitExceeded("too many challenges at once", retry_after=1.0)
        self._spent[nonce] = ends
        return SpentNonce(nonce, ends)


def used_before() -> Denied:
    """The refusal of a nonce that was spent."""
    return Denied(Reason.CHALLENGE_REJECTED, "the nonce was used before")

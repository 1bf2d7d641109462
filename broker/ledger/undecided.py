"""A denial between its decision and its commit: whoever it hits gets no answer yet, and loses nothing yet."""

from __future__ import annotations

from collections.abc import Iterable

from broker.errors import Unavailable
from broker.model.anticipation import Anticipation
from broker.model.revocation import Selector
from lockstep.formats import Reason


class Undecided(Unavailable):
    """What was decided against the caller is not durable, and may be called off: it asks again.

    Raised inside a transaction it leaves nothing behind, so that the same may be tried once more.
    """

    def __init__(self) -> None:
        super().__init__(
            Reason.STATE_UNAVAILABLE, "a revocation that concerns it is being decided", retry_after=0.5
        )


def refuse_undecided(early: Anticipation, keys: Iterable[Selector], now: float) -> None:
    """Raises `Undecided` where a cut or a ban that is not durable hits one of the keys."""
    known = tuple(keys)
    if early.cut(known) is not None or early.banned(known, now) is not None:
        raise Undecided

"""How a plug without a loop of its own runs `work`: to its end, in one go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from broker.errors import Misuse
from broker.ports import Transaction

T = TypeVar("T")

_FOREIGN = "the work of a transaction awaited something else than its transaction"


def drive(work: Callable[[Transaction], Awaitable[T]], transaction: Transaction) -> T:
    """Run `work`, which may await only its transaction and so never really waits.

    Raises what `work` raises, and `Misuse` where it waits for anything else.
    """
    steps = work(transaction).__await__()
    try:
        next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
    except RuntimeError as error:
        # On a thread without a loop, asyncio's own waits fail before they wait.
        if str(error) == "no running event loop":
            raise Misuse(_FOREIGN) from error
        raise
    close = getattr(steps, "close", None)
    if close is not None:
        try:
            close()
        except RuntimeError as error:  # it went on to wait while being closed
            raise Misuse(_FOREIGN) from error
    raise Misuse(_FOREIGN)

"""From what Vault answers to the broker's two kinds of no; no text of Vault's, no address and no token in any."""

from __future__ import annotations

from broker.adapters.backends.vault.wire import Answer
from broker.errors import Unavailable
from lockstep.formats import Reason


def unavailable(what: str) -> Unavailable:
    """The backend cannot do it now."""
    return Unavailable(Reason.BACKEND_UNAVAILABLE, what)


def refused(act: str, answer: Answer) -> Unavailable:
    """Vault said no to the broker: an operator has to see to it; the workload did nothing wrong."""
    if answer.status == 403:
        return unavailable(f"{act}: the broker lacks the right at the backend")
    return unavailable(f"{act}: the backend answered {answer.status}")

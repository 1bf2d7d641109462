"""Taking trust back: the one short transaction that every verb uses, however it came to the decision.

Order (protocol, "Revocation"): deny in memory, write, then tell. The
transaction's size does not depend on how many leases hang on what is revoked;
`Upkeep` enumerates those afterwards. Until it is written a denial only refuses:
it may still be called off.
"""

from broker.ledger.denial import Denial, Denied, Target, holds, instance_targets, quarantine_targets
from broker.ledger.ledger import Ledger, write
from broker.ledger.lifting import entries_of, write_lift
from broker.ledger.undecided import Undecided, refuse_undecided
from broker.ledger.wide import loaded_hit, wide_digests, wide_hit

__all__ = [
    "Denial",
    "Denied",
    "Ledger",
    "Target",
    "Undecided",
    "entries_of",
    "holds",
    "instance_targets",
    "loaded_hit",
    "quarantine_targets",
    "refuse_undecided",
    "wide_digests",
    "wide_hit",
    "write",
    "write_lift",
]

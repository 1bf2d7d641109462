"""Revoke: operators take trust back by selector, lift a ban, or ask for the receipt.

What takes more than one of them is a proposal first: `Proposer`.
"""

from broker.revoke.proposing import ProposeLimits, Proposer
from broker.revoke.revoker import Revoker

__all__ = ["ProposeLimits", "Proposer", "Revoker"]

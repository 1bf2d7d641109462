"""Revoke: operators take trust back by selector, lift a ban, or ask for the receipt."""

from broker.revoke.looking import MOST
from broker.revoke.revoker import Revoker

__all__ = ["MOST", "Revoker"]

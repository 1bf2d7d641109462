"""Attestation tokens for a Vault that a team already has. The plug, which brings hvac, is in `backend`."""

from broker.adapters.backends.gate.options import LONGEST, GateOptions

__all__ = ["LONGEST", "GateOptions"]

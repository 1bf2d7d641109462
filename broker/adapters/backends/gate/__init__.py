"""Attestation tokens for a Vault that a team already has."""

from broker.adapters.backends.gate.accounts import LONGEST, GateAccounts, GateOptions
from broker.adapters.backends.gate.backend import GateBackend, check_parameters

__all__ = ["LONGEST", "GateAccounts", "GateBackend", "GateOptions", "check_parameters"]

"""Attest: a workload proves who it is and what code it has loaded (RFC 9334: the Verifier)."""

from broker.attest.judge import AttestLimits
from broker.attest.verifier import Verifier

__all__ = ["AttestLimits", "Verifier"]

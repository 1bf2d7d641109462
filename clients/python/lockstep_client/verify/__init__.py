"""For resource servers: check Lockstep's tokens offline, and learn of revocations while they matter."""

from lockstep_client.verify.tokens import Verified
from lockstep_client.verify.verifier import TokenVerifier

__all__ = ["TokenVerifier", "Verified"]

"""Issue: a short-lived credential for an attested workload; renew it, give it back, say whether it is good."""

from broker.issue.granting import IssueLimits
from broker.issue.issuer import Issuer

__all__ = ["IssueLimits", "Issuer"]

"""Is a file of the audit log whole? Offline, from the file alone."""

from lockstep_client.audit.chain import Fault, FaultKind, Head, Report, check

__all__ = ["Fault", "FaultKind", "Head", "Report", "check"]

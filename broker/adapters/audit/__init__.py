"""The audit log: a file of chained lines that follows the decisions committed to the state."""

from broker.adapters.audit.excerpt import Wanted, excerpt
from broker.adapters.audit.lines import (
    AuditLines,
    AuditReport,
    audit_record,
    last_decision,
    taken_back,
    verify_lines,
)
from broker.adapters.audit.outbox import AuditOutbox

__all__ = [
    "AuditLines",
    "AuditOutbox",
    "AuditReport",
    "Wanted",
    "audit_record",
    "excerpt",
    "last_decision",
    "taken_back",
    "verify_lines",
]

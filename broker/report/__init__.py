"""Report: a detector saw code run; match, decide, and deny before the reporter is answered.

What a cap holds back waits for a person: `Approver`.
"""

from broker.report.acting import ReportLimits
from broker.report.approving import Approver
from broker.report.reporter import SELF, Reporter

__all__ = ["SELF", "Approver", "ReportLimits", "Reporter"]

"""Report: a detector saw code run; match, decide, and deny before the reporter is answered."""

from broker.report.acting import ReportLimits
from broker.report.reporter import SELF, Reporter

__all__ = ["SELF", "ReportLimits", "Reporter"]

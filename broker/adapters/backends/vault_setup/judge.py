"""From facts to findings: pure, and the whole of it."""

from __future__ import annotations

from collections.abc import Sequence

from broker.adapters.backends.vault_setup.facts import Facts
from broker.adapters.backends.vault_setup.finding import Finding, Level
from broker.adapters.backends.vault_setup.judge_login import judge_login
from broker.adapters.backends.vault_setup.judge_paths import judge_paths
from broker.adapters.backends.vault_setup.judge_policies import judge_policies
from broker.adapters.backends.vault_setup.judge_server import judge_server
from broker.adapters.backends.vault_setup.judge_targets import judge_targets
from broker.adapters.backends.vault_setup.wanted import Wanted


def judge(wanted: Wanted, facts: Facts) -> tuple[Finding, ...]:
    """Everything there is to say, worst first."""
    found = [
        *judge_policies(wanted, facts),
        *judge_login(wanted, facts),
        *judge_server(wanted, facts),
        *judge_paths(wanted, facts),
        *judge_targets(wanted, facts),
    ]
    order = list(Level)
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def worst(findings: Sequence[Finding]) -> Level:
    """How bad the worst of them is; what could not be seen may be anything, and is no good."""
    return min((finding.level for finding in findings), key=list(Level).index, default=Level.GOOD)


def faulty(findings: Sequence[Finding]) -> bool:
    """True where something is missing or too wide."""
    return any(finding.level in (Level.MISSING, Level.TOO_WIDE) for finding in findings)

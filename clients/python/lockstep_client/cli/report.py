"""``lockstep report``: what was decided, by role; what observing roles would have done."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import click

from lockstep.v1 import attestation_pb2, decision_pb2
from lockstep_client.cli import show
from lockstep_client.cli.spans import Since
from lockstep_client.operator import Operator
from lockstep_client.settings import load
from lockstep_client.words import word

_STARTS = (decision_pb2.DECISION_KIND_ATTEST, decision_pb2.DECISION_KIND_REATTEST)
_GRANTS = (decision_pb2.DECISION_KIND_ISSUE, decision_pb2.DECISION_KIND_RENEW)
_WHY = 3


@dataclass
class Tally:
    """Of one role."""

    modes: set[str] = field(default_factory=set)
    attested: int = 0
    granted: int = 0
    would_refuse: int = 0
    refused: int = 0
    would_revoke: int = 0
    revoked: int = 0
    held: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Of everything that is counted as refused, revoked or held, or would have been."""

    def add(self, decision: decision_pb2.Decision) -> None:
        """One decision."""
        if decision.mode:
            self.modes.add(word(attestation_pb2.Mode, decision.mode, "MODE_"))
        before = self._felt
        good = decision.verdict == "ok"
        self.refused += decision.effect == "refused"
        if decision.kind in _STARTS:
            self.attested += decision.kind == decision_pb2.DECISION_KIND_ATTEST
            self.would_refuse += not good and decision.effect not in ("refused", "revoked")
            self.revoked += decision.effect == "revoked"
        elif decision.kind in _GRANTS:
            self.granted += decision.effect == "granted"
        elif decision.kind == decision_pb2.DECISION_KIND_DETECTION:
            self.held += decision.effect == "held"
            self.revoked += decision.effect in ("revoked", "quarantined")
            self.would_revoke += not good and decision.effect == "none"
        else:
            # A lease that its own holder gives back was taken from nobody.
            self.revoked += decision.effect == "revoked" and decision.actor != decision.identity
        if self._felt > before and not good:
            self.reasons[decision.verdict] += 1

    @property
    def _felt(self) -> int:
        return self.would_refuse + self.refused + self.would_revoke + self.revoked + self.held

    @property
    def anything(self) -> bool:
        """True where somebody started, was granted something, or felt something."""
        return bool(self.attested or self.granted or self._felt)

    @property
    def why(self) -> str:
        """The commonest reasons."""
        return ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common(_WHY))


def tally(decisions: Iterable[decision_pb2.Decision]) -> dict[str, Tally]:
    """By role; what concerns no role is under ""."""
    found: dict[str, Tally] = {}
    for decision in decisions:
        found.setdefault(decision.role, Tally()).add(decision)
    return found


@click.command()
@click.option(
    "--since",
    type=Since(),
    default="7d",
    show_default=True,
    metavar="TIME",
    help="How long ago, or a moment.",
)
@click.option("--role", "only", default="", metavar="ROLE", help="Only this one.")
@show.JSON_OPTION
def report(since: dt.datetime, only: str, as_json: bool) -> None:
    """What was decided, role by role, and what observing roles would have done.

    Before a role enforces: whatever `would refuse` and `would revoke` count is
    what its users would have felt. `lockstep explain` has each case.

    \b
      lockstep report --since 7d
      lockstep report --role payments-db --json
    """
    with Operator(load()) as operator:
        found = tally(item for item in operator.decisions(since=since) if not only or item.role == only)
    if as_json:
        click.echo(json.dumps({role: _plain(item) for role, item in sorted(found.items())}, indent=2))
        return
    show.table(
        (
            (
                role or "(no role)",
                " ".join(sorted(item.modes)),
                *(
                    str(count)
                    for count in (
                        item.attested,
                        item.granted,
                        item.would_refuse,
                        item.refused,
                        item.would_revoke,
                        item.revoked,
                        item.held,
                    )
                ),
                item.why,
            )
            for role, item in sorted(found.items())
            if role or item.anything  # a manifest that was published concerns no role, and nobody felt it
        ),
        (
            "role",
            "mode",
            "attested",
            "granted",
            "would refuse",
            "refused",
            "would revoke",
            "revoked",
            "held",
            "why",
        ),
    )


def _plain(item: Tally) -> dict[str, Any]:
    return {
        "modes": sorted(item.modes),
        "attested": item.attested,
        "granted": item.granted,
        "would_refuse": item.would_refuse,
        "refused": item.refused,
        "would_revoke": item.would_revoke,
        "revoked": item.revoked,
        "held": item.held,
        "reasons": dict(item.reasons.most_common()),
    }

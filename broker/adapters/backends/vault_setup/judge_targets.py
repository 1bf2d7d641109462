"""Targets of cutters: databases at which a cut has to find what it ends."""

from __future__ import annotations

from collections.abc import Iterator

from broker.adapters.backends.vault_setup.acts import Act
from broker.adapters.backends.vault_setup.facts import Facts, Unseen
from broker.adapters.backends.vault_setup.finding import Finding, Level
from broker.adapters.backends.vault_setup.wanted import Wanted


def judge_targets(wanted: Wanted, facts: Facts) -> Iterator[Finding]:
    """What the cutters of the roles said of themselves."""
    key = "cutter"
    for name in sorted({use.cutter for use in wanted.uses if use.cutter}):
        what = f"cutter {name}"
        match facts.targets.get(name, Unseen("it was not asked")):
            case Unseen(why):
                yield Finding(
                    key, Level.UNSEEN, f"{what}: {why}", "run it where the broker runs, as its user"
                )
            case ():
                yield Finding(key, Level.GOOD, f"{what} may cut at its target, and nothing else")
            case faults:
                for fault in faults:
                    level = Level.TOO_WIDE if fault.wide else Level.MISSING
                    why = "whoever has its password has this" if fault.wide else "sessions would live on"
                    mend = Act(what, by_hand=fault.mend)
                    yield Finding(key, level, f"{what}: {fault.what}", why, (mend,))

"""The server itself: version, standbys, how long a request may last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from broker.adapters.backends.vault_setup import acts
from broker.adapters.backends.vault_setup.acts import Act
from broker.adapters.backends.vault_setup.facts import Facts, Unseen
from broker.adapters.backends.vault_setup.finding import Finding, Level
from broker.adapters.backends.vault_setup.wanted import Wanted

OLDEST: Final[Mapping[str, tuple[int, int]]] = {"openbao": (2, 4), "vault": (1, 15)}
"""Versions that Lockstep is made for."""

_STANDBY: Final = "a standby may serve an entity for a while after it was disabled; cut off, for long"
_DURATION: Final = "a request in flight survives every revocation; cleaning waits as long as this, no longer"


def judge_server(wanted: Wanted, facts: Facts) -> Iterator[Finding]:
    """What no command of the client can change: the files of the nodes."""
    yield _version(facts)
    yield _standbys(facts)
    yield _duration(wanted, facts)


def _version(facts: Facts) -> Finding:
    name = {"openbao": "OpenBao", "vault": "Vault"}[facts.product]
    oldest = OLDEST[facts.product]
    version = tuple(int(part) for part in facts.version.split(".")[:2] if part.isdigit())
    if version >= oldest:
        return Finding("server.version", Level.GOOD, f"{name} {facts.version}")
    least = f"{name} {oldest[0]}.{oldest[1]}"
    mend = Act("server", by_hand=f"# upgrade every node to {least} or later")
    what = f"{name} {facts.version}"
    return Finding("server.version", Level.MISSING, what, f"Lockstep is made for {least} and later", (mend,))


def _standbys(facts: Facts) -> Finding:
    key = "server.standby_reads"
    mend = acts.no_standby_reads(facts.product)
    match facts.standby_reads:
        case Unseen(why):
            return Finding(key, Level.UNSEEN, f"whether standbys answer reads ({why})", _STANDBY, (mend,))
        case True:
            return Finding(key, Level.TOO_WIDE, "standbys answer reads", _STANDBY, (mend,))
    return Finding(key, Level.GOOD, "standbys answer no reads")


def _duration(wanted: Wanted, facts: Facts) -> Finding:
    key, seconds = "server.max_request_duration", wanted.max_request
    mend = acts.request_duration(seconds)
    match facts.max_request:
        case Unseen(why):
            return Finding(key, Level.UNSEEN, f"how long a request may last ({why})", _DURATION, (mend,))
        case float(longest) if longest > seconds:
            what = f"requests may last {longest:g} s, and the configuration counts on {seconds:g} s"
            return Finding(key, Level.TOO_WIDE, what, _DURATION, (mend,))
    return Finding(key, Level.GOOD, f"requests last at most {seconds:g} s")

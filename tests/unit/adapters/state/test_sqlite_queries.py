"""Every query is prepared against the real schema, is used, and reads no whole table but where that is meant."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import broker.adapters.state.sqlite as package
from broker.adapters.state.sqlite.queries import load_queries
from broker.adapters.state.sqlite.schema import bring_up_to_date

QUERIES = load_queries()
# What has to look at everything: the live log at start, all manifests, a count, and what is kept within a budget.
WHOLE = {
    "revocations.live",
    "manifests.all",
    "manifests.all_digests",
    "attestations.count_alive",
    "code.loose",
    "code.sizes_of_names",
}


@pytest.fixture(scope="module")
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    bring_up_to_date(connection, 0.0)
    yield connection
    connection.close()


def plan(database: sqlite3.Connection, name: str) -> list[str]:
    text = QUERIES[name]
    rows = database.execute(f"EXPLAIN QUERY PLAN {text}", (None,) * text.count("?"))
    return [row[3] for row in rows]


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_a_whole_table(database: sqlite3.Connection, name: str) -> None:
    scans = [step for step in plan(database, name) if step.startswith("SCAN") and "VIRTUAL TABLE" not in step]
    assert bool(scans) == (name in WHOLE)


@pytest.mark.parametrize(
    "name", [name for name in QUERIES if name.startswith("attestations.alive_by_") or name.endswith(".due")]
)
def test_hot_look_ups_have_an_index_of_their_own(database: sqlite3.Connection, name: str) -> None:
    first = plan(database, name)[0]
    assert re.match(
        r"SEARCH \w+ USING (COVERING )?(INDEX (accounts|attestations|leases|sqlite_auto)|PRIMARY KEY)", first
    )


def test_what_is_still_to_be_done_of_revocations_is_found_by_how_far_they_have_come(
    database: sqlite3.Connection,
) -> None:
    assert plan(database, "revocations.page_of_state") == [
        "SEARCH revocations USING INDEX revocations_state (state=? AND id>?)"
    ]
    assert plan(database, "revocations.newest") == [
        "SEARCH revocations USING INDEX revocations_state (state=?)"
    ]


def test_what_revoking_does_to_leases_goes_by_attestation(database: sqlite3.Connection) -> None:
    for name in ("leases.begin_revoking", "leases.unsettled"):
        assert "leases_attestation (attestation_id=?)" in plan(database, name)[0]


def test_every_query_is_used_and_every_used_query_is_there() -> None:
    folder = Path(package.__file__).parent
    sources = "".join(file.read_text() for file in folder.glob("*.py"))
    families = "|".join({name.partition(".")[0] for name in QUERIES})
    used = set(re.findall(rf'"((?:{families})\.[a-z_]+)"', sources))
    by_selector = {name for name in QUERIES if name.startswith("attestations.alive_by_")}
    assert used | by_selector == set(QUERIES)


def test_no_query_asks_the_database_for_the_time() -> None:
    text = " ".join(QUERIES.values()).lower()
    assert not re.search(
        r"\b(now|current_timestamp|current_time|current_date|datetime|julianday|unixepoch)\b", text
    )

"""Sessions of any driver: told to a credential, and ended with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

import lockstep_client
from lockstep.v1 import revocation_pb2
from lockstep_client import LiveCredential, Revoked
from lockstep_client.client import Lockstep
from lockstep_client.evidence import EvidenceSource
from lockstep_client.settings import Settings
from tests.integration.databases.conftest import Stage
from tests.unit.client.core.conftest import becomes


@pytest.fixture
def face(settings: Settings, evidence: Callable[[], EvidenceSource], stage: Stage) -> Iterator[Lockstep]:
    with lockstep_client.connect(settings=settings, evidence=evidence) as found:
        yield found


@pytest.fixture
def db(face: Lockstep) -> LiveCredential:
    return face.credential("db")


def opened(db: LiveCredential) -> psycopg.Connection:
    return db.opened(psycopg.connect(db.dsn().reveal(), autocommit=True))


def test_a_thread_that_waits_for_the_server_is_released(stage: Stage, db: LiveCredential) -> None:
    connection = opened(db)
    errors: list[Exception] = []

    def work() -> None:
        try:
            connection.execute("SELECT pg_sleep(60)")
        except psycopg.Error as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    stage.busy(stage.users[0])
    stage.revoke()
    thread.join(10)
    assert [type(error) for error in errors] == [psycopg.OperationalError]
    assert connection.closed


async def test_psycopg_in_a_loop(stage: Stage, face: Lockstep) -> None:
    db = face.credential("db")
    connection = db.opened(await psycopg.AsyncConnection.connect(db.dsn().reveal()))
    stage.revoke()
    stage.has(stage.users[0], 0)
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("SELECT 1")


def test_one_that_is_told_of_too_late_does_not_stay(stage: Stage, face: Lockstep, db: LiveCredential) -> None:
    connection = psycopg.connect(db.dsn().reveal(), autocommit=True)
    stage.revoke()
    becomes(lambda: not face.ready)
    with pytest.raises(Revoked):
        db.opened(connection)
    stage.has(stage.users[0], 0)
    connection.close()


def test_one_that_is_closed_is_forgotten(stage: Stage, face: Lockstep, db: LiveCredential) -> None:
    connection = opened(db)
    db.closed(connection)
    assert len(face._connection.sessions("db")) == 0
    stage.revoke()
    becomes(lambda: not face.ready)
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.close()


def test_a_lease_that_is_taken_back_ends_the_sessions_of_its_role_alone(
    stage: Stage, face: Lockstep, db: LiveCredential
) -> None:
    other = face.credential("other")
    mine, theirs = opened(db), opened(other)
    stage.broker.wait_until(lambda: stage.broker.watched != [])
    stage.broker.revoke(revocation_pb2.Selector(lease_id=db.lease_id), ban=False)
    stage.has(stage.users[0], 0)
    assert theirs.execute("SELECT current_user").fetchone() == (stage.users[1],)
    with pytest.raises(Revoked):
        db.login()
    for connection in (mine, theirs):
        connection.close()

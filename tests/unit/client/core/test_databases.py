"""Logins in libpq's spellings, as libpq itself reads them."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg.pq
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from psycopg.conninfo import conninfo_to_dict

from lockstep_client.databases import _VARIABLES, data_source, libpq, password_line, service, variables
from lockstep_client.errors import InvalidRequest
from lockstep_client.secrets import Secret

AWKWARD = [
    "plain",
    "co:lon",
    "back\\slash",
    "at@sl/ash?qu#ery%41&=+ ",
    "'quo\"te'",
    "ümläut·漢",
    string.punctuation,
]


def as_sent(target: Mapping[str, Any]) -> dict[str, Any]:
    """A role's target after its way through a Struct: numbers are doubles."""
    struct = Struct()
    struct.update(dict(target))
    found: dict[str, Any] = json_format.MessageToDict(struct)
    return found


def uri(target: Mapping[str, Any], user: str = "u", password: str = "p", **query: str) -> str:
    return data_source("postgresql", user, Secret(password), as_sent(target), query, "pay").reveal()


# --- URI ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", AWKWARD)
def test_a_uri_gives_libpq_what_went_in(password: str) -> None:
    target = {"host": "db.example", "port": 5433, "database": "pay:me/now?"}
    assert conninfo_to_dict(uri(target, f"u-{password}", password)) == {
        "user": f"u-{password}",
        "password": password,
        "host": "db.example",
        "port": "5433",
        "dbname": "pay:me/now?",
    }


@pytest.mark.parametrize(
    "host", ["::1", "2001:db8::7", "fe80::1%eth0", "127.0.0.1", "/run/post gres", "a.example,b.example"]
)
def test_every_kind_of_host(host: str) -> None:
    found = conninfo_to_dict(uri({"host": host, "port": 5432}))
    assert (found["host"], found["port"]) == (host, "5432")
    assert conninfo_to_dict(uri({"host": host}))["host"] == host


def test_everything_that_the_role_says_of_its_target_goes_with_the_login() -> None:
    target = {
        "host": "db.example",
        "database": "pay",
        "sslmode": "verify-full",
        "sslrootcert": "/etc/pay/my ca+root.pem",
        "options": "-c search_path=app -c statement_timeout=5s",
        "connect_timeout": 5,
    }
    found = conninfo_to_dict(uri(target))
    assert found["sslmode"] == "verify-full"
    assert found["sslrootcert"] == target["sslrootcert"]
    assert found["options"] == target["options"]
    assert found["connect_timeout"] == "5"


def test_what_the_caller_says_wins() -> None:
    found = conninfo_to_dict(
        uri({"host": "h", "sslmode": "require"}, sslmode="verify-full", application_name="a b")
    )
    assert found["sslmode"] == "verify-full"
    assert found["application_name"] == "a b"


def test_a_role_without_a_host_has_no_uri() -> None:
    for target in ({}, {"database": "pay"}, {"host": "", "port": 5432}):
        with pytest.raises(InvalidRequest, match="'pay' names no host"):
            uri(target)


@pytest.mark.parametrize(
    "target",
    [
        {"host": "h", "tls": "on"},
        {"host": "h", "user": "root"},
        {"host": "h", "password": "x"},
        {"host": "h", "passfile": "/tmp/x"},
        {"host": "h", "service": "other"},
        {"host": "h", "database": "a", "dbname": "b"},
    ],
)
def test_what_libpq_does_not_know_is_refused_and_not_left_out(target: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="'pay' has"):
        uri(target)
    with pytest.raises(InvalidRequest, match="'pay' has"):
        libpq(as_sent(target), "pay")


def test_another_database_has_other_names() -> None:
    target = as_sent({"host": "db.example", "port": 3306, "database": "pay", "ssl_ca": "/ca.pem"})
    found = urlsplit(data_source("mysql+pymysql", "u@", Secret("p:"), target, {}, "pay").reveal())
    assert (found.scheme, found.hostname, found.port, found.path) == (
        "mysql+pymysql",
        "db.example",
        3306,
        "/pay",
    )
    assert found.query == "ssl_ca=%2Fca.pem"
    assert unquote(found.password or "") == "p:"


def test_our_names_are_those_of_libpq() -> None:
    known = {
        option.keyword.decode(): (option.envvar or b"").decode()
        for option in psycopg.pq.Conninfo.get_defaults()
    }
    # Gone or not there yet in this version, but of libpq's.
    elsewhere = {"sslcompression", "krbsrvname", "gsslib"}
    for name, variable in _VARIABLES.items():
        assert known.get(name, variable if name in elsewhere else None) == variable, name
    assert {"user", "password", "passfile", "service"} <= set(known) - set(_VARIABLES)


# --- environment ----------------------------------------------------------------------------------------


def test_the_target_as_variables() -> None:
    found = libpq(as_sent({"host": "::1", "port": 5432, "database": "pay", "sslmode": "verify-full"}), "pay")
    assert variables(found, "pay") == {
        "PGHOST": "::1",
        "PGPORT": "5432",
        "PGDATABASE": "pay",
        "PGSSLMODE": "verify-full",
    }
    with pytest.raises(InvalidRequest, match="keepalives_idle"):
        variables(libpq(as_sent({"keepalives_idle": 10}), "pay"), "pay")


# --- password file --------------------------------------------------------------------------------------


def test_a_line_of_a_password_file() -> None:
    assert password_line("u:1", Secret("p\\:w"), {"host": "::1", "dbname": "d"}) == (
        "\\:\\:1:*:d:u\\:1:p\\\\\\:w\n"
    )
    assert password_line("u", Secret("p"), {}) == "*:*:*:u:p\n"


@pytest.mark.parametrize("password", ["a\nb", "a\r", "\0"])
def test_a_password_that_no_line_holds_is_refused(password: str) -> None:
    for write in (
        lambda: password_line("u", Secret(password), {}),
        lambda: service("lockstep", "u", Secret(password), {}),
    ):
        with pytest.raises(InvalidRequest) as refused:
            write()
        assert repr(password)[1:-1] not in str(refused.value)


# --- service file ---------------------------------------------------------------------------------------

Read = Callable[[str], dict[str, str]]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """What libpq makes of a service file; it comes no further, for nobody listens."""

    def look(text: str) -> dict[str, str]:
        file = tmp_path / "services"
        file.write_text(text)
        monkeypatch.setenv("PGSERVICEFILE", str(file))
        monkeypatch.setenv("PGSERVICE", "lockstep")
        connection = psycopg.pq.PGconn.connect_start(b"hostaddr=127.0.0.1 port=1")
        found = {item.keyword.decode(): item.val for item in connection.info if item.val}
        error = connection.error_message.decode()
        connection.finish()
        if "service file" in error:
            return {"error": error}
        return {name: value.decode() for name, value in found.items()}

    return look


@pytest.mark.parametrize(
    "password", [*AWKWARD[:3], *AWKWARD[4:], " blank before", "#", "[x]", "a=b", "x" * 1012]
)
def test_a_service_gives_libpq_what_went_in(read: Read, password: str) -> None:
    target = {"host": "db.example", "database": "pay", "sslmode": "verify-full", "options": "-c a=b -c c=d"}
    found = read(service("lockstep", "u", Secret(password), libpq(as_sent(target), "pay")))
    expected = {
        "user": "u",
        "password": password,
        "host": "db.example",
        "dbname": "pay",
        "sslmode": "verify-full",
        "options": "-c a=b -c c=d",
    }
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("password", ["blank behind ", "tab\t", "v\x0b", "x" * 1013, "ü" * 600])
def test_what_libpq_would_read_as_something_else_is_refused(read: Read, password: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        service("lockstep", "u", Secret(password), {})
    assert password not in str(refused.value)
    # It has a reason: this is what a file that says so would give.
    found = read(f"[lockstep]\nuser=u\npassword={password}\n")
    assert found.get("password", "") != password
    assert "password" in found or "too long" in found["error"]


def test_a_target_that_would_be_a_line_of_its_own_is_refused() -> None:
    for write in (service_of, password_line):
        with pytest.raises(InvalidRequest):
            write("u", Secret("p"), {"host": "a\nsslmode=disable"})


def service_of(user: str, password: Secret, parameters: Mapping[str, str]) -> str:
    return service("lockstep", user, password, parameters)

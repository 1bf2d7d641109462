"""Settings that cannot work are named as such, and never as a broker that is away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import lockstep_client
from lockstep_client import ConfigurationError, Unavailable
from lockstep_client.evidence import EvidenceSource
from lockstep_client.operator import Operator
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker
from tests.fakes.tls import server_files
from tests.unit.client.core.conftest import Run

Evidence = Callable[[], EvidenceSource]


@pytest.mark.parametrize(
    "address",
    ["localhost", "localhost:", ":443", "localhost:https", "localhost:0", "localhost:65536", "::1:443"],
)
def test_an_address_is_a_host_and_a_port(settings: Settings, evidence: Evidence, address: str) -> None:
    wrong = dataclasses.replace(settings, address=f"{settings.address},{address}")
    with pytest.raises(ConfigurationError, match="host:port") as caught:
        lockstep_client.connect(settings=wrong, evidence=evidence, wait=20)
    assert caught.value.setting == "LOCKSTEP_ADDRESS"
    assert repr(address) in str(caught.value)
    with pytest.raises(ConfigurationError, match="host:port"):
        Operator(wrong)


def test_addresses_that_are_fine() -> None:
    found = Settings(address="broker.example:443, [::1]:8443,127.0.0.1:65535")
    assert found.addresses == ("broker.example:443", "[::1]:8443", "127.0.0.1:65535")


@pytest.mark.parametrize(
    ("field", "variable"),
    [
        ("ca_file", "LOCKSTEP_CA_FILE"),
        ("client_cert_file", "LOCKSTEP_CLIENT_CERT_FILE"),
        ("client_key_file", "LOCKSTEP_CLIENT_KEY_FILE"),
    ],
)
def test_a_file_that_is_no_pem_is_named(
    settings: Settings, evidence: Evidence, tmp_path: Path, field: str, variable: str
) -> None:
    files = server_files(tmp_path)
    certificate, key = tmp_path / "svid.crt", tmp_path / "svid.key"
    certificate.write_bytes(files.certificate)
    key.write_bytes(files.key)
    other = tmp_path / "something.else"
    other.write_text("-----BEGIN NOTHING-----\n")
    wrong = dataclasses.replace(
        settings, **{"client_cert_file": str(certificate), "client_key_file": str(key), field: str(other)}
    )
    with pytest.raises(ConfigurationError, match="PEM") as caught:
        lockstep_client.connect(settings=wrong, evidence=evidence, wait=20)
    assert caught.value.setting == variable
    assert str(other) in str(caught.value)


def test_where_nothing_comes_up_it_is_said_what_else_it_may_be(
    settings: Settings, evidence: Evidence, tmp_path: Path
) -> None:
    other = dataclasses.replace(settings, ca_file=str(server_files(tmp_path).ca_file))
    for wrong in (other, dataclasses.replace(settings, ca_file="")):
        with pytest.raises(Unavailable) as caught:
            lockstep_client.connect(settings=wrong, evidence=evidence)
        assert str(caught.value) == (
            f"no broker answers at {settings.address}, or its certificate is not by LOCKSTEP_CA_FILE "
            "(unset: the system's roots)"
        )


def test_commands_end_with_2(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    process = run("--role", "a-token", "--", "true", LOCKSTEP_ADDRESS="localhost")
    _, err = process.communicate(timeout=40)
    assert process.returncode == 2
    assert err.startswith("lockstep: LOCKSTEP_ADDRESS: 'localhost'")
    (tmp_path / "ca").write_text("nothing\n")
    process = run("--role", "a-token", "--", "true", LOCKSTEP_CA_FILE=str(tmp_path / "ca"))
    _, err = process.communicate(timeout=40)
    assert process.returncode == 2, err
    assert err.startswith("lockstep: LOCKSTEP_CA_FILE: ")
    assert broker.calls == []

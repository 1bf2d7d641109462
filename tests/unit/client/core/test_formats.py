"""A credential as kubectl, AWS's tools and a shell read it."""

from __future__ import annotations

import datetime as dt
import json
import subprocess

import pytest

from lockstep_client.cli.formats import EXEC_CREDENTIAL, FORMATS, require_exec_version
from lockstep_client.errors import ConfigurationError
from lockstep_client.holding import Held
from lockstep_client.secrets import Secret

ENDS = dt.datetime(2026, 11, 28, 11, 0, 7, 900_000, tzinfo=dt.UTC)
NASTY = "a'b\"c $(touch x) `id` \\ \n new\tline ! é"


def held(token: str | None = None, **fields: str) -> Held:
    return Held(
        lease_id="L-1",
        role="pay",
        mode="enforce",
        decision="D-1",
        revocability="instant",
        possession_required=False,
        renewable=True,
        expires_at=ENDS,
        ends=0.0,
        lifetime=0.0,
        token=None if token is None else Secret(token),
        fields={name: Secret(value) for name, value in fields.items()},
        parameters={"host": "db.pay"},
    )


def test_json_has_the_secret_and_what_the_lease_says() -> None:
    facts = json.loads(FORMATS["json"](held(username="u", password=NASTY)))
    assert facts["fields"] == {"username": "u", "password": NASTY}
    assert "token" not in facts
    assert facts["expires_at"] == "2026-11-28T11:00:07Z"
    assert (facts["lease_id"], facts["decision"], facts["parameters"]) == ("L-1", "D-1", {"host": "db.pay"})
    assert json.loads(FORMATS["json"](held("t")))["token"] == "t"


def test_a_shell_gets_every_byte_and_runs_none() -> None:
    lines = FORMATS["env"](held(username="u", password=NASTY))
    done = subprocess.run(
        ["sh", "-c", f'{lines}\nprintf %s "$LOCKSTEP_PASSWORD"'], capture_output=True, check=True, timeout=10
    )
    assert done.stdout.decode() == NASTY
    assert all(line.startswith("export LOCKSTEP_") for line in FORMATS["env"](held("t")).splitlines())


@pytest.mark.parametrize("name", ["address", "ca_file", "config", "operator_token_file"])
def test_a_field_is_no_setting(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"LOCKSTEP_{name.upper()}"):
        FORMATS["env"](held(**{name: "x"}))


@pytest.mark.parametrize("fields", [{"a-b": "x"}, {"a;id": "x"}, {"key": "a\0b"}])
def test_what_a_shell_cannot_hold_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="--format json"):
        FORMATS["env"](held(**fields))


@pytest.mark.parametrize(
    ("credential", "status"),
    [
        (held("t"), {"token": "t"}),
        (held(service_account_token="s", service_account_name="n"), {"token": "s"}),
        (
            held(certificate="C", private_key="K\n", ca_chain='["A", "B\\n"]'),
            {"clientCertificateData": "C\nA\nB\n", "clientKeyData": "K\n"},
        ),
        (
            held(certificate="C", private_key="K"),
            {"clientCertificateData": "C\n", "clientKeyData": "K\n"},
        ),
    ],
    ids=["token", "service account", "chain", "certificate"],
)
def test_kubectl_gets_an_exec_credential(credential: Held, status: dict[str, str]) -> None:
    assert json.loads(FORMATS["kubectl"](credential)) == {
        "apiVersion": EXEC_CREDENTIAL,
        "kind": "ExecCredential",
        "status": {"expirationTimestamp": "2026-11-28T11:00:07Z", **status},
    }


@pytest.mark.parametrize(
    ("more", "session"),
    [
        ({}, {}),
        ({"security_token": "s"}, {"SessionToken": "s"}),
        ({"session_token": "s"}, {"SessionToken": "s"}),
    ],
)
def test_aws_gets_its_process_credentials(more: dict[str, str], session: dict[str, str]) -> None:
    assert json.loads(FORMATS["aws"](held(access_key="a", secret_key="k", **more))) == {
        "Version": 1,
        "AccessKeyId": "a",
        "SecretAccessKey": "k",
        "Expiration": "2026-11-28T11:00:07Z",
        **session,
    }


@pytest.mark.parametrize("form", ["kubectl", "aws"])
def test_what_does_not_fit_says_so_and_shows_no_secret(form: str) -> None:
    with pytest.raises(ConfigurationError, match="username, password") as refused:
        FORMATS[form](held(username="u", password="hidden-word"))
    assert "hidden-word" not in str(refused.value)


def test_another_version_of_kubectl_s_words_is_refused() -> None:
    require_exec_version("")
    require_exec_version(json.dumps({"apiVersion": EXEC_CREDENTIAL, "kind": "ExecCredential"}))
    with pytest.raises(ConfigurationError, match=r"set apiVersion: client\.authentication\.k8s\.io/v1 "):
        require_exec_version(json.dumps({"apiVersion": "client.authentication.k8s.io/v1beta1"}))
    for wrong in ("no", "[]", "{}"):
        with pytest.raises(ConfigurationError, match="KUBERNETES_EXEC_INFO"):
            require_exec_version(wrong)

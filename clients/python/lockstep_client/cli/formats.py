"""A credential as other programs read it: JSON, shell lines, kubectl's and AWS's credential plugins. Pure."""

from __future__ import annotations

import datetime as dt
import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final

from lockstep_client.errors import ConfigurationError
from lockstep_client.holding import Held
from lockstep_client.settings import variables

EXEC_CREDENTIAL: Final = "client.authentication.k8s.io/v1"
"""The one version that is spoken (Kubernetes, client-go credential plugins)."""
_SETTINGS: Final = frozenset(variables())
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def as_json(held: Held) -> str:
    """Everything that there is: the secret as `token` or `fields`, and what the lease says."""
    facts: dict[str, Any] = {
        "role": held.role,
        "mode": held.mode,
        "expires_at": _rfc3339(held.expires_at),
        "lease_id": held.lease_id,
        "decision": held.decision,
        "revocability": held.revocability,
        "parameters": dict(held.parameters),
    }
    facts |= {"fields": _fields(held)} if held.token is None else {"token": held.token.reveal()}
    return json.dumps(facts, ensure_ascii=False)


def as_env(held: Held) -> str:
    """``export`` lines for a POSIX shell: LOCKSTEP_TOKEN, or LOCKSTEP_ and each field's name; quoted for ``eval``.

    Raises `ConfigurationError` where a shell has no such name or value.
    """
    values = _fields(held) if held.token is None else {"token": held.token.reveal()}
    lines = []
    for name, value in {**values, "expires_at": _rfc3339(held.expires_at), "lease_id": held.lease_id}.items():
        variable = f"LOCKSTEP_{name.upper()}"
        if _VARIABLE.fullmatch(variable) is None or "\0" in value:
            raise ConfigurationError(
                f"{held.role}: a shell holds no {name!r}: use --format json", setting="--format"
            )
        if variable in _SETTINGS:
            raise ConfigurationError(
                f"{held.role}: its field {name!r} would be the setting {variable}: use --format json",
                setting="--format",
            )
        lines.append(f"export {variable}={shlex.quote(value)}")
    return "\n".join(lines)


def as_kubectl(held: Held) -> str:
    """An ExecCredential: the token, a service account's token, or a client certificate with its key.

    Raises `ConfigurationError` where the credential is none of these.
    """
    fields = _fields(held)
    status: dict[str, str] = {"expirationTimestamp": _rfc3339(held.expires_at)}
    if held.token is not None:
        status["token"] = held.token.reveal()
    elif "service_account_token" in fields:
        status["token"] = fields["service_account_token"]
    elif {"certificate", "private_key"} <= fields.keys():
        chain = [fields["certificate"], fields.get("ca_chain", "")]
        status["clientCertificateData"] = _lines(*_pems(chain))
        status["clientKeyData"] = _lines(fields["private_key"])
    else:
        raise _unfit(
            held, "kubectl", "a token, or `service_account_token`, or `certificate` and `private_key`"
        )
    return json.dumps({"apiVersion": EXEC_CREDENTIAL, "kind": "ExecCredential", "status": status})


def as_aws(held: Held) -> str:
    """What ``credential_process`` of an AWS profile reads, version 1. Raises `ConfigurationError` for anything else."""
    fields = _fields(held)
    if not {"access_key", "secret_key"} <= fields.keys():
        raise _unfit(held, "aws", "`access_key` and `secret_key`, as Vault's aws engine makes them")
    facts: dict[str, str | int] = {
        "Version": 1,
        "AccessKeyId": fields["access_key"],
        "SecretAccessKey": fields["secret_key"],
        "Expiration": _rfc3339(held.expires_at),
    }
    session = fields.get("session_token") or fields.get("security_token")
    return json.dumps(facts | ({"SessionToken": session} if session else {}))


FORMATS: Final[Mapping[str, Callable[[Held], str]]] = {
    "json": as_json,
    "env": as_env,
    "kubectl": as_kubectl,
    "aws": as_aws,
}


def require_exec_version(info: str) -> None:
    """Raises `ConfigurationError` where KUBERNETES_EXEC_INFO (JSON, or empty) asks for another version than ours."""
    if not info:
        return
    try:
        asked = json.loads(info)["apiVersion"]
    except (ValueError, TypeError, KeyError):
        raise ConfigurationError(
            "KUBERNETES_EXEC_INFO: not an ExecCredential", setting="KUBERNETES_EXEC_INFO"
        ) from None
    if asked != EXEC_CREDENTIAL:
        raise ConfigurationError(
            f"KUBERNETES_EXEC_INFO: {asked!r} is asked for: set apiVersion: {EXEC_CREDENTIAL} in the kubeconfig",
            setting="KUBERNETES_EXEC_INFO",
        )


def _fields(held: Held) -> dict[str, str]:
    return {name: secret.reveal() for name, secret in held.fields.items()}


def _rfc3339(at: dt.datetime) -> str:
    return f"{at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _pems(parts: list[str]) -> list[str]:
    """PEM texts; a list of them comes as JSON."""
    found: list[str] = []
    for part in parts:
        if part.startswith("["):
            found += [str(item) for item in json.loads(part)]
        elif part:
            found.append(part)
    return found


def _lines(*parts: str) -> str:
    return "".join(f"{part.strip()}\n" for part in parts)


def _unfit(held: Held, name: str, wanted: str) -> ConfigurationError:
    known = ", ".join(held.fields) or "none; it is a token"
    return ConfigurationError(
        f"--format {name} needs {wanted}; the credential of {held.role} has the fields: {known}",
        setting="--format",
    )

"""How the broker says who it is: four methods, each from files that are read anew at every login."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.crypto.keyfiles import read_public, read_secret


@dataclass(frozen=True, slots=True)
class AppRoleLogin:
    """A role id and a secret id, each in a file."""

    role_id_file: Path
    secret_id_file: Path
    mount: str = "approle"


@dataclass(frozen=True, slots=True)
class KubernetesLogin:
    """A service account's projected token."""

    role: str
    token_file: Path
    mount: str = "kubernetes"


@dataclass(frozen=True, slots=True)
class JwtLogin:
    """A JWT of an issuer that Vault trusts."""

    role: str
    token_file: Path
    mount: str = "jwt"


@dataclass(frozen=True, slots=True)
class CertificateLogin:
    """A TLS client certificate (PEM); `role` names the certificate role, empty: whichever fits."""

    certificate: Path
    key: Path
    role: str = ""
    mount: str = "cert"


Login = AppRoleLogin | KubernetesLogin | JwtLogin | CertificateLogin


@dataclass(frozen=True, slots=True)
class LoginCall:
    """One login, ready to be sent. `certificate` is (certificate file, key file) for the TLS connection."""

    path: str
    body: Mapping[str, str] = field(repr=False)
    certificate: tuple[str, str] | None = None


def login_call(login: Login) -> LoginCall:
    """Read the files. Raises `KeyFileError` where one cannot be used, or others could have read it."""
    path = f"auth/{login.mount}/login"
    match login:
        case AppRoleLogin():
            role_id, secret_id = (
                _text(read_public(login.role_id_file)),
                _text(read_secret(login.secret_id_file)),
            )
            return LoginCall(path, {"role_id": role_id, "secret_id": secret_id})
        case KubernetesLogin():
            # The kubelet chooses owner and mode of a projected token; the pod's own walls guard it.
            return LoginCall(path, {"role": login.role, "jwt": _text(read_public(login.token_file))})
        case JwtLogin():
            return LoginCall(path, {"role": login.role, "jwt": _text(read_secret(login.token_file))})
        case CertificateLogin():
            read_secret(login.key)  # for its permissions: TLS reads the file itself
            body = {"name": login.role} if login.role else {}
            return LoginCall(path, body, (str(login.certificate), str(login.key)))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()

"""Table of a Vault or OpenBao: where it is, how the broker logs in, and what its roles may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt, field_validator, model_validator

from broker.adapters.backends.vault import (
    AppRoleLogin,
    CertificateLogin,
    JwtLogin,
    KubernetesLogin,
    Login,
    VaultOptions,
)
from broker.settings.server import Table
from broker.settings.values import File, Seconds, Text, Url

Connections = Annotated[int, Field(gt=0, le=256)]
Failures = Annotated[int, Field(gt=0, le=1000)]


class AuthTable(Table):
    """How the broker logs in; every file is read anew at each login."""

    needed: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "approle": ("role_id_file", "secret_id_file"),
        "kubernetes": ("role", "token_file"),
        "jwt": ("role", "token_file"),
        "cert": ("certificate", "key"),
    }

    method: Literal["approle", "kubernetes", "jwt", "cert"]
    mount: Text = ""
    role: Text = ""
    role_id_file: File | None = None
    secret_id_file: File | None = None
    token_file: File | None = None
    certificate: File | None = None
    key: File | None = None

    @model_validator(mode="after")
    def _whole(self) -> AuthTable:
        needed = self.needed[self.method]
        missing = [name for name in needed if not getattr(self, name)]
        if missing:
            raise ValueError(f'method "{self.method}" needs {", ".join(missing)}; add it')
        allowed = {"method", "mount", *needed} | ({"role"} if self.method == "cert" else set())
        extra = sorted(self.model_fields_set - allowed)
        if extra:
            raise ValueError(f'method "{self.method}" does not use {", ".join(extra)}; remove it')
        return self

    def login(self) -> Login:
        """What the plug logs in with."""
        mount = self.mount.strip("/") or self.method
        if self.role_id_file and self.secret_id_file:
            return AppRoleLogin(self.role_id_file, self.secret_id_file, mount)
        if self.certificate and self.key:
            return CertificateLogin(self.certificate, self.key, self.role, mount)
        assert self.token_file is not None  # noqa: S101 (the validator above)
        kind = KubernetesLogin if self.method == "kubernetes" else JwtLogin
        return kind(self.role, self.token_file, mount)


_LOGIN = frozenset({"user", "username", "password", "passfile", "service", "servicefile", "sslpassword"})
"""What belongs to a login, by the names that databases' clients have for it."""


class VaultBackend(Table):
    """Vault ≥ 1.15 or OpenBao ≥ 2.4; `addresses` are further nodes of the same cluster."""

    class Parameters(Table):
        """What a role may say beside `use`; `target` is told to the workload: host, port, database."""

        path: Text
        engine: Text | None = None
        method: Literal["read", "write"] | None = None
        data: Mapping[str, StrictBool | StrictInt | str] | None = None
        revocability: Literal["at_target", "until_expiry", "never"] | None = None
        cutter: Text | None = None
        target: Mapping[str, StrictInt | Text] | None = None

        @field_validator("target")
        @classmethod
        def _no_login(cls, value: Mapping[str, int | str] | None) -> Mapping[str, int | str] | None:
            for key in sorted(set(value or ()) & _LOGIN):
                raise ValueError(f"{key}: the backend makes the login, and a target is no secret; remove it")
            return value

    kind: Literal["vault"]
    address: Url
    addresses: tuple[Url, ...] = ()
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{0,256}$")] = ""
    ca_file: File | None = None
    auth: AuthTable
    token_role: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")] = "lockstep"
    token_ttl: Seconds = 300.0
    sweep: bool = True
    policies: tuple[Text, ...] = ()
    mounts: Mapping[str, Text] = Field(default_factory=dict)
    timeout: Seconds = 10.0
    max_request_duration: Seconds = 30.0
    connections: Connections = 16
    circuit_failures: Failures = 5
    circuit_pause: Seconds = 2.0

    @model_validator(mode="after")
    def _tls(self) -> VaultBackend:
        for address in (self.address, *self.addresses):
            if not address.startswith("https://"):
                raise ValueError(f'"{address}" is without TLS; secrets and tokens go over it, use https')
        return self

    def options(self) -> VaultOptions:
        """What the plug is made of."""
        return VaultOptions(
            addresses=(self.address, *self.addresses),
            login=self.auth.login(),
            namespace=self.namespace.strip("/"),
            ca_file=self.ca_file,
            token_role=self.token_role,
            policies=self.policies,
            mounts=dict(self.mounts),
            timeout=self.timeout,
            max_request_duration=self.max_request_duration,
            token_ttl=self.token_ttl,
            sweep=self.sweep,
            connections=self.connections,
            circuit_failures=self.circuit_failures,
            circuit_pause=self.circuit_pause,
        )

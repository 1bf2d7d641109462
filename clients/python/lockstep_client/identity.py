"""Who this process says that it is, and over which kind of connection: read anew at each use."""

from __future__ import annotations

import re
from pathlib import Path

import grpc

from lockstep_client.errors import ConfigurationError
from lockstep_client.settings import Settings, read_secret_file

_LABEL = re.compile(rb"^-----BEGIN ([A-Z0-9 ]+)-----", re.MULTILINE)


class Identity:
    """A JWT from a file (OIDC, Kubernetes, SPIRE JWT-SVID), or the client certificate of the connection."""

    def __init__(self, settings: Settings) -> None:
        """Raises `ConfigurationError` where there is neither."""
        if bool(settings.client_cert_file) != bool(settings.client_key_file):
            raise ConfigurationError(
                "a client certificate needs both LOCKSTEP_CLIENT_CERT_FILE and LOCKSTEP_CLIENT_KEY_FILE",
                setting="LOCKSTEP_CLIENT_CERT_FILE",
            )
        if not settings.identity_token_file and not settings.client_cert_file:
            raise ConfigurationError(
                "no identity: set LOCKSTEP_IDENTITY_TOKEN_FILE to a file with a JWT (in Kubernetes: a projected "
                "service account token with audience 'lockstep'), or LOCKSTEP_CLIENT_CERT_FILE and "
                "LOCKSTEP_CLIENT_KEY_FILE to an X.509-SVID",
                setting="LOCKSTEP_IDENTITY_TOKEN_FILE",
            )
        self._token_file = settings.identity_token_file

    def __call__(self) -> str | None:
        """The JWT as the file has it now; None for the connection's certificate."""
        if not self._token_file:
            return None
        return read_secret_file(self._token_file, "LOCKSTEP_IDENTITY_TOKEN_FILE")


def channel_credentials(settings: Settings) -> grpc.ChannelCredentials:
    """TLS as configured, from the files as they are now. Raises `ConfigurationError`."""
    return grpc.ssl_channel_credentials(
        root_certificates=_pem(settings.ca_file, "LOCKSTEP_CA_FILE", "CERTIFICATE"),
        private_key=_pem(settings.client_key_file, "LOCKSTEP_CLIENT_KEY_FILE", "PRIVATE KEY"),
        certificate_chain=_pem(settings.client_cert_file, "LOCKSTEP_CLIENT_CERT_FILE", "CERTIFICATE"),
    )


def _pem(path: str, setting: str, what: str) -> bytes | None:
    """A file with at least one block of a kind (RFC 7468); gRPC says nothing of one that has none."""
    if not path:
        return None
    try:
        found = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path}: {error.strerror}", setting=setting) from None
    if not any(label.endswith(what.encode()) for label in _LABEL.findall(found)):
        raise ConfigurationError(f"{setting}: {path}: no PEM with a {what.lower()} in it", setting=setting)
    return found

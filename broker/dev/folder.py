"""Everything that a first try needs, made once under one private folder: keys, certificates, tokens, configuration."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from broker.crypto.keyfiles import public_pem
from broker.dev import pki
from broker.dev.files import (
    FolderRefused,
    kept_key,
    kept_secret,
    locked,
    private_folder,
    replace_file,
)
from broker.dev.issuer import AUDIENCE, ISSUER, TokenFiles
from broker.ports import Clock

CLUSTER: Final = "lockstep-dev"
TRUST_DOMAIN: Final = "dev.lockstep.invalid"
SUBJECTS: Final = {
    "dev-app": "identity",
    "dev-operator": "operator",
    "dev-resource-server": "resource-server",
}
_RENEW: Final = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Ports:
    """On 127.0.0.1; the same at every start on one folder."""

    tls: int
    mtls: int
    http: int


@dataclass(frozen=True, slots=True)
class Laptop:
    """A dev folder that is ready to be served."""

    folder: Path
    ports: Ports
    tokens: TokenFiles

    @property
    def configuration(self) -> Path:
        """The broker's configuration file."""
        return self.folder / "lockstep.toml"

    def environment(self) -> Mapping[str, str]:
        """What SDK and command line need to find and trust this broker."""
        folder = self.folder
        return {
            "LOCKSTEP_ADDRESS": f"127.0.0.1:{self.ports.tls}",
            "LOCKSTEP_CA_FILE": str(folder / "ca.crt"),
            "LOCKSTEP_CLUSTER": CLUSTER,
            "LOCKSTEP_IDENTITY_TOKEN_FILE": str(folder / "identity.token"),
            "LOCKSTEP_OPERATOR_TOKEN_FILE": str(folder / "operator.token"),
            "LOCKSTEP_SIGNER_KEY_FILE": str(folder / "signer.key"),
            "LOCKSTEP_HTTP_URL": f"https://127.0.0.1:{self.ports.http}",
            "LOCKSTEP_RESOURCE_SERVER_TOKEN_FILE": str(folder / "resource-server.token"),
            "LOCKSTEP_DETECTOR_SECRET_FILE": str(folder / "detector.secret"),
        }

    def report(self) -> dict[str, object]:
        """One line for programs that start it."""
        return {
            "ready": True,
            "address": f"127.0.0.1:{self.ports.tls}",
            "mtls_address": f"127.0.0.1:{self.ports.mtls}",
            "http_url": f"https://127.0.0.1:{self.ports.http}",
            "folder": str(self.folder),
            "env": dict(self.environment()),
        }


def make(
    folder: Path,
    clock: Clock,
    *,
    enforce: bool = False,
    port: int = 0,
    includes: Sequence[Path] = (),
    keep: bool = False,
) -> Laptop:
    """Make what is missing and keep what is there, so that clients of an earlier start reconnect.

    `port` is the first of three; 0 keeps the earlier ones or takes free ones.
    `keep` leaves a configuration that is there as it is: it may be in use.
    Raises `FolderRefused`, `broker.crypto.keyfiles.KeyFileError`.
    """
    folder = folder.expanduser().absolute()
    private_folder(folder)
    with locked(folder):
        private_folder(folder / "state")
        now = clock.now()
        _certificates(folder, now)
        for name in ("credentials.key", "receipts.key", "signer.key"):
            kept_key(folder / name)
        replace_file(
            folder / "signer.pub", public_pem(kept_key(folder / "signer.key").public_key()), mode=0o644
        )
        kept_secret(folder / "detector.secret", prefix="whsec_")
        tokens = TokenFiles(
            kept_key(folder / "identity.key"),
            {subject: folder / f"{name}.token" for subject, name in SUBJECTS.items()},
            clock,
        )
        replace_file(folder / "identity.jwks", tokens.jwks(), mode=0o644)
        tokens.write()
        laptop = Laptop(folder, _ports(folder, port), tokens)
        if not (keep and laptop.configuration.exists()):
            replace_file(
                laptop.configuration, _configuration(laptop, enforce=enforce, includes=includes).encode()
            )
    return laptop


def _certificates(folder: Path, now: float) -> None:
    key = kept_key(folder / "ca.key")
    ca = _kept_authority(folder / "ca.crt", key, "lockstep dev CA", now)
    server = kept_key(folder / "server.key").public_key()
    if _ends(folder / "server.crt") < now + _RENEW:
        replace_file(folder / "server.crt", pki.server_certificate(ca, server, now), mode=0o644)
    mesh = _kept_authority(
        folder / "mesh-ca.crt",
        kept_key(folder / "mesh-ca.key"),
        "lockstep dev mesh",
        now,
        spiffe=f"spiffe://{TRUST_DOMAIN}",
    )
    app = kept_key(folder / "svid.key").public_key()
    if _ends(folder / "svid.crt") < now + _RENEW:
        replace_file(
            folder / "svid.crt", pki.svid(mesh, app, f"spiffe://{TRUST_DOMAIN}/dev-app", now), mode=0o644
        )


def _kept_authority(
    path: Path, key: ec.EllipticCurvePrivateKey, name: str, now: float, spiffe: str = ""
) -> pki.Authority:
    if _ends(path) < now + pki.LEAF_DAYS * 86_400.0:
        # New: what it signed before is worth nothing now.
        for leaf in ("server.crt", "svid.crt"):
            if (path.name == "ca.crt") == (leaf == "server.crt"):
                (path.parent / leaf).unlink(missing_ok=True)
        replace_file(path, pki.authority(key, name, now, spiffe=spiffe).pem, mode=0o644)
    return pki.Authority(key, x509.load_pem_x509_certificate(path.read_bytes()))


def _ends(path: Path) -> float:
    """When a certificate ends, seconds UTC; 0.0 where there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return 0.0


def _ports(folder: Path, port: int) -> Ports:
    path = folder / "ports.json"
    if port:
        if not 1 <= port <= 65_533:
            raise FolderRefused(f"port {port}: give one from 1 to 65533; the two after it are taken too")
        ports = Ports(port, port + 1, port + 2)
    else:
        try:
            ports = Ports(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            ports = _free_ports()
    replace_file(path, json.dumps({"tls": ports.tls, "mtls": ports.mtls, "http": ports.http}).encode())
    return ports


def _free_ports() -> Ports:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    try:
        return Ports(*(item.getsockname()[1] for item in sockets))
    finally:
        for item in sockets:
            item.close()


def _configuration(laptop: Laptop, *, enforce: bool, includes: Sequence[Path]) -> str:
    ports = laptop.ports
    mode = "enforce" if enforce else "observe"
    # JSON's strings are TOML's basic strings.
    included = ", ".join(json.dumps(str(path.expanduser().absolute())) for path in includes)
    return f"""\
# Made by `lockstep-broker dev` at every start: changes here are lost. LAPTOPS ONLY.
include = [{included}]
cluster = "{CLUSTER}"
issuer = "https://127.0.0.1:{ports.http}"
reflection = true

[listen]
tls = "127.0.0.1:{ports.tls}"
mtls = "127.0.0.1:{ports.mtls}"
http = "127.0.0.1:{ports.http}"

[tls]
certificate = "server.crt"
key = "server.key"
client_ca = "mesh-ca.crt"

[state]
path = "state/lockstep.db"

[keys]
credentials = "credentials.key"
receipts = "receipts.key"
challenge = "state/challenge.secret"

[limits]
attestations_per_address = 1000
refusals = 1000

[identity.dev]
kind = "oidc"
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
algorithms = ["ES256"]
jwks_file = "identity.jwks"

[identity.mesh]
kind = "spiffe"
trust_domain = "{TRUST_DOMAIN}"
bundle = "mesh-ca.crt"

[signers]
dev = "signer.pub"

[manifests.dev]
signers = ["dev"]

[backends.jwt]
kind = "jwt"

[roles.dev]
owner = "dev"
mode = "{mode}"
identity = {{ from = "dev", subject = "dev-app" }}
manifests = ["dev"]
backend = {{ use = "jwt", audience = "dev" }}
ttl = "5m"
revocability = "instant"
after_revocation = "retry"

[detectors.dev]
kind = "standard"
keys = ["detector.secret"]
default_action = "revoke"
cap = {{ instances = 1000, share = 1.0, per = "1m" }}
rate = {{ reports = 10000, per = "1m" }}

[operators.dev]
identity = {{ from = "dev", subject = "dev-operator" }}
may = ["read", "explain", "publish", "retire", "withdraw", "lower", "lift", "approve", "introspect", "revoke:*"]

[resource_servers.dev]
identity = {{ from = "dev", subject = "dev-resource-server" }}
audiences = ["dev"]
"""

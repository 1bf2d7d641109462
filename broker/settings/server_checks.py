"""Checks of the server's own tables: listeners, certificate, private keys, folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from broker.crypto.keyfiles import (
    KeyFileError,
    key_id,
    load_private_key,
    load_public_key,
    read_secret,
)
from broker.settings.book import Tables
from broker.settings.problems import Problem
from broker.settings.server import Server, Tls
from broker.settings.source import Source
from broker.settings.tables import SpiffeSource

_Fault = tuple[str, str]
"""(key path, message)."""


def check_server(source: Source, server: Server, tables: Tables) -> None:
    """Note every fault in `source.problems`. Reads the files that are named, writes none."""
    for key, message in (*_listeners(server, tables), *_certificate(server.tls), *_keys(server)):
        origin = source.origin(tuple(key.split(".")), source.file)
        source.problems.append(Problem(origin, key, message))
    folder = server.state.path.parent
    if not folder.is_dir():
        message = f"{folder}: no such folder; run: mkdir -m 700 -p {folder}"
        source.problems.append(Problem(source.origin(("state", "path"), source.file), "state.path", message))


def _listeners(server: Server, tables: Tables) -> Iterator[_Fault]:
    listen = server.listen
    if listen.tls is None and listen.mtls is None:
        yield "listen", 'nobody could attest; add tls = "0.0.0.0:8443"'
    if listen.mtls is not None and server.tls.client_ca is None:
        yield "tls.client_ca", "is missing; listen.mtls needs the union of the trust domains' bundles"
    spiffe = [name for name, table in tables.identity.items() if isinstance(table, SpiffeSource)]
    if spiffe and listen.mtls is None:
        yield "listen.mtls", f"is missing; [identity.{spiffe[0]}] is accepted there only"
    ports = [item.port for item in (listen.tls, listen.mtls, listen.http) if item is not None and item.port]
    if len(set(ports)) != len(ports):
        yield "listen", "two listeners have one port; give each its own"


def _certificate(tls: Tls) -> Iterator[_Fault]:
    # The key may be of any type that TLS takes, so it is no `load_private_key`; its file is held to the same.
    try:
        private = load_pem_private_key(read_secret(tls.key), password=None)
    except KeyFileError as error:
        yield "tls.key", str(error)
        private = None
    except (TypeError, ValueError, UnsupportedAlgorithm):
        yield "tls.key", f"{tls.key}: not a PEM private key without a password"
        private = None
    leaf = None
    for key, path in (("tls.certificate", tls.certificate), ("tls.client_ca", tls.client_ca)):
        if path is None:
            continue
        try:
            found = x509.load_pem_x509_certificates(path.read_bytes())
        except OSError as error:
            yield key, f"{path}: cannot be read: {error.strerror}"
        except ValueError:
            yield key, f"{path}: not PEM certificates"
        else:
            leaf = found[0] if key == "tls.certificate" else leaf
    if leaf is not None and private is not None:
        ours, theirs = (
            key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for key in (private.public_key(), leaf.public_key())
        )
        if ours != theirs:
            yield "tls.certificate", f"{tls.certificate}: is not the certificate of {tls.key}"


def _keys(server: Server) -> Iterator[_Fault]:
    """Every purpose has a key of its own, or a token of one could pass for another's."""
    keys = server.keys
    seen: dict[str, str] = {}
    private = {"keys.credentials.active": keys.credentials.active, "keys.receipts": keys.receipts}
    rings = {"keys.credentials": keys.credentials}
    if keys.gate is not None:
        private["keys.gate.active"] = keys.gate.active
        rings["keys.gate"] = keys.gate
    for name, path in private.items():
        try:
            identifier = key_id(load_private_key(path).public_key())
        except KeyFileError as error:
            yield name, str(error)
            continue
        if seen.setdefault(identifier, name) != name:
            yield name, f"is the key of {seen[identifier]}; give every purpose a key of its own"
    for name, ring in rings.items():
        for path in ring.old:
            try:
                identifier = key_id(load_public_key(path))
            except KeyFileError as error:
                yield f"{name}.old", f"{error}; old keys are public ones"
                continue
            # An active key may be listed among its own ring's: that is the middle of a rotation.
            if seen.setdefault(identifier, f"{name}.active") not in (f"{name}.active", f"{name}.old"):
                yield f"{name}.old", f"{path}: is the key of {seen[identifier]}"
    yield from _challenge(keys.challenge)


def _challenge(path: Path | None) -> Iterator[_Fault]:
    if path is None or not path.exists():
        return  # made at first start
    try:
        secret = read_secret(path)
    except KeyFileError as error:
        yield "keys.challenge", str(error)
    else:
        if len(secret) < 32:
            yield "keys.challenge", f"{path}: shorter than 32 bytes; run: openssl rand -hex 32 >{path}"

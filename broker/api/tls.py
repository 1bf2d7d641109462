"""Certificates of the doors: read whole or not at all, and swapped without closing a connection."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from broker.crypto.keyfiles import KeyFileError, read_secret

MAX_CHAIN: Final = 256 * 1024
_SETTLE: Final = 0.25
"""Seconds that a listener takes no connection before it changes its certificates (`_Listener`)."""


class CertificateError(ValueError):
    """A certificate or key cannot be used; the message names the file."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its key, PEM, that belong together."""

    chain: bytes
    key: bytes = field(repr=False)


def read_pair(certificate: Path, key: Path) -> Pair:
    """Raises `CertificateError`: unreadable, key of another certificate, key file open to others."""
    try:
        chain = certificate.read_bytes()
    except OSError as error:
        raise CertificateError(f"{certificate}: cannot be read: {error.strerror}") from None
    if len(chain) > MAX_CHAIN:
        raise CertificateError(f"{certificate}: larger than {MAX_CHAIN} bytes")
    try:
        secret = read_secret(key)
    except KeyFileError as error:
        raise CertificateError(str(error)) from None
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        private = serialization.load_pem_private_key(secret, password=None)
    except (ValueError, TypeError):
        raise CertificateError(
            f"{certificate}, {key}: not a PEM certificate with its unencrypted key"
        ) from None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        raise CertificateError(f"{key}: not the key of {certificate}")
    return Pair(chain, secret)


class _Listener:
    """What gRPC asks for one listener, on each of its connections and from threads of its own.

    None leaves everything as it is, and that is what nearly every connection must hear: gRPC frees what it had
    as soon as it gets something new, while another thread may be about to begin a handshake with it
    (grpc/grpc#36693: a few hundred connections at once ended the process). It asks under a lock that the next
    connection waits for, so a pause before news lets those that have their answer take what they need.
    """

    def __init__(self, current: Callable[[], tuple[Pair, bytes | None]]) -> None:
        self._current = current
        self._told = current()
        self._pause = threading.Event()

    def first(self) -> grpc.ServerCertificateConfiguration:
        """To begin with."""
        return _configuration(*self._told)

    def news(self) -> grpc.ServerCertificateConfiguration | None:
        """Pair and roots, where they are others than this listener has."""
        current = self._current()
        if current == self._told:
            return None
        self._pause.wait(_SETTLE)
        self._told = current
        return _configuration(*current)


def _credentials(current: Callable[[], tuple[Pair, bytes | None]], *, client: bool) -> grpc.ServerCredentials:
    listener = _Listener(current)
    return grpc.dynamic_ssl_server_credentials(
        listener.first(),
        listener.news,  # type: ignore[arg-type]  # the stubs do not know that None is an answer
        require_client_authentication=client,
    )


def _configuration(pair: Pair, roots: bytes | None) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], roots)


class Certificates:
    """The current pair, for every listener.

    gRPC resumes TLS sessions until pair or roots change, so that a client certificate which has ended since may
    still be shown: whoever asks who is there judges it on every call (`SpiffeIdentity`).
    """

    def __init__(self, certificate: Path, key: Path, client_roots: Callable[[], bytes] | None = None) -> None:
        """`client_roots` gives the PEM roots that `mtls` accepts, asked on each connection; it must not block.
        Raises `CertificateError`."""
        self._certificate = certificate
        self._key = key
        self._client_roots = client_roots
        self._pair = read_pair(certificate, key)
        self._stamp = self._look()
        self._fresh = _served(certificate, key)

    def reload(self) -> None:
        """Read the files anew; raises `CertificateError` and then leaves everything as it was."""
        stamp = self._look()
        pair = read_pair(self._certificate, self._key)
        # OpenSSL drops what a context has before it has judged what comes: it judges in one that nobody uses.
        fresh = _served(self._certificate, self._key)
        if self._look() != stamp:
            raise CertificateError(f"{self._certificate}: changed while it was read")
        self._pair, self._fresh = pair, fresh
        self._stamp = stamp

    def changed(self) -> bool:
        """True where a file is another one than was read."""
        return self._look() != self._stamp

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in (self._certificate, self._key):
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)

    def tls(self) -> grpc.ServerCredentials:
        """For callers that prove who they are in the call: no client certificate is asked for."""
        return _credentials(lambda: (self._pair, None), client=False)

    def mtls(self) -> grpc.ServerCredentials:
        """A client certificate is required. Raises `CertificateError` without roots."""
        roots = self._client_roots
        if roots is None:
            raise CertificateError("the mtls listener needs the roots of a trust domain")
        return _credentials(lambda: (self._pair, roots()), client=True)

    def https(self) -> ssl.SSLContext:
        """A context that follows every `reload`."""
        context = _served(self._certificate, self._key)

        def current(connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> None:
            # Asked at every greeting, whether it names a server or not.
            connection.context = self._fresh

        context.sni_callback = current
        return context


def _served(certificate: Path, key: Path) -> ssl.SSLContext:
    """Raises `CertificateError` for a chain that OpenSSL will not show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Without tickets no session survives a change of certificate.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise CertificateError(f"{certificate}, {key}: refused by OpenSSL ({error.reason})") from None
    except OSError as error:
        raise CertificateError(f"{certificate}, {key}: cannot be read: {error.strerror}") from None
    return context

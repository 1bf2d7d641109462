"""An OIDC issuer over real HTTPS, in a thread; its keys rotate and its answers can be bent."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from broker.crypto.jwk import public_jwk
from tests.support import pki

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/keys"
Answer = tuple[int, Mapping[str, str], bytes]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle is part of the tests."""


class Issuer:
    """`with Issuer(folder, now=…) as issuer:`; `issuer.url` is its ``iss``, `issuer.ca_file` what to trust.

    `answers` overrides what a path says, `requests` lists the paths that were
    asked (`asked` is set by the first), and clearing `ready` makes every answer wait until it is set again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        now: float,
        algorithm: str = "ES256",
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    ) -> None:
        root = pki.authority("issuer root", now=now)
        certificate, key = pki.server(root, now=now, hosts=hosts).write(folder, "issuer")
        self.ca_file = folder / "issuer-ca.pem"
        self.ca_file.write_bytes(root.pem)
        self.now = now
        self.algorithm = algorithm
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.asked = threading.Event()
        self.ready = threading.Event()
        self.ready.set()
        self._keys: dict[str, Any] = {}
        self._active = ""
        self.rotate()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = _Server(("127.0.0.1", 0), self._handler())
        # The handshake belongs to the connection's own thread: one that stalls must not stall the rest.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Issuer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """No connection is accepted any more; idempotent."""
        self.ready.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(5)
        self._server.server_close()

    # --- keys and tokens ----------------------------------------------------------------------------

    @property
    def kid(self) -> str:
        """The key that signs now."""
        return self._active

    def rotate(self, *, keep: bool = True) -> None:
        """Sign with a new key; the old ones stay in the key set only with `keep`."""
        make = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
        }
        if not keep:
            self._keys.clear()
        self._active = f"key-{self._active.partition('-')[2] or 0}1"
        self._keys[self._active] = make[self.algorithm]()

    def jwks(self) -> dict[str, Any]:
        """The public key set."""
        return {
            "keys": [
                {**public_jwk(key.public_key()), "kid": kid, "alg": self.algorithm, "use": "sig"}
                for kid, key in self._keys.items()
            ]
        }

    def token(self, headers: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """A token of ten minutes for the audience ``lockstep``; None in `changes` leaves a claim out."""
        claims = {
            "iss": self.url,
            "sub": "system:serviceaccount:pay:payments",
            "aud": "lockstep",
            "iat": int(self.now),
            "exp": int(self.now) + 600,
        } | changes
        return jwt.encode(
            {name: value for name, value in claims.items() if value is not None},
            self._keys[self._active],
            algorithm=self.algorithm,
            headers={"kid": self._active, **(headers or {})},
        )

    # --- http ---------------------------------------------------------------------------------------

    def answer(self, path: str) -> Answer:
        """What a path says."""
        if path in self.answers:
            return self.answers[path]
        if path == DISCOVERY:
            return 200, {}, json.dumps({"issuer": self.url, "jwks_uri": self.url + JWKS}).encode()
        if path == JWKS:
            return 200, {}, json.dumps(self.jwks()).encode()
        return 404, {}, b"{}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                issuer.requests.append(self.path)
                issuer.headers.append(dict(self.headers.items()))
                issuer.asked.set()
                issuer.ready.wait(20)
                status, headers, body = issuer.answer(self.path)
                try:
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(body)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                """A test's output is its own."""

        return Handler

"""A small HTTPS server on loopback that behaves like somebody else's, as far as a test needs it."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from tests.support import pki


@dataclass(frozen=True)
class Asked:
    """One request. Segments of `path` are decoded; the body as it came."""

    method: str
    path: tuple[str, ...]
    query: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as an object; {} for none."""
        found: dict[str, Any] = json.loads(self.body) if self.body else {}
        return found


@dataclass(frozen=True)
class Said:
    """An answer; `body` goes out as JSON, or as it is."""

    status: int = 200
    body: Any = None
    kind: str = "application/json"


class Play(Protocol):
    """Whose part the server plays."""

    def answer(self, asked: Asked) -> Said:
        """Called from threads."""


@dataclass(frozen=True)
class Stub:
    """Where it listens, and the authority of its certificate (PEM file)."""

    url: str
    ca: Path


@contextlib.contextmanager
def https(play: Play, folder: Path) -> Iterator[Stub]:
    """Listens until the end."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    authority = pki.authority("stub authority", now=now)
    ca = folder / "stub-ca.pem"
    ca.write_bytes(authority.pem)
    certificate, key = pki.server(authority, now=now).write(folder, "stub")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            url = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            segments = tuple(unquote(part) for part in url.path.split("/") if part)
            said = play.answer(
                Asked(self.command, segments, url.query, dict(self.headers), self.rfile.read(length))
            )
            body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            if said.body is None:
                body = b""
            self.send_response(said.status)
            self.send_header("Content-Type", said.kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_LIST = _handle

        def log_message(self, *arguments: Any) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Stub(f"https://127.0.0.1:{server.server_address[1]}", ca)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)

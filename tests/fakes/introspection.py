"""A broker's HTTP door for tests of resource servers: JWKS and introspection over real TLS."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

from tests.fakes.tls import ServerFiles


class IntrospectionServer:
    """`active` and `status` are what it answers; `asked` is what it was asked: (authorization, token).

    Keys are given once `open` is set; where `drips` names a part (``head`` or
    ``body``), that one comes a byte at a time, and never ends.
    """

    def __init__(self, tls: ServerFiles) -> None:
        self.active = True
        self.status = 200
        self.jwks = b'{"keys": []}'
        self.key_reads = 0
        self.key_status = 200
        self.open = threading.Event()
        self.open.set()
        self.drips = ""
        self._over = threading.Event()
        self.asked: list[tuple[str, str]] = []
        outer = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.key_reads += 1
                if outer.drips:
                    self._drip(outer.drips)
                elif outer.open.wait(30):
                    self._say(outer.key_status, outer.jwks)

            def _drip(self, part: str) -> None:
                self.close_connection = True
                if part == "head":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
                else:
                    self.send_response(200)
                    self.end_headers()
                try:
                    while not outer._over.wait(0.05):
                        self.wfile.write(b" ")
                except OSError:
                    pass  # the client had enough

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                outer.asked.append((self.headers.get("authorization", ""), form["token"][0]))
                self._say(outer.status, json.dumps({"active": outer.active}).encode())

            def _say(self, status: int, body: bytes) -> None:
                self.send_response(status)
                if status == 302:
                    self.send_header("location", f"{outer.url}/elsewhere")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with TemporaryDirectory() as folder:
            chain = Path(folder, "chain.pem")
            chain.write_bytes(tls.key + tls.certificate)
            context.load_cert_chain(chain)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.open.set()
        self._server.shutdown()
        self._server.server_close()

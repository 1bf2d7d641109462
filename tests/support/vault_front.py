"""A real OpenBao behind a front that says for single paths what another server of its kind would say there."""

from __future__ import annotations

import threading
from pathlib import Path

import requests

from tests.support.https_stub import Asked, Said

_HOP = ("host", "connection", "content-length", "accept-encoding")


class Front:
    """`instead` are answers by path, for POST, PUT and GET alike; everything else is the real server's."""

    def __init__(self, address: str, ca: Path) -> None:
        self._address = address
        self._ca = ca
        self.instead: dict[str, Said] = {}
        self.refused: list[str] = []
        """Paths that were answered instead."""
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> Said:
        path = "/".join(asked.path).removeprefix("v1/")
        with self._lock:
            found = self.instead.get(path)
            if found is not None:
                self.refused.append(path)
                return found
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(
                asked.method,
                f"{self._address}/v1/{path}" + (f"?{asked.query}" if asked.query else ""),
                headers={name: value for name, value in asked.headers.items() if name.lower() not in _HOP},
                data=asked.body,
                verify=str(self._ca),
                timeout=30,
            )
        return Said(answer.status_code, answer.content)

"""An HTTP client for tests: one request, one answer, over real TLS, off the loop."""

from __future__ import annotations

import asyncio
import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.unit.api.porch import Porch


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    found: Porch,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    token: str = "",
) -> Answer:
    """One request on a connection of its own."""
    sent = dict(headers or {})
    if token:
        sent["Authorization"] = f"Bearer {token}"

    def work() -> Answer:
        connection = http.client.HTTPSConnection(
            "localhost", found.doors.http_port, timeout=10, context=found.http_context()
        )
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in sent and "Transfer-Encoding" not in sent:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    return await asyncio.to_thread(work)


async def post_form(found: Porch, path: str, caller: str = "", /, **fields: str) -> Answer:
    """A form, as OAuth sends it."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return await ask(found, "POST", path, body=urlencode(fields).encode(), headers=headers, token=caller)

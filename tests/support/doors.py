"""The HTTP door from outside: one connection a request, every byte the test's own."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.parse
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

from tests.support.brokers import Broker


@dataclass(frozen=True)
class Reply:
    """An answer; `body` is the parsed JSON, or the text where it is none."""

    status: int
    headers: Mapping[str, str]
    body: Any


def ask(
    broker: Broker,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request over TLS."""
    trust = ssl.create_default_context(cafile=str(broker.ca))
    connection = http.client.HTTPSConnection("127.0.0.1", broker.ports["http"], timeout=15, context=trust)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        raw = answer.read()
    finally:
        connection.close()
    try:
        content: Any = json.loads(raw)
    except ValueError:
        content = raw.decode(errors="replace")
    return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)


def post_form(broker: Broker, path: str, bearer: str = "", **fields: str) -> Reply:
    """A form, as the bearer of an identity token."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    if bearer:
        headers["authorization"] = f"Bearer {bearer}"
    return ask(broker, "POST", path, urllib.parse.urlencode(fields).encode(), headers)


def detection(**data: Any) -> dict[str, Any]:
    """A canonical event; `data` are its sections."""
    now = datetime.fromtimestamp(time.time(), UTC)
    return {
        "type": "lockstep.detector.code_load",
        "timestamp": now.isoformat().replace("+00:00", "Z"),
        "data": {"kind": "script", "phase": "post", "verdict": "not_in_manifest", **data},
    }


def signed(
    broker: Broker, body: bytes, *, message: str = "", moment: float | None = None, secret: str = ""
) -> dict[str, str]:
    """Headers of Standard Webhooks, signed with the dev folder's detector secret unless another is given."""
    at = datetime.fromtimestamp(time.time() if moment is None else moment, UTC)
    message = message or f"msg_{uuid.uuid4().hex}"
    key = secret or (broker.folder / "detector.secret").read_text().strip()
    return {
        "content-type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(key).sign(message, at, body.decode("utf-8", "surrogateescape")),
    }


def report(broker: Broker, event: Mapping[str, Any], **options: Any) -> Reply:
    """A signed detection."""
    body = json.dumps(event).encode()
    return ask(broker, "POST", "/v1/detections/dev", body, signed(broker, body, **options))

"""A detector and a resource server on keep-alive HTTPS: reports sent, tokens introspected."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3
from standardwebhooks import Webhook


class Detector:
    """Thread pools of their own: urllib3 blocks."""

    def __init__(self, url: str, name: str, ca_file: str, secret_file: str) -> None:
        self._pool = urllib3.PoolManager(
            maxsize=32, ca_certs=ca_file, timeout=urllib3.Timeout(10.0), retries=False
        )
        self._url = url
        self._name = name
        self._webhook = Webhook(Path(secret_file).read_text().strip())

    async def warm(self) -> None:
        """A connection is there and TLS is done."""
        await self._ask("GET", "/healthz", b"", {})

    async def report(self, attestation_id: str) -> None:
        """One report of code that nobody approved; answered once it is durable."""
        now = datetime.now(UTC)
        event = {
            "type": "lockstep.detector.code_load",
            "timestamp": now.isoformat().replace("+00:00", "Z"),
            "data": {
                "detector": {"name": "benchmark", "version": "1", "instance": "here"},
                "kind": "library",
                "phase": "post",
                "subject": {"attestation_id": attestation_id},
                "object": {"sha256": "ab" * 32, "path": "/tmp/libx.so"},
                "verdict": "not_in_manifest",
            },
        }
        body = json.dumps(event)
        message = f"msg_{uuid.uuid4().hex}"
        headers = {
            "content-type": "application/json",
            "webhook-id": message,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(message, now, body),
        }
        answer = await self._ask("POST", f"/v1/detections/{self._name}", body.encode(), headers)
        states = [report["state"] for report in answer["reports"]]
        if states != ["applied"]:
            raise RuntimeError(f"the report ended as {states}: {answer}")

    async def active(self, token: str, bearer: str) -> bool:
        """RFC 7662."""
        headers = {
            "authorization": f"Bearer {bearer}",
            "content-type": "application/x-www-form-urlencoded",
        }
        answer = await self._ask("POST", "/v1/introspect", f"token={token}".encode(), headers)
        return bool(answer["active"])

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            answer = self._pool.request(method, f"{self._url}{path}", body=body, headers=headers)
            if answer.status >= 300:
                raise RuntimeError(f"{path}: {answer.status} {answer.data[:200]!r}")
            found: dict[str, Any] = answer.json()
            return found

        return await asyncio.to_thread(ask)

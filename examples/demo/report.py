"""A detector outside the process: one Standard Webhooks report, signed, to the broker's HTTP door."""

from __future__ import annotations

import json
import ssl
import time
import urllib.request
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook


def post_report(env: Mapping[str, str], *, pid: int, digest: str, path: str, node: str) -> dict[str, Any]:
    """Report that process `pid` loaded a file; the broker's JSON answer."""
    now = datetime.fromtimestamp(time.time(), UTC)
    event = {
        "type": "lockstep.detector.code_load",
        "timestamp": now.isoformat().replace("+00:00", "Z"),
        "data": {
            "detector": {"name": "demo", "version": "1", "instance": node},
            "kind": "script",
            "phase": "post",
            "subject": {
                "node": node,
                "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                "pid": pid,
                "start_ticks": _start_ticks(pid),
            },
            "object": {"sha256": digest, "path": path},
            "verdict": "not_in_manifest",
        },
    }
    body = json.dumps(event)
    message = f"msg_{uuid.uuid4().hex}"
    secret = Path(env["LOCKSTEP_DETECTOR_SECRET_FILE"]).read_text().strip()
    request = urllib.request.Request(
        f"{env['LOCKSTEP_HTTP_URL']}/v1/detections/dev",
        data=body.encode(),
        headers={
            "content-type": "application/json",
            "webhook-id": message,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(message, now, body),
        },
        method="POST",
    )
    trust = ssl.create_default_context(cafile=env["LOCKSTEP_CA_FILE"])
    with urllib.request.urlopen(request, timeout=5, context=trust) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat, in clock ticks since boot (proc_pid_stat(5))."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[19])

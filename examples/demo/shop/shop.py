"""A small application: it sells, with a credential that lives as long as its approved code.

Driven by lines on standard input, so that the demo can tell a story:
``order``, ``plugin URL``, ``replay``, ``quit``. Answers are JSON lines.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import pricing

import lockstep_client


def say(event: str, **facts: Any) -> None:
    """One line for the demo, with the time (seconds, UTC)."""
    print(json.dumps({"event": event, "at": time.time(), **facts}), flush=True)


def order(url: str, token: str) -> None:
    """Place an order at the resource server with a bearer credential."""
    request = urllib.request.Request(
        f"{url}/orders",
        data=pricing.line("tea", 2).encode(),
        headers={"authorization": f"Bearer {token}", "content-type": "text/plain"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            say("ordered", status=answer.status)
    except urllib.error.HTTPError as refusal:
        with refusal:
            say("refused", status=refusal.code, why=json.loads(refusal.read()).get("error", ""))


def fetch_and_import(url: str) -> ModuleType:
    """What no scanner of an image sees: code that arrives after the start."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        source = answer.read()
    folder = tempfile.mkdtemp(prefix="plugins-")
    path = Path(folder) / "plugin.py"
    path.write_bytes(source)
    spec = importlib.util.spec_from_file_location("plugin", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    finally:
        path.unlink()
        Path(folder).rmdir()
    return module


def main() -> int:
    """Attest, then do what the demo says."""
    orders = os.environ["ORDERS_URL"]
    plugin: ModuleType | None = None
    try:
        lockstep = lockstep_client.connect(wait=10, roles=["orders"])
    except lockstep_client.Denied as denied:
        say("denied", reason=denied.reason, count=denied.count, decision=denied.decision)
        return 78
    with lockstep:
        credential = lockstep.credential("orders")

        @lockstep.on_revoked
        def told(revocation: lockstep_client.Revocation) -> None:
            say("revoked", reason=revocation.reason, decision=revocation.decision)

        attestation = lockstep.attestation
        say(
            "ready",
            pid=os.getpid(),
            attestation=attestation.id if attestation else "",
            lease=credential.lease_id,
        )
        for words in map(str.split, sys.stdin):
            try:
                if words[0] == "order":
                    order(orders, credential.token.reveal())
                elif words[0] == "plugin":
                    # In hand before anybody could object: the worst case.
                    held = credential.token.reveal()
                    plugin = fetch_and_import(words[1])
                    plugin.discount(8.40, held)
                    say("imported", module=plugin.__name__)
                elif words[0] == "replay" and plugin is not None:
                    order(orders, plugin.STOLEN[0])
                elif words[0] == "quit":
                    break
            except lockstep_client.Revoked as revoked:
                say("no-credential", reason=revoked.reason, decision=revoked.decision)
    return 0


if __name__ == "__main__":
    sys.exit(main())

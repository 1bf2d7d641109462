"""A small application with an open database session: it books, with a login that lives as long as its approved code.

Driven by lines on standard input: ``book``, ``plugin URL``, ``quit``. Answers
are JSON lines.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psycopg

import lockstep_client


def say(event: str, **facts: Any) -> None:
    """One line for the demo, with the time (seconds, UTC)."""
    print(json.dumps({"event": event, "at": time.time(), **facts}), flush=True)


def log_in(credential: lockstep_client.Credential) -> psycopg.Connection:
    """A session with the login that the credential is now."""
    return psycopg.connect(
        os.environ["LEDGER_DSN"],
        user=credential.username,
        password=credential.password.reveal(),
        autocommit=True,
        connect_timeout=5,
    )


def book(session: psycopg.Connection) -> None:
    """One line in the ledger."""
    try:
        row = session.execute(
            "INSERT INTO app.orders SELECT max(id) + 1, 'tea' FROM app.orders RETURNING id"
        ).fetchone()
        say("booked", line=row[0] if row else 0)
    except psycopg.Error as error:
        say("session-ended", why=str(error).splitlines()[0])


def watch(session: psycopg.Connection) -> None:
    """Say when the server ends the session, whoever uses it."""

    def wait() -> None:
        poll = select.poll()
        poll.register(session.fileno(), select.POLLRDHUP)
        poll.poll()
        say("cut", what="the server closed the open session")

    threading.Thread(target=wait, daemon=True).start()


def fetch_and_import(url: str) -> None:
    """What no scanner of an image sees: code that arrives after the start."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        source = answer.read()
    folder = tempfile.mkdtemp(prefix="plugins-")
    path = Path(folder) / "plugin.py"
    path.write_bytes(source)
    spec = importlib.util.spec_from_file_location("plugin", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    finally:
        path.unlink()
        Path(folder).rmdir()


def main() -> int:
    """Attest, log in, then do what the demo says."""
    try:
        lockstep = lockstep_client.connect(wait=10, roles=["ledger-db"])
    except lockstep_client.Denied as denied:
        say("denied", reason=denied.reason, count=denied.count, decision=denied.decision)
        return 78
    with lockstep:
        credential = lockstep.credential("ledger-db")

        @lockstep.on_revoked
        def told(revocation: lockstep_client.Revocation) -> None:
            say("revoked", reason=revocation.reason, decision=revocation.decision)

        # In hand before anybody could object: the worst case.
        username, password = credential.username, credential.password.reveal()
        session = log_in(credential)
        watch(session)
        attestation = lockstep.attestation
        say(
            "ready",
            pid=os.getpid(),
            attestation=attestation.id if attestation else "",
            lease=credential.lease_id,
            username=username,
        )
        for words in map(str.split, sys.stdin):
            if words[0] == "book":
                book(session)
            elif words[0] == "plugin":
                fetch_and_import(words[1])
                say("imported")
            elif words[0] == "replay":
                try:
                    psycopg.connect(
                        os.environ["LEDGER_DSN"], user=username, password=password, connect_timeout=5
                    ).close()
                    say("logged-in")
                except psycopg.OperationalError as error:
                    say("refused", why=str(error).strip().splitlines()[-1].rpartition("FATAL:")[2].strip())
            elif words[0] == "quit":
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())

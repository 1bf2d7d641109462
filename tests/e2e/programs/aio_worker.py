"""A workload under test with an event loop of its own."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

import lockstep_client
from lockstep_client import aio


def say(event: str, **facts: Any) -> None:
    """One line."""
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Holds a credential until it is revoked; ``block`` stalls the loop meanwhile."""
    over = asyncio.Event()
    loop_thread = threading.get_ident()
    async with aio.connect(wait=10, roles=["worker"]) as lockstep:
        credential = await lockstep.credential("worker")

        @lockstep.on_revoked
        async def told(revocation: lockstep_client.Revocation) -> None:
            await asyncio.sleep(0)
            mine = threading.get_ident() == loop_thread
            say("revoked", decision=revocation.decision, in_the_loop=mine)
            over.set()

        assert lockstep.attestation is not None
        token = credential.token.reveal()
        say("ready", attestation=lockstep.attestation.id, parts=token.count("."))
        line = await asyncio.to_thread(sys.stdin.readline)
        if line.strip() == "block":
            # A loop that hangs delays no revocation: the secret is gone while it does.
            sys.stdin.readline()
            try:
                credential.token.reveal()
                say("answer", usable=True)
            except lockstep_client.Revoked as error:
                say("answer", usable=False, decision=error.decision)
        await over.wait()


asyncio.run(main())

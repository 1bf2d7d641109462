"""A workload under test with an event loop of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from typing import Any

import lockstep_client
from lockstep_client import aio


def say(event: str, **facts: Any) -> None:
    """One line."""
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


ROLE = os.environ["WORKER_ROLE"]


async def stumble() -> None:
    """A callback of a user's that fails."""
    raise ValueError("naïve")  # its line is not ASCII: tracebacks measure such lines by other means


def run_text() -> str:
    """Code that nobody could approve; why it was stopped, or empty where it ran."""
    try:
        exec("x = 1")
    except lockstep_client.LockstepError as error:
        return error.reason
    return ""


async def main() -> int:
    """Holds a credential until it is revoked, or told to ``quit``; ``block`` stalls the loop meanwhile."""
    over = asyncio.Event()
    loop_thread = threading.get_ident()
    try:
        lockstep = await aio.connect(wait=10, roles=[ROLE])
    except lockstep_client.Denied as error:
        say("denied", reason=error.reason, decision=error.decision, count=error.count)
        return 78
    async with lockstep:
        credential = await lockstep.credential(ROLE)

        @lockstep.on_revoked
        async def told(revocation: lockstep_client.Revocation) -> None:
            await asyncio.sleep(0)
            mine = threading.get_ident() == loop_thread
            say("revoked", decision=revocation.decision, in_the_loop=mine)
            over.set()

        assert lockstep.attestation is not None
        token = credential.token.reveal()
        say("ready", attestation=lockstep.attestation.id, parts=token.count("."), token=token)
        while (line := (await asyncio.to_thread(sys.stdin.readline)).strip()) in ("use", "stumble", "exec"):
            if line == "exec":
                say("answer", stopped=run_text())
                continue
            if line == "stumble":
                credential.on_rotated(stumble)
            say("answer", ready=lockstep.ready, token=credential.token.reveal())
        if line == "quit":
            return 0
        if line == "block":
            # A loop that hangs delays no revocation: the secret is gone while it does.
            sys.stdin.readline()
            try:
                credential.token.reveal()
                say("answer", usable=True)
            except lockstep_client.Revoked as error:
                say("answer", usable=False, decision=error.decision)
        await over.wait()
    return 0


sys.exit(asyncio.run(main()))

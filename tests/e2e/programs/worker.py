"""A workload under test: connects as the environment says, and does what lines on standard input ask."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import lockstep_client
from lockstep_client import LockstepError

ROLE = os.environ["WORKER_ROLE"]


def say(event: str, **facts: Any) -> None:
    """One line."""
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


def use(credential: lockstep_client.LiveCredential) -> dict[str, Any]:
    """What may be used now."""
    try:
        return {"usable": True, "token": credential.token.reveal(), "lease": credential.lease_id}
    except LockstepError as error:
        return {
            "usable": False,
            "kind": type(error).__name__,
            "reason": error.reason,
            "decision": error.decision,
            "text": str(error),
        }


def in_a_fork(lockstep: lockstep_client.Lockstep, credential: lockstep_client.LiveCredential) -> None:
    """A child of `os.fork` uses the same objects."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            found = use(credential)
            attestation = lockstep.attestation
            say("child", pid=os.getpid(), attestation=attestation.id if attestation else "", **found)
            lockstep.close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    say("answer", status=os.waitstatus_to_exitcode(status), **use(credential))


def in_threads(credential: lockstep_client.LiveCredential, count: int) -> None:
    """Many at once."""
    found: list[dict[str, Any]] = []
    gate = threading.Barrier(count)

    def one() -> None:
        gate.wait(10)
        for _ in range(50):
            found.append(use(credential))

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("answer", uses=len(found), usable=sum(item["usable"] for item in found))


def stumble() -> None:
    """A callback of a user's that fails."""
    raise ValueError("naïve")  # its line is not ASCII: tracebacks measure such lines by other means


def run_text() -> str:
    """Code that nobody could approve; why it was stopped, or empty where it ran."""
    try:
        exec("x = 1")
    except LockstepError as error:
        return error.reason
    return ""


def main() -> int:
    """Until ``quit`` or the end of the input."""
    try:
        lockstep = lockstep_client.connect(
            wait=10,
            roles=[ROLE],
            on_revoked=os.environ.get("WORKER_ON_REVOKED", "raise"),  # type: ignore[arg-type]
        )
    except lockstep_client.Denied as error:
        say("denied", reason=error.reason, decision=error.decision, count=error.count)
        return 78
    with lockstep:
        credential = lockstep.credential(ROLE)

        @lockstep.on_revoked
        def told(revocation: lockstep_client.Revocation) -> None:
            say(
                "revoked",
                reason=revocation.reason,
                decision=revocation.decision,
                revocation=revocation.revocation_id,
                usable=use(credential)["usable"],
            )

        attestation = lockstep.attestation
        assert attestation is not None
        say(
            "ready",
            attestation=attestation.id,
            decision=attestation.roles[ROLE].decision,
            status=attestation.status,
            shown=repr([lockstep, credential, credential.token]),
            **use(credential),
        )
        for words in map(str.split, sys.stdin):
            if words[0] == "use":
                say("answer", ready=lockstep.ready, **use(credential))
            elif words[0] == "fork":
                in_a_fork(lockstep, credential)
            elif words[0] == "threads":
                in_threads(credential, int(words[1]))
            elif words[0] == "stumble":
                credential.on_rotated(stumble)
                say("answer")
            elif words[0] == "exec":
                say("answer", stopped=run_text())
            elif words[0] == "headers":
                say("answer", headers=credential.http_headers(words[1], words[2]))
            elif words[0] == "quit":
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())

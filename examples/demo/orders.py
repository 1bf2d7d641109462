"""A resource server: takes orders from whoever holds a good credential, checked offline with the feed.

Says JSON lines on standard output: ``ready`` with its URL, and ``checked`` for each request.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lockstep_client import LockstepError, Settings, Unavailable
from lockstep_client.verify import TokenVerifier


def say(event: str, **facts: Any) -> None:
    """One line for the demo, with the time (seconds, UTC)."""
    print(json.dumps({"event": event, "at": time.time(), **facts}), flush=True)


def application(verifier: TokenVerifier) -> Starlette:
    """``POST /orders`` with a bearer credential."""

    async def take(request: Request) -> JSONResponse:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return JSONResponse({"error": "no credential"}, status_code=401)
        try:
            verified = await run_in_threadpool(verifier.verify, token)
        except Unavailable as error:
            say("checked", status=503, why=error.message)
            return JSONResponse({"error": str(error.reason)}, status_code=503)
        except LockstepError as error:
            say("checked", status=401, why=str(error.reason))
            return JSONResponse({"error": str(error.reason)}, status_code=401)
        line = (await request.body()).decode()
        say("checked", status=201, line=line, subject=verified.subject)
        return JSONResponse({"ordered": line}, status_code=201)

    return Starlette(routes=[Route("/orders", take, methods=["POST"])])


async def serve() -> None:
    """Serve on a free loopback port until terminated."""
    settings = Settings(
        address=os.environ["LOCKSTEP_ADDRESS"],
        ca_file=os.environ["LOCKSTEP_CA_FILE"],
        cluster=os.environ["LOCKSTEP_CLUSTER"],
        identity_token_file=os.environ["LOCKSTEP_RESOURCE_SERVER_TOKEN_FILE"],
        http_url=os.environ["LOCKSTEP_HTTP_URL"],
    )
    with TokenVerifier(audience="dev", observed="refuse", settings=settings) as verifier:
        await run_in_threadpool(verifier.wait_ready, 10)
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(application(verifier), log_level="error", access_log=False, lifespan="off")
        say("ready", url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve())

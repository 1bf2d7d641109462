"""What is measured: each case prepares its spots untimed, and one operation says how long its steps took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc.aio

from benchmarks import empty
from benchmarks.detector import Detector
from benchmarks.workload import Line, Workload, digests
from lockstep.v1 import revocation_pb2
from lockstep_client import messages, methods

CHANNELS = 4
"""Connections that concurrent callers share."""
ISSUES_PER_INSTANCE = 40
"""Leases that one instance takes before another one takes its place."""

Once = Callable[[], Awaitable[dict[str, float]]]
# In quotes: grpc's classes take no parameters at run time.
Stream: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a load runs: the broker's addresses and files."""

    address: str
    http_url: str
    empty_address: str
    ca_file: str
    cluster: str
    identity_token_file: str
    resource_server_token_file: str
    detector_secret_file: str
    detector: str
    role: str
    units: int

    def identity(self) -> str:
        """The JWT as the file has it now."""
        return Path(self.identity_token_file).read_text().strip()


@dataclass(frozen=True, slots=True)
class Spot:
    """One caller: what it does over and over, and how it ends."""

    once: Once
    close: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure. `measures` name what an operation times, and what each means."""

    prepare: Callable[[Ground, int], Awaitable[list[Spot]]]
    measures: Mapping[str, str]
    concurrency: tuple[int, ...] = (1, 16)


def _lines(ground: Ground, address: str, concurrency: int) -> list[Line]:
    return [Line(address, Path(ground.ca_file), ground.cluster) for _ in range(min(CHANNELS, concurrency))]


def _spots(lines: list[Line], onces: list[Once]) -> list[Spot]:
    async def nothing() -> None:
        pass

    closes = [line.close for line in lines]
    return [Spot(once, closes[at] if at < len(closes) else nothing) for at, once in enumerate(onces)]


async def _plain(ground: Ground, concurrency: int, address: str, method: str, measure: str) -> list[Spot]:
    lines = _lines(ground, address, concurrency)
    for line in lines:
        await line.call(method, b"")

    def caller(line: Line) -> Once:
        async def once() -> dict[str, float]:
            begun = time.perf_counter()
            await line.call(method, b"")
            return {measure: time.perf_counter() - begun}

        return once

    return _spots(lines, [caller(lines[at % len(lines)]) for at in range(concurrency)])


async def prepare_empty(ground: Ground, concurrency: int) -> list[Spot]:
    """An empty unary call to a bare server."""
    return await _plain(ground, concurrency, ground.empty_address, empty.METHOD, "empty")


async def prepare_health(ground: Ground, concurrency: int) -> list[Spot]:
    """grpc.health.v1.Health/Check through the broker's gate."""
    return await _plain(ground, concurrency, ground.address, "/grpc.health.v1.Health/Check", "health")


async def _instance(ground: Ground, line: Line, units: list[bytes]) -> Workload:
    workload = Workload(line, ground.identity, units, ground.role)
    await workload.attest(await workload.challenge())
    return workload


async def prepare_attest(ground: Ground, concurrency: int) -> list[Spot]:
    """A new instance each time."""
    lines = _lines(ground, ground.address, concurrency)
    units = digests(ground.units)

    def caller(line: Line) -> Once:
        async def once() -> dict[str, float]:
            workload = Workload(line, ground.identity, units, ground.role)
            begun = time.perf_counter()
            nonce = await workload.challenge()
            asked = time.perf_counter()
            await workload.attest(nonce)
            return {"challenge": asked - begun, "attest": time.perf_counter() - asked}

        return once

    return _spots(lines, [caller(lines[at % len(lines)]) for at in range(concurrency)])


async def prepare_issue(ground: Ground, concurrency: int) -> list[Spot]:
    """Attested instances that ask for one lease after the other."""
    lines = _lines(ground, ground.address, concurrency)
    units = digests(ground.units)
    onces = []
    for at in range(concurrency):
        pool = [await _instance(ground, lines[at % len(lines)], units) for _ in range(2)]
        onces.append(_issuing(ground, lines[at % len(lines)], units, pool))
    return _spots(lines, onces)


def _issuing(ground: Ground, line: Line, units: list[bytes], pool: list[Workload]) -> Once:
    count = 0

    async def once() -> dict[str, float]:
        nonlocal count
        count += 1
        # Not timed, and rare: the rate counts it, and is the poorer for it by a fortieth of an Attest.
        if count % ISSUES_PER_INSTANCE == 0:
            pool[0] = await _instance(ground, line, units)
        workload = pool[0]
        begun = time.perf_counter()
        await workload.issue()
        return {"issue": time.perf_counter() - begun}

    return once


async def prepare_renew(ground: Ground, concurrency: int) -> list[Spot]:
    """Leases that are renewed; each renewal needs fresh evidence first."""
    lines = _lines(ground, ground.address, concurrency)
    units = digests(ground.units)

    def caller(workload: Workload) -> Once:
        async def once() -> dict[str, float]:
            nonce = await workload.challenge()
            begun = time.perf_counter()
            await workload.reattest(nonce)
            fresh = time.perf_counter()
            await workload.renew()
            return {"reattest": fresh - begun, "renew": time.perf_counter() - fresh}

        return once

    onces = []
    for at in range(concurrency):
        workload = await _instance(ground, lines[at % len(lines)], units)
        await workload.issue()
        onces.append(caller(workload))
    return _spots(lines, onces)


async def prepare_report(ground: Ground, concurrency: int) -> list[Spot]:
    """A detector's webhook about an instance that holds a lease and watches."""
    lines = _lines(ground, ground.address, concurrency)
    units = digests(ground.units)
    detector = Detector(ground.http_url, ground.detector, ground.ca_file, ground.detector_secret_file)
    bearer = Path(ground.resource_server_token_file).read_text().strip()
    await detector.warm()

    def caller(line: Line) -> Once:
        async def once() -> dict[str, float]:
            workload = await _instance(ground, line, units)
            token = (await workload.issue()).credential.token
            watching = await _watch(line, workload)
            told = _told(watching)
            begun = time.perf_counter()
            await detector.report(workload.attestation_id)
            answered = time.perf_counter()
            active = await detector.active(token, bearer)
            inactive = time.perf_counter()
            refused = await _refused(workload)
            issue = time.perf_counter()
            heard = await told
            watching.cancel()
            if active or not refused:
                raise RuntimeError("a revoked credential was good")
            return {
                "answered": answered - begun,
                "inactive": inactive - begun,
                "refused": issue - begun,
                "told": heard - begun,
            }

        return once

    return _spots(lines, [caller(lines[at % len(lines)]) for at in range(concurrency)])


async def _watch(line: Line, workload: Workload) -> Stream:
    """An open watch whose snapshot has come: from here on only events follow."""
    first = messages.watch_open(workload.attestation_id, None).SerializeToString()
    call: Stream = line.stream(methods.WATCH.path, first, workload.key)
    await call.write(first)
    while True:
        answer = await _next(call)
        if answer.WhichOneof("message") == "snapshot" and answer.snapshot.complete:
            return call


async def _next(call: Stream) -> revocation_pb2.WatchRevocationsResponse:
    raw = await call.read()
    if not isinstance(raw, bytes):
        raise RuntimeError("the watch has ended")
    return revocation_pb2.WatchRevocationsResponse.FromString(raw)


def _told(call: Stream) -> Awaitable[float]:
    """When the event arrived."""

    async def wait() -> float:
        while True:
            answer = await _next(call)
            if answer.WhichOneof("message") == "event":
                return time.perf_counter()

    return asyncio.create_task(wait())


async def _refused(workload: Workload) -> bool:
    try:
        await workload.issue()
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.PERMISSION_DENIED
    return False


CASES: Mapping[str, Case] = {
    "empty": Case(prepare_empty, {"empty": "an empty unary call, the yardstick of every ratio"}),
    "health": Case(prepare_health, {"health": "grpc.health.v1.Health/Check through the broker's gate"}),
    "attest": Case(
        prepare_attest,
        {
            "challenge": "GetChallenge",
            "attest": "Attest: identity, evidence of 500 units, appraisal, durable",
        },
    ),
    "issue": Case(prepare_issue, {"issue": "IssueCredential: lease and decision durable, token signed"}),
    "renew": Case(
        prepare_renew,
        {"reattest": "Reattest: fresh evidence, nothing new loaded", "renew": "RenewLease, with a new token"},
    ),
    "report": Case(
        prepare_report,
        {
            "answered": "webhook sent → answered: denied durably",
            "inactive": "webhook sent → introspection said inactive (asked after the answer)",
            "refused": "webhook sent → IssueCredential refused (asked after that)",
            "told": "webhook sent → the workload's own watcher told",
        },
        (1,),
    ),
}

"""How many durable transactions a second the SQLite state takes: ``python -m benchmarks.state``.

One transaction is what issuing a credential writes: a proof claimed, the
attestation read, a lease, a decision; every one is synced before it counts.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from broker.adapters.clock import SystemClock
from broker.adapters.entropy import SystemEntropy
from broker.adapters.state.sqlite import SqliteState
from broker.ports import Transaction
from tests.contract.state.nouns import NOW, attestation, decision, lease

CONCURRENCY = (1, 16, 64, 256)
SECONDS = 2.0


async def measure(state: SqliteState, concurrency: int, first: int) -> list[float]:
    """Seconds of each transaction of one run; ids count from `first`."""
    numbers = iter(range(first, first + 1_000_000))
    taken: list[float] = []
    end = time.perf_counter() + SECONDS

    async def caller() -> None:
        for number in numbers:
            started = time.perf_counter()
            if started > end:
                return

            async def work(tx: Transaction, number: int = number) -> None:
                await tx.replays.claim("proof", b"%d" % number, NOW)
                await tx.attestations.get("att-000001")
                await tx.leases.open(lease(number))
                await tx.decisions.add(decision(number))

            await state.transact(work)
            taken.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return sorted(taken)


async def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as folder:
        state = await SqliteState.open(Path(folder) / "state.db", SystemClock(), SystemEntropy())
        await state.transact(lambda tx: tx.attestations.add(attestation()))
        print("callers      tx/s   p50 ms   p99 ms")
        for run, concurrency in enumerate(CONCURRENCY):
            taken = await measure(state, concurrency, run * 10_000_000)
            half, most = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
            print(f"{concurrency:7} {len(taken) / SECONDS:9,.0f} {half * 1e3:8.2f} {most * 1e3:8.2f}")
        await state.close()


if __name__ == "__main__":
    asyncio.run(main())

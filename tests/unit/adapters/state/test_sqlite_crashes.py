"""What was answered is there after a kill, and a disk that refuses bytes is not taken for one that keeps them.

A killed process says nothing about the power going: that rests on
``synchronous = FULL``, which is asked back at open.
"""
# ruff: noqa: ASYNC220

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from broker.model.revocation import chain_hash
from tests.contract.state.calls import Call
from tests.unit.adapters.state.conftest import Opener

ROOT = Path(__file__).parents[4]

WRITER = """
import asyncio, sys
from pathlib import Path
from broker.adapters.state.sqlite import SqliteState
from tests.contract.state.calls import Call
from tests.contract.state.nouns import decision, entry
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import CounterEntropy

async def main():
    state = await SqliteState.open(Path(sys.argv[1]), FakeClock(), CounterEntropy())

    async def one(lane):
        for number in range(1_000_000):
            async def work(tx):
                (written,) = await tx.revocations.append([entry(number)])
                await tx.decisions.add(decision(number, id=f"{lane}-{number}"))
                return written.seq
            seq = await state.transact(work, urgent=lane == 0)
            sys.stdout.write(f"{seq} {lane}-{number}\\n")
            sys.stdout.flush()

    await asyncio.gather(*(one(lane) for lane in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("answers", [1, 40, 300])
async def test_what_was_answered_survives_a_kill(path: Path, opened: Opener, answers: int) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        lines = [await asyncio.to_thread(writer.stdout.readline) for _ in range(answers)]
        writer.kill()
        lines += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    answered = [line.split() for line in lines]
    assert len(answered) >= answers
    call = Call(await opened())
    entries = await call.revocations.since(0, 1_000_000)
    head = await call.revocations.head()
    previous = bytes(32)
    for seq, item in enumerate(entries, 1):
        assert (item.seq, item.hash) == (seq, chain_hash(previous, seq, item.body))
        previous = item.hash
    assert (head.seq, head.hash) == (len(entries), previous)
    decisions = {item.id for item in await call.decisions.page(0.0, 1_000_000)}
    for seq, decision_id in answered:
        assert int(seq) <= head.seq
        assert decision_id in decisions
    # No half of a work either: as many decisions as entries.
    assert len(decisions) == len(entries)


FILLER = """
import asyncio, resource, sys
from pathlib import Path
from broker.adapters.state.sqlite import SqliteState
from broker.errors import Unavailable
from tests.contract.state.calls import Call
from tests.contract.state.nouns import decision
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import CounterEntropy

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    path = Path(sys.argv[1])
    state = await SqliteState.open(path, FakeClock(), CounterEntropy())
    call = Call(state)
    limit(2_000_000)
    kept = []
    try:
        for number in range(100_000):
            await call.decisions.add(decision(number, detail="x" * 2000))
            kept.append(number)
    except Unavailable as error:
        print("refused", error, flush=True)
    found = await Call(state, reading=True).decisions.page(0.0, 100_000)
    assert [item.id for item in found] == [decision(number).id for number in kept], "lost or half"
    limit(resource.RLIM_INFINITY)
    await call.decisions.add(decision(999_999))
    await state.close()
    print(len(kept), flush=True)

asyncio.run(main())
"""


async def test_a_disk_that_takes_no_more(path: Path, opened: Opener) -> None:
    """Every write beyond the limit fails in the kernel: the state says so, and goes on when there is room again."""
    command = [sys.executable, "-c", FILLER, str(path)]
    ended = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, cwd=ROOT, timeout=50, check=False
    )
    assert ended.returncode == 0, ended.stderr
    refused, kept = ended.stdout.splitlines()
    assert refused.startswith("refused")
    assert int(kept) > 20
    found = await Call(await opened()).decisions.page(0.0, 100_000)
    assert len(found) == int(kept) + 1

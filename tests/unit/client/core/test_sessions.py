"""Ending sessions by their sockets: the right ones, whatever they are doing, and never anybody else's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
import threading
import warnings

import pytest

from lockstep_client.sessions import Sessions


class Driver:
    """A connection as psycopg's: it has a `fileno`."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.far.settimeout(10)

    def fileno(self) -> int:
        return self.near.fileno()

    def close(self) -> None:
        self.near.close()

    def ended(self) -> bool:
        """The server's view; waits for nothing."""
        self.far.setblocking(False)
        try:
            return self.far.recv(1) == b""
        except BlockingIOError:
            return False

    def __del__(self) -> None:
        self.near.close()
        self.far.close()


class ByPyMySQL:
    """A connection as PyMySQL's: its socket is `_sock`, None once it is closed."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock: socket.socket | None = sock


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


def test_a_thread_that_is_blocked_on_it_goes_on(sessions: Sessions) -> None:
    driver = Driver()
    sessions.opened(driver)
    got: list[bytes] = []
    waiting = threading.Event()

    def query() -> None:
        waiting.set()
        got.append(driver.near.recv(1))

    thread = threading.Thread(target=query)
    thread.start()
    assert waiting.wait(5)
    assert sessions.cut() == 1
    thread.join(10)
    assert got == [b""]
    assert driver.ended()
    # The driver's own bookkeeping is as it was.
    assert driver.near.fileno() >= 0
    assert len(sessions) == 0
    assert sessions.cut() == 0


def test_one_that_keeps_its_socket_as_pymysql_does(sessions: Sessions) -> None:
    driver = Driver()
    connection = ByPyMySQL(driver.near)
    sessions.opened(connection)
    sessions.cut()
    assert driver.ended()
    closed = ByPyMySQL(driver.near)
    closed._sock = None
    sessions.opened(closed)
    assert sessions.cut() == 1


def test_only_one_of_them(sessions: Sessions) -> None:
    one, other = Driver(), Driver()
    sessions.opened(one)
    sessions.opened(other)
    sessions.end(one)
    assert one.ended()
    assert not other.ended()
    sessions.end(one)
    assert len(sessions) == 1


def test_what_is_closed_or_collected_is_forgotten(sessions: Sessions) -> None:
    closed, collected = Driver(), Driver()
    sessions.opened(closed)
    sessions.opened(collected)
    sessions.closed(closed)
    sessions.closed(closed)
    assert len(sessions) == 1
    del collected
    gc.collect()
    assert len(sessions) == 0
    assert sessions.cut() == 0
    assert not closed.ended()


def test_a_cycle_that_is_collected_while_another_is_registered(sessions: Sessions) -> None:
    # The collector runs in the middle of anything, also of `opened` itself.
    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(200):
            driver = Driver()
            driver.itself = driver  # type: ignore[attr-defined]
            sessions.opened(driver)
            driver.near.close()
    finally:
        gc.set_threshold(*threshold)
    del driver
    gc.collect()
    assert len(sessions) == 0


def test_a_descriptor_that_has_gone_to_somebody_else_is_left_alone(sessions: Sessions) -> None:
    driver, other = Driver(), Driver()
    sessions.opened(driver)
    # Behind everybody's back, as a driver does at an error; then somebody's socket gets the number.
    number = driver.near.detach()
    os.dup2(other.fileno(), number)
    driver.near = socket.socket(fileno=number)
    assert sessions.cut() == 1
    driver.near.sendall(b"x")
    assert other.far.recv(1) == b"x"
    other.far.sendall(b"y")
    assert other.near.recv(1) == b"y"


def test_a_file_under_the_number_is_left_alone(sessions: Sessions) -> None:
    driver = Driver()
    sessions.opened(driver)
    number = driver.near.fileno()
    os.dup2(os.open(os.devnull, os.O_RDONLY), number)
    assert sessions.cut() == 1
    os.fstat(number)


def test_a_process_without_a_free_descriptor_still_ends_them(sessions: Sessions) -> None:
    driver = Driver()
    sessions.opened(driver)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, before[1])
        )
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        sessions.cut()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert driver.ended()


def test_it_keeps_no_socket_open_that_its_driver_closes(sessions: Sessions) -> None:
    driver = Driver()
    sessions.opened(driver)
    assert not driver.ended()
    driver.near.close()
    assert driver.ended()
    another = Driver()
    sessions.opened(another)
    sessions.cut()
    number = another.near.fileno()
    inode = os.fstat(number).st_ino
    another.near.close()
    held = {os.stat(f"/proc/self/fd/{name}").st_ino for name in os.listdir("/proc/self/fd") if _open(name)}
    assert inode not in held


def _open(name: str) -> bool:
    return os.path.exists(f"/proc/self/fd/{name}")


def test_a_driver_that_nobody_knows_is_said_once(
    sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd:
        """Nothing of it says where its socket is."""

    with caplog.at_level(logging.WARNING, "lockstep"):
        kept = [Odd(), Odd(), 5]
        for connection in kept:
            sessions.opened(connection)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "Odd" in said[0]
    assert sessions.cut() == 3


# --- in an event loop -----------------------------------------------------------------------------------


class Asynchronous:
    """A connection as asyncpg's: a transport of the loop's, and `terminate`, which belongs into the loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.terminated_in: list[int] = []

    def terminate(self) -> None:
        self.terminated_in.append(threading.get_ident())
        self._transport.abort()


class Watching(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def connected(far: list[socket.socket]) -> tuple[Asynchronous, Watching]:
    near, other = socket.socketpair()
    near.setblocking(False)
    other.setblocking(False)
    far.append(other)
    transport, watching = await asyncio.get_running_loop().create_connection(Watching, sock=near)
    return Asynchronous(transport), watching


async def test_from_another_thread_it_ends_in_its_loop(sessions: Sessions) -> None:
    far: list[socket.socket] = []
    connection, watching = await connected(far)
    sessions.opened(connection)
    assert sessions.loop is asyncio.get_running_loop()
    await asyncio.to_thread(sessions.cut)
    async with asyncio.timeout(10):
        await watching.lost.wait()
    assert set(connection.terminated_in) <= {threading.get_ident()}
    assert far[0].recv(1) == b""
    far[0].close()


async def test_a_loop_that_is_busy_delays_nothing(sessions: Sessions) -> None:
    far: list[socket.socket] = []
    connection, watching = await connected(far)
    sessions.opened(connection)
    thread = threading.Thread(target=sessions.cut)
    thread.start()
    thread.join(10)  # on this thread: the loop stands still
    assert far[0].recv(1) == b""
    async with asyncio.timeout(10):
        await watching.lost.wait()
    far[0].close()


def test_a_loop_that_has_ended_leaves_a_socket_that_is_ended(sessions: Sessions) -> None:
    far: list[socket.socket] = []
    loop = asyncio.new_event_loop()

    async def open_one() -> Asynchronous:
        connection, _ = await connected(far)
        sessions.opened(connection)
        return connection

    connection = loop.run_until_complete(open_one())
    # It stops and is closed without a word to its connections.
    loop.close()
    with pytest.raises(BlockingIOError):
        far[0].recv(1)
    assert sessions.cut() == 1
    assert far[0].recv(1) == b""
    far[0].close()
    connection._transport.get_extra_info("socket")._sock.close()
    with warnings.catch_warnings():
        # It was never closed in its loop: that is what this is about.
        warnings.simplefilter("ignore", ResourceWarning)
        del connection
        gc.collect()

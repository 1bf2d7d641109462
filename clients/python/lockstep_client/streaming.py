"""A stream that comes back: one thread that opens it, reads it, and opens it again after every break."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import tenacity
from google.protobuf.message import Message

from lockstep.formats import Reason
from lockstep_client import schedule
from lockstep_client.callers import Caller
from lockstep_client.errors import LockstepError, Unavailable
from lockstep_client.methods import Method
from lockstep_client.transport import Stream, Transport

log = logging.getLogger("lockstep")
A = TypeVar("A")

IDLE = 2.0
"""Seconds between looks while there is nobody to be."""
_REFUSED_FIRST = 1.0
_REFUSED_MOST = 6.0


class Session(Protocol[A]):
    """One stream from open to end. `healthy` once the broker has really served it."""

    @property
    def healthy(self) -> bool: ...

    def first(self) -> Message:
        """The message that opens it, which the proof covers."""

    def later(self, cancel: Callable[[], None]) -> Iterator[Message]:
        """Everything after; runs on a thread of gRPC's. `cancel` ends the stream."""

    def take(self, answer: A, stream: Stream[A]) -> bool:
        """One answer; True where the session is over and a new one is wanted."""

    def end(self) -> None:
        """The stream is gone: `later` must return."""


class StreamThread(Generic[A]):
    """Runs sessions until :meth:`stop`.

    `who` gives (attestation id, caller), or None while there is nobody to be.
    `Unavailable` is tried again with growing pauses. Other refusals go to
    `denied` and are tried again too, with longer ones, or at once after a
    :meth:`kick`: a stream that ended for good would be a silence that nobody
    notices.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        method: Method[A],
        who: Callable[[], tuple[str, Caller] | None],
        begin: Callable[[str], Session[A]],
        denied: Callable[[LockstepError], None],
    ) -> None:
        self._name = name
        self._transport = transport
        self._method = method
        self._who = who
        self._begin = begin
        self._denied = denied
        self._stopping = threading.Event()
        self._kicked = threading.Event()
        self._paused = threading.Event()
        self._outside = threading.Event()
        self._outside.set()
        self._stream: Stream[A] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; once."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def kick(self) -> None:
        """Something changed (a new attestation): look again at once."""
        self._kicked.set()

    def restart(self) -> None:
        """End the present stream and begin anew, under whoever one is now."""
        self._kicked.set()
        self._cancel()

    def stop(self, timeout: float = 1.0) -> None:
        """End the stream and the thread; waits at most `timeout` seconds."""
        self._stopping.set()
        self._kicked.set()
        self._cancel()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def pause(self, timeout: float = 0.5) -> None:
        """Before a fork: no stream may be open. Waits at most `timeout` seconds."""
        self._paused.set()
        self._cancel()
        self._outside.wait(timeout)

    def resume(self) -> None:
        """After a fork, in the parent."""
        self._paused.clear()
        self._kicked.set()

    def _cancel(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def _run(self) -> None:
        refusals = 0
        while not self._stopping.is_set():
            self._kicked.clear()
            who = None if self._paused.is_set() else self._who()
            if who is None:
                self._kicked.wait(IDLE)
                continue
            try:
                self._persist(*who)
                refusals = 0
                continue
            except Unavailable:
                continue  # kicked while waiting: look who one is now
            except LockstepError as error:
                if self._stopping.is_set():
                    return  # its key and connection are gone already
                self._denied(error)
            except Exception:  # a door: whatever a session raises, the next one is begun
                if self._stopping.is_set():
                    return
                log.exception("%s failed and goes on", self._name)
            refusals += 1
            self._kicked.wait(
                schedule.backoff(refusals, schedule.luck(), first=_REFUSED_FIRST, most=_REFUSED_MOST)
            )

    def _persist(self, attestation_id: str, caller: Caller) -> None:
        """Sessions until one ends well; only `Unavailable` is tried again."""
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unavailable),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            sleep=tenacity.sleep_using_event(self._kicked),
            stop=tenacity.stop_when_event_set(self._kicked),
            reraise=True,
        ):
            with attempt:
                self._serve(attestation_id, caller)
        # It was alive and broke: come back soon, but not everybody in the same instant.
        self._stopping.wait(0.01 + 0.09 * schedule.luck())

    def _serve(self, attestation_id: str, caller: Caller) -> None:
        """One stream. Returns where it was healthy and ended; raises `Unavailable` where it never was."""
        for last in (False, True):
            session = self._begin(attestation_id)
            self._outside.clear()
            try:
                if self._paused.is_set() or self._stopping.is_set():
                    return
                self._read(session, caller)
                return
            except LockstepError as error:
                if error.reason == Reason.PROOF_REJECTED and not last:
                    continue  # a fresh nonce came with the refusal
                if isinstance(error, Unavailable) and session.healthy:
                    return
                raise
            finally:
                self._stream = None
                self._outside.set()

    def _read(self, session: Session[A], caller: Caller) -> None:
        # The sender starts before there is a stream to cancel: it finds it here.
        later = session.later(self._cancel)
        stream = self._transport.stream(self._method, session.first(), later, caller)
        self._stream = stream
        try:
            for answer in stream:
                if session.take(answer, stream):
                    return
        finally:
            session.end()
            stream.cancel()

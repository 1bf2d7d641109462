"""The live feed of a resource server: what is revoked, as of when that is known, and closed when it goes deaf."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from lockstep.formats import Reason
from lockstep.v1 import revocation_pb2
from lockstep_client.callers import Anonymous, Bearer, Caller
from lockstep_client.clock import Clock
from lockstep_client.errors import Denied, LockstepError, Revoked, Unavailable
from lockstep_client.identity import Identity, channel_credentials
from lockstep_client.settings import Settings, require
from lockstep_client.transport import Transport
from lockstep_client.verify.denials import Denials
from lockstep_client.verify.tokens import Verified
from lockstep_client.watch import DEAF_AFTER, Watch

log = logging.getLogger("lockstep")

_FORGET_EVERY = 600.0
_CATCH_UP = 0.5
"""Seconds that a token which is ahead of the feed waits for it before the broker is asked."""


class Feed:
    """Follows the revocation log from the start; a `Sink` of the watch. Thread-safe."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Raises `ConfigurationError`."""
        require(settings, "address", "where revocations are announced")
        self._settings = settings
        self._clock = clock
        self.identity = Identity(settings)
        self._denials = Denials(clock)
        self._heard = float("-inf")
        self._complete = False
        self._refused: LockstepError | None = None
        self._forgotten_at = clock.steady()
        self._fresh = threading.Condition()
        self._starting = threading.Lock()
        self._inherited: list[Transport] = []
        self._transport: Transport | None = None
        self._watch: Watch | None = None
        self._follow()

    @property
    def ready(self) -> bool:
        """True while revocations are known as of less than 6 seconds ago."""
        return self._watch is not None and self._complete and self._clock.steady() - self._heard <= DEAF_AFTER

    def wait_ready(self, timeout: float) -> None:
        """Wait for the first whole state. Raises `Unavailable`, or `Denied` where the broker refuses us."""
        self._wait(timeout)
        if self._refused is not None:
            raise self._refused
        if not self.ready:
            raise Unavailable("the revocation feed is not there yet")

    def check(self, token: Verified) -> None:
        """Raises `Revoked`, or `Unavailable` where revocations are not known as of now."""
        if self._watch is None:
            with self._starting:
                if self._watch is None:
                    self._follow()  # in a forked child, at its first use
            self._wait(DEAF_AFTER)
        if not self.ready:
            raise Unavailable("revocations are not known as of now", reason=Reason.STATE_UNAVAILABLE)
        if self._denials.ahead(token):
            self._catch_up(token)
        denial = self._denials.hit(token)
        if denial is not None:
            raise Revoked("revoked", reason=denial.reason or Reason.REVOKED, decision=denial.decision)

    def must_ask(self, token: Verified) -> bool:
        """True where only the broker can say whether a token holds."""
        return self._denials.must_ask(token)

    def close(self) -> None:
        """End it; nothing is fresh afterwards."""
        self._complete = False
        if self._watch is not None:
            self._watch.thread.stop()
        if self._transport is not None:
            self._transport.close()

    def before_fork(self) -> None:
        """No stream may be open while the process is copied."""
        if self._watch is not None:
            self._watch.thread.pause()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._watch is not None:
            self._watch.thread.resume()

    def after_fork_in_child(self) -> None:
        """A child hears for itself, from its first use on; until it does, it knows nothing."""
        self._fresh = threading.Condition()
        self._starting = threading.Lock()
        self._heard, self._complete, self._refused = float("-inf"), False, None
        self._denials.after_fork_in_child()
        if self._transport is not None:
            self._transport.abandon()
            self._inherited.append(self._transport)
        self._transport = self._watch = None

    def _follow(self) -> None:
        settings, identity = self._settings, self.identity
        self._transport = Transport(settings.addresses, lambda: channel_credentials(settings), self._clock)
        caller: Caller = Anonymous()
        if settings.identity_token_file:
            caller = Bearer(lambda: identity() or "")
        watch = Watch(self._transport, lambda: ("", caller), self, self._clock)
        watch.thread.start()
        self._watch = watch

    def _wait(self, timeout: float) -> None:
        with self._fresh:
            self._fresh.wait_for(lambda: self.ready or self._refused is not None, timeout)

    def _catch_up(self, token: Verified) -> None:
        """The feed may be a moment behind a token that is a moment old: one ping tells how far the log is."""
        watch = self._watch
        if watch is not None:
            watch.ask()
        with self._fresh:
            self._fresh.wait_for(lambda: not self._denials.ahead(token), _CATCH_UP)

    # --- on the watch's thread ----------------------------------------------------------------------------

    def snapshot(
        self, events: Sequence[revocation_pb2.RevocationEvent], position: revocation_pb2.LogPosition
    ) -> None:
        """The whole live deny set."""
        self._denials.replace(events, position)
        self._complete = True

    def event(self, event: revocation_pb2.RevocationEvent) -> None:
        """One new entry."""
        self._denials.add(event)

    def reached(self, position: revocation_pb2.LogPosition) -> None:
        """Everything up to here is known."""
        self._denials.reached(position)
        with self._fresh:
            self._fresh.notify_all()

    def beat(self, asked_at: float | None, grace: float) -> None:
        """Everything before `asked_at` is known, but for the broker's own bound; a farewell makes nothing fresh."""
        if asked_at is None:
            return
        with self._fresh:
            self._heard, self._refused = max(self._heard, asked_at), None
            self._fresh.notify_all()
        if asked_at - self._forgotten_at > _FORGET_EVERY:
            self._forgotten_at = asked_at
            self._denials.forget()

    def denied(self, error: LockstepError) -> None:
        """The broker does not let us watch: nothing can be verified until somebody mends that."""
        log.error("the revocation feed is refused: %s", error)
        with self._fresh:
            self._refused = error if isinstance(error, Denied) else Unavailable(error.message)
            self._fresh.notify_all()

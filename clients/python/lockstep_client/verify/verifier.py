"""The verifier of a resource server: offline, with a live feed of revocations, closed when it goes deaf."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

from lockstep.formats import Reason
from lockstep.v1 import revocation_pb2
from lockstep_client.callers import Anonymous, Bearer, Caller
from lockstep_client.clock import Clock, SystemClock
from lockstep_client.errors import ConfigurationError, Denied, LockstepError, Revoked, Unavailable
from lockstep_client.forks import mind
from lockstep_client.identity import Identity, channel_credentials
from lockstep_client.settings import Settings, load, require
from lockstep_client.transport import Transport
from lockstep_client.verify import tokens
from lockstep_client.verify.denials import Denials
from lockstep_client.verify.dpop import Proofs
from lockstep_client.verify.jose import refuse
from lockstep_client.verify.keys import Https, Keys
from lockstep_client.verify.tokens import Verified
from lockstep_client.watch import DEAF_AFTER, Watch

log = logging.getLogger("lockstep")

_FORGET_EVERY = 600.0


class TokenVerifier:
    """Says who a token stands for, or raises.

    `Denied` (401: do not retry with this token), `Revoked` (a `Denied`: it was
    taken back), `Unavailable` (503: this verifier cannot know right now).
    Thread-safe; a context manager; neutral to WSGI and ASGI. With the feed, a
    check costs no network; call it on any thread.
    """

    def __init__(
        self,
        *,
        audience: str,
        issuer: str = "",
        jwks: str | os.PathLike[str] = "",
        feed: bool = True,
        observed: Literal["accept", "refuse"] = "accept",
        possession: Literal["token", "required"] = "token",
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Starts the feed; asks nobody yet.

        `issuer` (default: the HTTP door, ``LOCKSTEP_HTTP_URL``) is what ``iss``
        must be, `jwks` an https URL or a file (default: the issuer's own).
        `feed`: follow the revocation log and fail closed when it is older than 6
        seconds; without it a revoked token is good until it expires. `observed`:
        whether tokens of roles that only observe are taken. `possession`:
        ``"required"`` refuses tokens that are not bound to a key; a bound one
        needs a DPoP proof in any case. Raises `ConfigurationError`.
        """
        if not audience:
            raise ConfigurationError("audience: which one are tokens for?", setting="audience")
        self._settings = settings or load()
        self._audience = audience
        self._issuer = issuer or require(self._settings, "http_url", "who issues the tokens")
        self._observed = observed
        self._possession = possession
        self._clock: Clock = clock or SystemClock()
        self._https = Https(self._settings.ca_file)
        base = (self._settings.http_url or self._issuer).rstrip("/")
        self._introspect_url = f"{base}/v1/introspect"
        self._keys = Keys(jwks or f"{base}/.well-known/jwks.json", self._https, self._clock)
        self._proofs = Proofs()
        self._denials = Denials()
        self._heard = float("-inf")
        self._complete = False
        self._refused: LockstepError | None = None
        self._forgotten_at = self._clock.steady()
        self._fresh = threading.Condition()
        self._identity: Identity | None = None
        self._watch: Watch | None = None
        self._transport: Transport | None = None
        self._inherited: list[Transport] = []
        self._feed = feed
        self._starting = threading.Lock()
        if feed:
            self._follow()
            mind(self)

    def verify(self, token: str, *, dpop: str | None = None, method: str = "", url: str = "") -> Verified:
        """Check one token as presented.

        1. form, signature, issuer, audience, times; 2. mode; 3. possession: with
        `dpop` (the ``DPoP`` header), `method` and `url` of the request, where the
        token is bound to a key; 4. freshness of the feed; 5. revocations.
        """
        now = self._clock.wall()
        kid, algorithm = tokens.key_id(token)
        key = self._keys.get(kid, algorithm)
        found = tokens.read(token, key, algorithm, issuer=self._issuer, audience=self._audience, now=now)
        if self._observed == "refuse" and found.mode != "enforce":
            raise refuse("the token is of a role that only observes", Reason.NOT_ENTITLED)
        self._check_possession(found, token, dpop, method, url, now)
        if self._feed:
            self._check_feed(found, token)
        return found

    @property
    def ready(self) -> bool:
        """True while revocations are known as of less than 6 seconds ago; always without the feed."""
        return self._watch is None or (self._complete and self._clock.steady() - self._heard <= DEAF_AFTER)

    def wait_ready(self, timeout: float) -> None:
        """Wait for the first whole state. Raises `Unavailable`, or `Denied` where the broker refuses us."""
        with self._fresh:
            self._fresh.wait_for(lambda: self.ready or self._refused is not None, timeout)
        if self._refused is not None:
            raise self._refused
        if not self.ready:
            raise Unavailable("the revocation feed is not there yet")

    def close(self) -> None:
        """End the feed; nothing is verified afterwards."""
        self._complete = False
        if self._watch is not None:
            self._watch.thread.stop()
        if self._transport is not None:
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def before_fork(self) -> None:
        """No stream may be open while the process is copied."""
        if self._watch is not None:
            self._watch.thread.pause()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._watch is not None:
            self._watch.thread.resume()

    def after_fork_in_child(self) -> None:
        """A child hears for itself; until it does, it refuses."""
        self._fresh = threading.Condition()
        self._heard, self._complete = float("-inf"), False
        self._denials, self._proofs = Denials(), Proofs()
        if self._transport is not None and self._watch is not None:
            self._transport.abandon()
            self._inherited.append(self._transport)
            self._watch = None
            self._starting = threading.Lock()

    # --- steps --------------------------------------------------------------------------------------

    def _check_possession(
        self, found: Verified, token: str, dpop: str | None, method: str, url: str, now: float
    ) -> None:
        if not found.key_thumbprint:
            if self._possession == "required":
                raise refuse("the token is bound to no key", Reason.PROOF_REJECTED)
            return
        if not dpop or not method or not url:
            raise refuse("the token is bound to a key: a DPoP proof is needed", Reason.PROOF_REJECTED)
        self._proofs.check(
            dpop, token=token, thumbprint=found.key_thumbprint, method=method, url=url, now=now
        )

    def _check_feed(self, found: Verified, token: str) -> None:
        if self._watch is None:
            with self._starting:
                if self._watch is None:
                    self._follow()  # in a forked child, at its first use
            self.wait_ready(DEAF_AFTER)
        if not self.ready:
            raise Unavailable("revocations are not known as of now", reason=Reason.STATE_UNAVAILABLE)
        denial = self._denials.hit(found)
        if denial is not None:
            raise Revoked("revoked", reason=denial.reason or Reason.REVOKED, decision=denial.decision)
        if self._denials.must_ask(found):
            bearer = self._identity() if self._identity is not None else None
            answer = self._https.json(self._introspect_url, {"token": token}, bearer or "")
            if answer.get("active") is not True:
                raise Revoked("revoked", reason=Reason.REVOKED)

    # --- the feed (on its thread) -----------------------------------------------------------------------

    def _follow(self) -> None:
        require(self._settings, "address", "where revocations are announced")
        self._identity = identity = Identity(self._settings)
        settings = self._settings
        self._transport = Transport(settings.addresses, lambda: channel_credentials(settings), self._clock)
        caller: Caller = Anonymous()
        if settings.identity_token_file:
            caller = Bearer(lambda: identity() or "")
        self._watch = Watch(self._transport, lambda: ("", caller), self, self._clock)
        self._watch.thread.start()

    def snapshot(self, events: Sequence[revocation_pb2.RevocationEvent]) -> None:
        """The whole live deny set."""
        self._denials.replace(events)
        self._complete = True

    def event(self, event: revocation_pb2.RevocationEvent) -> None:
        """One new entry."""
        self._denials.add(event)

    def beat(self, asked_at: float, grace: float) -> None:
        """Everything before `asked_at` is known, but for the broker's own bound."""
        with self._fresh:
            self._heard, self._refused = max(self._heard, asked_at), None
            self._fresh.notify_all()
        if asked_at - self._forgotten_at > _FORGET_EVERY:
            self._forgotten_at = asked_at
            self._denials.forget(self._clock.wall())

    def denied(self, error: LockstepError) -> None:
        """The broker does not let us watch: nothing can be verified until somebody mends that."""
        log.error("the revocation feed is refused: %s", error)
        with self._fresh:
            self._refused = error if isinstance(error, Denied) else Unavailable(error.message)
            self._fresh.notify_all()

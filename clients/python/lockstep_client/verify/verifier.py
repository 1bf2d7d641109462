"""The verifier of a resource server: offline, with a live feed of revocations, closed when it goes deaf."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Literal, Self

from lockstep.formats import Reason
from lockstep_client.clock import Clock, SystemClock
from lockstep_client.errors import ConfigurationError, Revoked, Unavailable
from lockstep_client.forks import mind
from lockstep_client.settings import Settings, load, require
from lockstep_client.verify import tokens
from lockstep_client.verify.dpop import Proofs
from lockstep_client.verify.feed import Feed
from lockstep_client.verify.https import Https
from lockstep_client.verify.jose import refuse
from lockstep_client.verify.keys import Keys
from lockstep_client.verify.tokens import Verified


class TokenVerifier:
    """Says who a token stands for, or raises.

    `Denied` (401: do not retry with this token), `Revoked` (a `Denied`: it was
    taken back), `Unavailable` (503: this verifier cannot know right now), and
    nothing else. Thread-safe; a context manager; neutral to WSGI and ASGI. With
    the feed, a check costs no network but where the feed alone cannot know
    (`verify` says when); call it on any thread.
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
        self._feed = Feed(self._settings, self._clock) if feed else None
        mind(self)

    def verify(self, token: str, *, dpop: str | None = None, method: str = "", url: str = "") -> Verified:
        """Check one token as presented.

        1. form, signature, issuer, audience, times; 2. mode; 3. freshness of the
        feed; 4. revocations; 5. possession: with `dpop` (the ``DPoP`` header),
        `method` and `url` of the request, where the token is bound to a key;
        6. the broker's own word (RFC 7662), where the feed alone cannot know: a
        wide revocation that has not been expanded, a token granted under
        another log than the one that is followed or ahead of it, or one that
        lives for more than a day.
        """
        now = self._clock.wall()
        kid, algorithm = tokens.key_id(token)
        key = self._keys.get(kid, algorithm)
        found = tokens.read(token, key, algorithm, issuer=self._issuer, audience=self._audience, now=now)
        if self._observed == "refuse" and found.mode != "enforce":
            raise refuse("the token is of a role that only observes", Reason.NOT_ENTITLED)
        if self._feed is not None:
            # First, or what was revoked could go on using up the memory of proofs.
            self._feed.check(found)
        self._check_possession(found, token, dpop, method, url, now)
        if self._feed is not None and self._feed.must_ask(found):
            self._introspect(self._feed, token)
        return found

    @property
    def ready(self) -> bool:
        """True while revocations are known as of less than 6 seconds ago; always without the feed."""
        return self._feed is None or self._feed.ready

    def wait_ready(self, timeout: float) -> None:
        """Wait for the first whole state. Raises `Unavailable`, or `Denied` where the broker refuses us."""
        if self._feed is not None:
            self._feed.wait_ready(timeout)

    def close(self) -> None:
        """End the feed; with one, nothing is verified afterwards."""
        if self._feed is not None:
            self._feed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def before_fork(self) -> None:
        """No stream may be open while the process is copied."""
        if self._feed is not None:
            self._feed.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._feed is not None:
            self._feed.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """A child hears for itself; until it does, it refuses."""
        self._proofs = Proofs()
        self._keys.after_fork_in_child()
        if self._feed is not None:
            self._feed.after_fork_in_child()

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
            dpop,
            token=token,
            thumbprint=found.key_thumbprint,
            method=method,
            url=url,
            now=now,
            steady=self._clock.steady(),
        )

    def _introspect(self, feed: Feed, token: str) -> None:
        try:
            bearer = feed.identity()
        except ConfigurationError as error:  # a file that is being replaced says nothing about the token
            raise Unavailable(error.message) from None
        answer = self._https.json(self._introspect_url, {"token": token}, bearer or "")
        if answer.get("active") is not True:
            raise Revoked("revoked", reason=Reason.REVOKED)

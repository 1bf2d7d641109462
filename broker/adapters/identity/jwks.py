"""Where an issuer's public keys come from: a file, a URL, or discovery; cached, refreshed, never older than a bound."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Final, Protocol

from broker.adapters.identity.fetch import MAX_DOCUMENT, Fetch, https_host
from broker.adapters.identity.watched import Warn, WatchedFile, no_warning
from broker.crypto.jose import JoseError, parse_claims
from broker.crypto.jwk import JwksError, KeySet, parse_jwks
from broker.errors import Unavailable
from lockstep.formats import Reason

_DISCOVERY: Final = "/.well-known/openid-configuration"


class KeySource(Protocol):
    """The keys of one issuer. The same `KeySet` object is given for as long as the keys are the same."""

    async def keys(self, now: float) -> KeySet:
        """Keys that may be relied on now; raises `Unavailable` (identity_unavailable)."""

    async def newer(self, now: float) -> KeySet | None:
        """Keys after one more look; None where it failed, or where the last look is too short ago for one."""

    def close(self) -> None:
        """No more looks."""


class FileKeys:
    """A JWK Set in a file, read anew when it changes."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        algorithms: frozenset[str],
        *,
        stale: float = 300.0,
        warn: Warn = no_warning,
    ) -> None:
        """`stale` in seconds: how long the last good content holds where the new one is broken.

        Raises ``ValueError`` where the file cannot be read or has no key to use.
        """
        self._file = WatchedFile(
            path, lambda data: _usable(data, algorithms), limit=MAX_DOCUMENT, stale=stale, warn=warn
        )

    async def keys(self, now: float) -> KeySet:
        """The keys of the file."""
        return self._file.current(now)

    async def newer(self, now: float) -> KeySet | None:
        """The keys of the file: it is looked at on every call."""
        return self._file.current(now)

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class KeyTimes:
    """Seconds. `ttl`: how long keys hold without a look; `refetch`: least time between two looks;
    `stale`: how much longer than `ttl` keys hold while the issuer is down; `patience`: how long a call
    waits for fresh keys where it could go on with those."""

    ttl: float = 300.0
    refetch: float = 10.0
    stale: float = 3600.0
    patience: float = 1.0


class HttpKeys:
    """A JWK Set behind https: at `jwks_url`, or where the issuer's discovery document says.

    Discovery (OpenID Connect Discovery 1.0 section 4) is believed only where its
    ``issuer`` is exactly ours and its ``jwks_uri`` is on the issuer's own host
    or on one of `hosts`.
    """

    def __init__(
        self,
        fetch: Fetch,
        issuer: str,
        algorithms: frozenset[str],
        *,
        jwks_url: str = "",
        hosts: frozenset[str] = frozenset(),
        times: KeyTimes = KeyTimes(),
        warn: Warn = no_warning,
    ) -> None:
        """`hosts` are ``host:port``. Raises ``ValueError`` where a URL is not https."""
        https_host(jwks_url or issuer)
        self._fetch = fetch
        self._issuer = issuer
        self._algorithms = algorithms
        self._jwks_url = jwks_url
        self._hosts = hosts
        self._times = times
        self._warn = warn
        self._document = b""
        self._keys: KeySet | None = None
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._looks = 0
        self._look: asyncio.Task[None] | None = None

    async def keys(self, now: float) -> KeySet:
        """Keys younger than `ttl`; while the issuer is down, than `ttl` and `stale` together."""
        if self._keys is not None and now - self._fetched_at < self._times.ttl:
            return self._keys
        usable = self._keys is not None and now - self._fetched_at < self._times.ttl + self._times.stale
        await self._refresh(now, self._times.patience if usable else None)
        if self._keys is None or now - self._fetched_at >= self._times.ttl + self._times.stale:
            raise Unavailable(Reason.IDENTITY_UNAVAILABLE, "the identity issuer's keys cannot be had")
        return self._keys

    async def newer(self, now: float) -> KeySet | None:
        """For a key id that is unknown: whoever sends such ids makes us ask once in `refetch`, no more."""
        if self._fetched_at >= now:
            return self._keys
        before = self._looks
        await self._refresh(now, None)
        return self._keys if self._looks > before else None

    def close(self) -> None:
        """Ends a look that runs."""
        if self._look is not None:
            self._look.cancel()
        self._fetch.close()

    async def _refresh(self, now: float, patience: float | None) -> None:
        """Join the one look that runs, or begin one where the last is long enough ago."""
        if self._look is None or self._look.done():
            if now - self._tried_at < self._times.refetch:
                return
            self._tried_at = now
            self._look = asyncio.create_task(self._load(now), name="identity keys")
        # A caller that goes away must not end the look for the others.
        await asyncio.wait({self._look}, timeout=patience)

    async def _load(self, now: float) -> None:
        """What fails leaves the keys as they are: whether they still hold is for `keys` to say."""
        try:
            document = await self._fetch.get(self._jwks_url or await self._discover())
            if document != self._document:
                self._keys = _usable(document, self._algorithms)
                self._document = document
        except (Unavailable, ValueError) as error:
            self._warn(f"keys of the issuer {self._issuer}: {error}")
            return
        self._fetched_at = now
        self._looks += 1

    async def _discover(self) -> str:
        document = parse_claims(await self._fetch.get(self._issuer.rstrip("/") + _DISCOVERY))
        url = document.get("jwks_uri")
        if document.get("issuer") != self._issuer or not isinstance(url, str):
            raise JoseError("the discovery document is another issuer's")
        if https_host(url) not in {https_host(self._issuer), *self._hosts}:
            raise JoseError("the discovery document points to another host")
        return url


def _usable(data: bytes, algorithms: frozenset[str]) -> KeySet:
    keys = parse_jwks(data, algorithms, limit=MAX_DOCUMENT)
    if not keys.keys:
        raise JwksError("the JWK Set has no key for the configured algorithms")
    return keys

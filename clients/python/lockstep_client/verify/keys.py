"""The issuer's public keys, from its JWKS over HTTPS or from a file: who has a known key never waits for them."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt

from lockstep_client.clock import Clock
from lockstep_client.errors import Unavailable
from lockstep_client.verify.https import TIMEOUT, Https, check
from lockstep_client.verify.jose import ALGORITHMS, refuse

log = logging.getLogger("lockstep")

LIFESPAN = 300.0
"""Seconds after which keys are read again; they are good for twice as long where that fails."""
PAUSE = 5.0
"""Least seconds between two tries, successful or not: tokens with made-up key ids must not hammer the issuer."""
MOST_WAITING = 16
"""Callers that may wait for a key that is not known while others are."""


class Keys:
    """Public keys by id. Thread-safe. `source` is an https URL or a path."""

    def __init__(self, source: str | os.PathLike[str], https: Https, clock: Clock) -> None:
        """Reads nothing yet. Raises `ConfigurationError` for a URL that is not https."""
        self._source = os.fspath(source)
        if "://" in self._source:
            check(self._source)
        self._https = https
        self._clock = clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._failure = ""
        self._reading = threading.Lock()
        self._seats = threading.BoundedSemaphore(MOST_WAITING)

    def get(self, kid: str, algorithm: str) -> Any:
        """The key of an id for an algorithm. Raises `Denied` for an unknown one, `Unavailable`.

        A known key is given at once; keys that are old are read beside it. Who
        brings an unknown id waits for at most one reading.
        """
        if not self._good(kid):
            self._wait_for(kid)
        elif self._age() > LIFESPAN:
            self._read_beside()
        key = self._keys.get(kid) if self._good(kid) else None
        if key is None:
            if self._failure:
                raise Unavailable(self._failure)
            raise refuse("no key of that name")
        if key.algorithm_name != algorithm:
            raise refuse("another algorithm than the key's")
        return key.key

    def after_fork_in_child(self) -> None:
        """Whoever was reading them has stayed behind."""
        self._reading = threading.Lock()
        self._seats = threading.BoundedSemaphore(MOST_WAITING)
        self._tried_at = float("-inf")

    def _age(self) -> float:
        return self._clock.steady() - self._read_at

    def _good(self, kid: str) -> bool:
        return kid in self._keys and self._age() <= 2 * LIFESPAN

    def _rests(self) -> bool:
        return self._clock.steady() - self._tried_at <= PAUSE

    def _wait_for(self, kid: str) -> None:
        seats = self._seats if self._keys else None  # before the first reading, everybody has to wait
        if seats is not None and not seats.acquire(blocking=False):
            raise Unavailable("keys are being read", retry_after=1.0)
        try:
            if not self._reading.acquire(timeout=TIMEOUT):
                raise Unavailable("keys are being read", retry_after=1.0)
            try:
                if not self._good(kid) and not self._rests():
                    self._read()
            finally:
                self._reading.release()
        finally:
            if seats is not None:
                seats.release()

    def _read_beside(self) -> None:
        reading = self._reading
        if self._rests() or not reading.acquire(blocking=False):
            return

        def read() -> None:
            try:
                self._read()
            finally:
                reading.release()

        try:
            threading.Thread(target=read, name="lockstep-keys", daemon=True).start()
        except RuntimeError:  # the interpreter is going down
            reading.release()

    def _read(self) -> None:
        """One try, by whoever holds the lock."""
        self._tried_at = self._clock.steady()
        try:
            found = _key_set(self._document())
        except Unavailable as error:
            self._failure = error.message
            log.warning("the issuer's keys cannot be read: %s", error.message)
        else:
            self._keys, self._read_at, self._failure = found, self._tried_at, ""
        finally:
            # A try that took its time is no reason for the next one to begin at once.
            self._tried_at = self._clock.steady()

    def _document(self) -> Mapping[str, Any]:
        if "://" in self._source:
            return self._https.json(self._source)
        try:
            document = json.loads(Path(self._source).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise Unavailable(f"jwks: {self._source}: {error}") from None
        if not isinstance(document, dict):
            raise Unavailable(f"jwks: {self._source} has no object")
        return document


def _key_set(document: Mapping[str, Any]) -> Mapping[str, jwt.PyJWK]:
    """Keys that we would take a signature of; others are passed over (RFC 7517 section 5)."""
    items = document.get("keys")
    if not isinstance(items, list):
        raise Unavailable("jwks: no list of keys")
    found: dict[str, jwt.PyJWK] = {}
    twice: set[str] = set()
    for item in items:
        if not isinstance(item, dict) or item.get("use", "sig") != "sig" or "d" in item:
            continue
        kid = item.get("kid")
        if not isinstance(kid, str) or not kid:
            continue
        try:
            key = jwt.PyJWK.from_dict(item)
        except Exception:  # noqa: BLE001, S112 - a door: what a parser of foreign bytes raises is not written down
            continue
        if key.algorithm_name not in ALGORITHMS:
            continue
        if kid in found:
            twice.add(kid)
        found[kid] = key
    for kid in twice:
        del found[kid]
    return found

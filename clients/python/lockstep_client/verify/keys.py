"""The issuer's public keys, from its JWKS over HTTPS or from a file; and the one way out over HTTP."""

from __future__ import annotations

import json
import os
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import jwt

from lockstep.formats import Reason
from lockstep_client.clock import Clock
from lockstep_client.errors import ConfigurationError, Denied, Unavailable
from lockstep_client.verify.jose import ALGORITHMS, refuse

TIMEOUT = 5.0
"""Seconds that one request may take."""
LIFESPAN = 300.0
"""Seconds after which keys are read again."""
PAUSE = 5.0
"""Least seconds between two reads: tokens with made-up key ids must not hammer the issuer."""
_MOST_BYTES = 1 << 20


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A redirect leads where nobody configured: it is an error."""
        return


class Https:
    """Requests to one configured place: HTTPS only, pinned authority, no proxy, no redirect, bounded."""

    def __init__(self, ca_file: str) -> None:
        context = ssl.create_default_context(cafile=ca_file or None)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), _NoRedirect(), urllib.request.HTTPSHandler(context=context)
        )

    def json(self, url: str, form: Mapping[str, str] | None = None, bearer: str = "") -> Mapping[str, Any]:
        """GET, or POST of a form. Raises `Denied` on 401 and 403, `Unavailable` on everything else that fails."""
        if urllib.parse.urlsplit(url).scheme != "https":
            raise ConfigurationError(f"{url}: only https is asked")
        data = None if form is None else urllib.parse.urlencode(form).encode("ascii")
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {bearer}"} if bearer else {})
        request = urllib.request.Request(url, data, headers)  # noqa: S310 - the scheme was checked
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                body = json.loads(answer.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403):
                raise Denied(f"{url} refuses us: {error.code}", reason=Reason.NO_IDENTITY) from None
            raise Unavailable(f"{url} answers {error.code}") from None
        except (OSError, HTTPException, ValueError):
            raise Unavailable(f"{url} does not answer") from None
        if not isinstance(body, dict):
            raise Unavailable(f"{url} answers no object")
        return body


class Keys:
    """Public keys by id. Thread-safe. `source` is an https URL or a path."""

    def __init__(self, source: str | os.PathLike[str], https: Https, clock: Clock) -> None:
        self._source = os.fspath(source)
        self._https = https
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._read_at = float("-inf")

    def get(self, kid: str, algorithm: str) -> Any:
        """The key of an id for an algorithm. Raises `Denied` for an unknown one, `Unavailable`."""
        age = self._clock.steady() - self._read_at
        if age > LIFESPAN or (kid not in self._keys and age > PAUSE):
            self._refresh(age)
        key = self._keys.get(kid)
        if key is None:
            raise refuse("no key of that name")
        if key.algorithm_name != algorithm:
            raise refuse("another algorithm than the key's")
        return key.key

    def _refresh(self, age: float) -> None:
        with self._lock:
            if self._clock.steady() - self._read_at < min(age, PAUSE):
                return  # another thread was quicker
            try:
                found = _key_set(self._document())
            except Unavailable:
                if not self._keys:
                    raise
                # Known keys go on for one more lifespan at most; new ones wait.
                if age > 2 * LIFESPAN:
                    raise
                return
            self._keys, self._read_at = found, self._clock.steady()

    def _document(self) -> Mapping[str, Any]:
        if "://" in self._source:
            return self._https.json(self._source)
        try:
            document = json.loads(Path(self._source).read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"jwks: {self._source}: {error}") from None
        if not isinstance(document, dict):
            raise ConfigurationError(f"jwks: {self._source} has no object")
        return document


def _key_set(document: Mapping[str, Any]) -> Mapping[str, jwt.PyJWK]:
    """Keys that we would take a signature of; others are passed over (RFC 7517 section 5)."""
    found: dict[str, jwt.PyJWK] = {}
    twice: set[str] = set()
    for item in document.get("keys", ()):
        if not isinstance(item, dict) or item.get("use", "sig") != "sig" or "d" in item:
            continue
        try:
            key = jwt.PyJWK.from_dict(item)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if key.algorithm_name not in ALGORITHMS or not key.key_id:
            continue
        if key.key_id in found:
            twice.add(key.key_id)
        found[key.key_id] = key
    for kid in twice:
        del found[kid]
    return found

"""The one way out over HTTP: to one configured place, within one time, and back with one JSON object."""

from __future__ import annotations

import json
import math
import socket
import ssl
import time
import urllib.parse
from collections.abc import Mapping
from http.client import HTTPException, HTTPSConnection
from typing import Any

from lockstep_client.errors import ConfigurationError, Unavailable

TIMEOUT = 5.0
"""Seconds that one exchange may take, from the first address to the last byte, however they are spread."""
_MOST_BYTES = 1 << 20


class Https:
    """Requests over HTTPS only: pinned authority, no proxy, no redirect, bounded in time and size. Thread-safe."""

    def __init__(self, ca_file: str) -> None:
        """`ca_file` is PEM; empty means the system's roots. Raises `ConfigurationError`."""
        try:
            self._context = ssl.create_default_context(cafile=ca_file or None)
        except OSError as error:
            raise ConfigurationError(
                f"LOCKSTEP_CA_FILE: {ca_file}: {error.strerror or 'no certificate'}",
                setting="LOCKSTEP_CA_FILE",
            ) from None
        self._context.sslsocket_class = _Timed

    def json(
        self, url: str, form: Mapping[str, str] | None = None, bearer: str = "", within: float = TIMEOUT
    ) -> Mapping[str, Any]:
        """GET, or POST of a form; at most `within` seconds, but for what the system takes to resolve a name.

        Raises `Unavailable` for every failure: that the other side does not want
        *us* says nothing about what was asked.
        """
        check(url)
        parts = urllib.parse.urlsplit(url)
        headers = {"Accept": "application/json"}
        body = None
        if form is not None:
            body = urllib.parse.urlencode(form)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        try:
            connection = _Connection(
                parts.hostname or "", parts.port, self._context, time.monotonic() + within
            )
            try:
                connection.request("GET" if form is None else "POST", target, body, headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    why = "refuses us" if answer.status in (401, 403) else "answers"
                    raise Unavailable(f"{url} {why}: {answer.status}")
                found = json.loads(answer.read(_MOST_BYTES))
            finally:
                connection.close()
        except (OSError, HTTPException, ValueError, RecursionError):
            raise Unavailable(f"{url} does not answer") from None
        if not isinstance(found, dict):
            raise Unavailable(f"{url} answers no object")
        return found


def check(url: str) -> None:
    """Raises `ConfigurationError` for what is no ``https`` URL."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(f"{url}: only https is asked")


class _Timed(ssl.SSLSocket):
    """Gives each operation what is left of the time of all: a timeout alone starts anew with every byte."""

    ends = math.inf

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        self.settimeout(_left(self.ends))
        return super().recv_into(*arguments, **named)

    def send(self, *arguments: Any, **named: Any) -> int:
        self.settimeout(_left(self.ends))
        return super().send(*arguments, **named)


class _Connection(HTTPSConnection):
    def __init__(self, host: str, port: int | None, context: ssl.SSLContext, ends: float) -> None:
        super().__init__(host, port, context=context)
        self._tls = context
        self._ends = ends

    def connect(self) -> None:
        raw = _connected(self.host, self.port, self._ends)
        raw.settimeout(_left(self._ends))
        wrapped = self._tls.wrap_socket(raw, server_hostname=self.host)
        assert isinstance(wrapped, _Timed)  # noqa: S101 - the context makes no other
        wrapped.ends = self._ends
        self.sock = wrapped


def _connected(host: str, port: int, ends: float) -> socket.socket:
    """One address after the other, all within the same time."""
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        found = socket.socket(family, kind, protocol)
        try:
            found.settimeout(_left(ends))
            found.connect(address)
        except OSError as error:
            failure = error
            found.close()
        else:
            return found
    raise failure


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("the exchange took too long")
    return left

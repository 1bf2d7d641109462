"""HttpsFetch: small documents from named hosts over verified TLS, and nothing else that HTTP clients like to do."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from broker.errors import Unavailable
from lockstep.formats import Reason

MAX_DOCUMENT: Final = 256 * 1024
"""Bytes of a discovery document or key set."""

_CHUNK: Final = 16 * 1024


class Fetch(Protocol):
    """Where documents come from."""

    async def get(self, url: str) -> bytes:
        """The document; raises `Unavailable` (identity_unavailable)."""

    def close(self) -> None:
        """Fetch nothing more."""


class HttpsFetch:
    """GET over https, in one thread of its own.

    No redirect, no retry, no proxy, cookie or credential of the environment, no
    compression; bounded in size and time as a whole. Raises `Unavailable`
    (identity_unavailable), which says the host and never the content.
    """

    def __init__(
        self,
        ca_file: str | os.PathLike[str] | None = None,
        *,
        timeout: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ca_file` (PEM) replaces the system's authorities; `timeout` in seconds is for the whole exchange.

        Raises ``ValueError`` where `ca_file` cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=None if ca_file is None else os.fspath(ca_file))
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"{ca_file}: not a PEM file of certificate authorities ({error})") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._timeout = timeout
        self._monotonic = monotonic
        self._pools = urllib3.PoolManager(num_pools=2, maxsize=1, retries=False, ssl_context=context)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="identity-fetch")

    async def get(self, url: str) -> bytes:
        """The body of a 200 answer, at most `MAX_DOCUMENT` bytes."""
        host = https_host(url)
        loop = asyncio.get_running_loop()
        try:
            # The thread keeps its own deadline; this one is for a thread that is stuck in name resolution.
            return await asyncio.wait_for(
                loop.run_in_executor(self._thread, self._get, url), self._timeout * 2
            )
        except TimeoutError:
            raise _unavailable(host, "no answer in time") from None
        except RuntimeError:
            raise _unavailable(host, "the broker is closing") from None

    def close(self) -> None:
        """Fetch nothing more; a fetch that runs ends by its own deadline."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._pools.clear()

    def _get(self, url: str) -> bytes:
        host = https_host(url)
        deadline = self._monotonic() + self._timeout
        try:
            response = self._pools.request(
                "GET",
                url,
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                timeout=urllib3.Timeout(total=self._timeout),
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                if response.status != 200:
                    raise _unavailable(host, f"status {response.status}")
                return self._read(response, host, deadline)
            finally:
                # Never back into the pool: what was left unread would be the next answer's beginning.
                response.close()
        except (HTTPError, OSError, ValueError) as error:
            raise _unavailable(host, type(error).__name__) from None

    def _read(self, response: urllib3.BaseHTTPResponse, host: str, deadline: float) -> bytes:
        body = bytearray()
        while chunk := response.read1(_CHUNK):
            body += chunk
            if len(body) > MAX_DOCUMENT:
                raise _unavailable(host, f"more than {MAX_DOCUMENT} bytes")
            # A socket's time-out starts anew with every byte: this one does not.
            if self._monotonic() > deadline:
                raise _unavailable(host, "no whole answer in time")
        return bytes(body)


def https_host(url: str) -> str:
    """Host and port of an https URL without credentials or fragment; raises ``ValueError`` for any other."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError("not an https URL of a plain host")
    return f"{parts.hostname}:{parts.port or 443}"


def _unavailable(host: str, why: str) -> Unavailable:
    return Unavailable(
        Reason.IDENTITY_UNAVAILABLE, f"the identity issuer's keys cannot be had from {host}: {why}"
    )

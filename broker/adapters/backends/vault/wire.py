"""The one place that knows hvac: exchanges on worker threads, each with sessions of its own; nothing is judged."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import requests
import urllib3
from hvac.adapters import RawAdapter

_CONNECT: Final = 5.0
_WAITING: Final = 1024


class Lane(enum.Enum):
    """Sets of workers of their own: taking back never waits behind issuing, and stopping an instance never behind
    targets that are slow to drop what is taken back."""

    GIVE = "give"
    TAKE = "take"
    STOP = "stop"


class NotSent(Exception):
    """The server cannot have heard of it: not connected, or no worker was free in time."""


class Lost(Exception):
    """Sent, and no answer: it may have been done."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `token` empty sends none; `certificate` is (file, key file) of a TLS client."""

    method: str
    path: str
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    token: str = field(default="", repr=False)
    lane: Lane = Lane.TAKE
    certificate: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said; {} where it was no JSON object."""

    status: int
    body: Mapping[str, Any] = field(repr=False)
    location: str = ""
    retry_after: float | None = None

    @property
    def ok(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300

    @property
    def data(self) -> Mapping[str, Any]:
        """The ``data`` of the answer."""
        return _mapping(self.body.get("data"))

    @property
    def auth(self) -> Mapping[str, Any]:
        """The ``auth`` of the answer."""
        return _mapping(self.body.get("auth"))

    def says(self, text: str) -> bool:
        """True where an error of the answer has a text in it."""
        errors = self.body.get("errors")
        return isinstance(errors, list) and any(text in str(error) for error in errors)


class Wire:
    """Bounded workers over hvac's adapters. Proxies, netrc and the environment are not asked."""

    def __init__(self, *, namespace: str, ca_file: Path | None, connections: int) -> None:
        """`connections` bounds calls under way in each lane."""
        self._namespace = namespace
        self._verify: str | bool = str(ca_file) if ca_file is not None else True
        self._lanes = {
            lane: ThreadPoolExecutor(connections, thread_name_prefix=f"vault-{lane.value}") for lane in Lane
        }
        self._waiting = dict.fromkeys(Lane, 0)
        self._under_way: set[asyncio.Future[Answer]] = set()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._sessions: list[requests.Session] = []

    async def exchange(self, address: str, call: Call, timeout: float) -> Answer:
        """Send it to a node; at most `timeout` seconds. Raises `NotSent` or `Lost`."""
        if self._waiting[call.lane] >= _WAITING:
            raise NotSent("too many calls wait")
        self._waiting[call.lane] += 1
        future: Future[Answer] | None = None
        try:
            async with asyncio.timeout(timeout):
                future = self._submit(address, call, timeout)
                waited = asyncio.wrap_future(future)
                self._under_way.add(waited)
                waited.add_done_callback(self._under_way.discard)
                return await waited
        except TimeoutError:
            # One that no worker has begun never will be.
            if future is None or future.cancelled() or future.cancel():
                raise NotSent("no worker was free") from None
            raise Lost("no answer in time") from None
        finally:
            self._waiting[call.lane] -= 1

    def _submit(self, address: str, call: Call, timeout: float) -> Future[Answer]:
        try:
            return self._lanes[call.lane].submit(self._send, address, call, timeout)
        except RuntimeError:
            raise NotSent("closed") from None

    async def settled(self, patience: float) -> None:
        """Wait until what is under way was answered, for at most `patience` seconds."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=patience)

    def close(self) -> None:
        """Begin nothing more; what is under way ends by its own time-out."""
        for executor in self._lanes.values():
            executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            sessions, self._sessions = self._sessions, []
        for session in sessions:
            session.close()

    # --- on a worker --------------------------------------------------------------------------------

    def _send(self, address: str, call: Call, timeout: float) -> Answer:
        with contextlib.ExitStack() as stack:
            if call.certificate is None:
                session = self._session()
            else:
                # A connection that was opened without the certificate must not carry this.
                session = stack.enter_context(self._fresh())
                session.cert = call.certificate
            # Whichever header a call needs is its own: an adapter with a token would share it.
            adapter = RawAdapter(
                base_uri=address,
                session=session,
                namespace=self._namespace or None,
                allow_redirects=False,
                ignore_exceptions=True,
                timeout=(min(_CONNECT, timeout), timeout),
            )
            headers = {"X-Vault-Token": call.token} if call.token else {}
            # Health is the node's, whatever the namespace.
            if call.path.startswith("sys/health"):
                adapter.namespace = None
            body = None if call.body is None else dict(call.body)
            try:
                response = adapter.request(call.method, f"/v1/{call.path}", headers=headers, json=body)
                return _answer(response)
            except requests.exceptions.ConnectTimeout:
                raise NotSent("cannot be reached") from None
            except requests.exceptions.ConnectionError as error:
                if _never_connected(error):
                    raise NotSent("cannot be reached") from None
                raise Lost("the connection broke") from None
            except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError):
                raise Lost("the connection broke") from None
            except OSError:
                raise NotSent("the CA or certificate file cannot be read") from None

    def _session(self) -> requests.Session:
        known: requests.Session | None = getattr(self._local, "session", None)
        if known is None:
            known = self._local.session = self._fresh()
            with self._lock:
                self._sessions.append(known)
        return known

    def _fresh(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.verify = self._verify
        return session


def _never_connected(error: requests.exceptions.ConnectionError) -> bool:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return True
    # A certificate that does not hold ends the handshake, before any request.
    return isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(reason)


def _answer(response: requests.Response) -> Answer:
    try:
        content = response.json() if response.content else {}
    except ValueError:
        content = {}
    after = response.headers.get("Retry-After", "")
    return Answer(
        response.status_code,
        _mapping(content),
        location=response.headers.get("Location", ""),
        retry_after=float(after) if after.isascii() and after.isdigit() else None,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

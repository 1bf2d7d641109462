"""As much of a Kubernetes API server as the kubernetes engine needs: accounts, role bindings, token requests."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.https_stub import Asked, Said

SHORTEST = 600
"""Seconds: the API server makes no token that lives shorter."""


class Cluster:
    """`accounts` and `bindings` are what is there, as ``NAMESPACE/NAME``; `token` is the engine's own."""

    def __init__(self) -> None:
        self.token = "engine"
        self.accounts: set[str] = {"pay/found"}
        self.bindings: set[str] = set()
        self.broken = False
        """True while deleting fails."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._lock = threading.Lock()

    def takes(self, token: str) -> bool:
        """Whether somebody gets in with a token: signed here, in time, of an account that is there."""
        claims = jwt.decode(
            token, self._key.public_key(), algorithms=["ES256"], options={"verify_aud": False}
        )
        _, _, namespace, name = claims["sub"].split(":")
        return f"{namespace}/{name}" in self.accounts

    # --- tests.support.https_stub.Play --------------------------------------------------------------

    def answer(self, asked: Asked) -> Said:
        if asked.headers.get("Authorization") != f"Bearer {self.token}":
            return _failure(401, "Unauthorized")
        with self._lock:
            match asked.method, asked.path:
                case "POST", ("api", "v1", "namespaces", space, "serviceaccounts", name, "token"):
                    return self._token(space, name, asked)
                case "POST", ("api", "v1", "namespaces", space, "serviceaccounts"):
                    return _made(self.accounts, space, asked)
                case "DELETE", ("api", "v1", "namespaces", space, "serviceaccounts", name):
                    return self._deleted(self.accounts, f"{space}/{name}")
                case "POST", ("apis", "rbac.authorization.k8s.io", "v1", "namespaces", space, "rolebindings"):
                    return _made(self.bindings, space, asked)
                case "DELETE", (
                    "apis",
                    "rbac.authorization.k8s.io",
                    "v1",
                    "namespaces",
                    space,
                    "rolebindings",
                    name,
                ):
                    return self._deleted(self.bindings, f"{space}/{name}")
        return _failure(404, "the server could not find the requested resource")

    def _token(self, space: str, name: str, asked: Asked) -> Said:
        if f"{space}/{name}" not in self.accounts:
            return _failure(404, f'serviceaccounts "{name}" not found')
        # TokenRequest.spec.expirationSeconds
        seconds = int(_at(_sent(asked), 2, 4) or 3600)
        if seconds < SHORTEST:
            return _failure(422, "may not specify a duration less than 10 minutes")
        now = int(time.time())
        claims = {"sub": f"system:serviceaccount:{space}:{name}", "iat": now, "exp": now + seconds}
        ends = datetime.fromtimestamp(now + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        token = jwt.encode(claims, self._key, "ES256")
        status = {"token": token, "expirationTimestamp": ends}
        return Said(201, {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "status": status})

    def _deleted(self, kind: set[str], name: str) -> Said:
        if self.broken:
            return _failure(500, "etcdserver: request timed out")
        if name not in kind:
            return _failure(404, f'"{name}" not found')
        kind.discard(name)
        return Said(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})


def _made(kind: set[str], space: str, asked: Asked) -> Said:
    # metadata.name
    name = _at(_sent(asked), 1, 1).decode()
    kind.add(f"{space}/{name}")
    return Said(201, {"metadata": {"name": name, "namespace": space, "uid": "u-1"}})


def _sent(asked: Asked) -> bytes:
    """The object of a request: clients send protobuf, in an envelope, and take JSON."""
    assert asked.headers["Content-Type"] == "application/vnd.kubernetes.protobuf"
    magic = b"k8s\x00"
    assert asked.body.startswith(magic)
    raw: bytes = _at(asked.body.removeprefix(magic), 2)
    return raw


def _at(message: bytes, *path: int) -> Any:
    """A field of a field of a protobuf message: bytes, or a number; empty where it is not there."""
    found: Any = message
    for number in path:
        found = _fields(found).get(number, b"")
    return found


def _fields(message: bytes) -> dict[int, Any]:
    found: dict[int, Any] = {}
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            found[key >> 3], at = _varint(message, at)
        else:
            assert key & 7 == 2, "nothing else is sent here"
            length, at = _varint(message, at)
            found[key >> 3], at = message[at : at + length], at + length
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _failure(code: int, message: str) -> Said:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return Said(code, status)

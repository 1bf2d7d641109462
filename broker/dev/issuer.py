"""An identity issuer for one laptop: short-lived JWTs in files, written anew while the broker runs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from broker.crypto.jwk import public_jwk, thumbprint
from broker.dev.files import replace_file
from broker.ports import Clock
from lockstep.formats import b64url, canonical_json

ISSUER: Final = "https://identity.lockstep.invalid"
AUDIENCE: Final = "lockstep-dev-identity"
LIFETIME: Final = 900.0
"""Seconds that a token lives."""
REFRESH: Final = 240.0
"""Seconds between two writings."""


class TokenFiles:
    """The issuer's key, and the files that it keeps fresh: subject → path."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, files: Mapping[str, Path], clock: Clock) -> None:
        self._key = key
        self._kid = b64url(thumbprint(key.public_key()))
        self._files = dict(files)
        self._clock = clock

    def __repr__(self) -> str:
        return f"TokenFiles(kid={self._kid!r}, subjects={sorted(self._files)!r})"

    def jwks(self) -> bytes:
        """The public key (RFC 7517 section 5), JSON."""
        key = {**public_jwk(self._key.public_key()), "kid": self._kid, "alg": "ES256", "use": "sig"}
        return canonical_json({"keys": [key]})

    def token(self, subject: str, now: float) -> str:
        """A JWT that says who its bearer is."""
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "aud": AUDIENCE,
            "iat": int(now),
            "nbf": int(now) - 5,
            "exp": int(now + LIFETIME),
            "jti": secrets.token_urlsafe(16),
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._kid})

    def write(self) -> None:
        """Write every file, each replaced whole, mode 0600."""
        now = self._clock.now()
        for subject, path in self._files.items():
            replace_file(path, self.token(subject, now).encode(), mode=0o600)

    async def keep_fresh(self, stop: asyncio.Event) -> None:
        """Write the files every `REFRESH` seconds until `stop`; a laptop that slept has them within seconds."""
        written = self._clock.monotonic()
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), timeout=5.0)
            except TimeoutError:
                if self._clock.monotonic() - written >= REFRESH:
                    self.write()
                    written = self._clock.monotonic()

"""The pure part: what a credential token must say (RFC 9068 section 4), and what is learnt from it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lockstep.formats import CREDENTIAL_TYPE, Reason, b64url_decode
from lockstep_client.verify.jose import claims_of, header_of, number, refuse, text

LEEWAY = 5.0
"""Seconds that the issuer's clock may be ahead; ``exp`` gets none."""
_WHY = Reason.IDENTITY_REJECTED


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that holds: who, for what role, with what code, until when."""

    subject: str
    audience: str
    role: str
    mode: str
    assurance: str
    attestation: str
    lease: str
    token_id: str
    scope: frozenset[str]
    manifests: tuple[str, ...]
    expires_at: dt.datetime
    as_of: int
    key_thumbprint: bytes = b""
    """RFC 7638 thumbprint that the token is bound to, empty for a bearer token."""
    node: str = ""
    pod: str = ""
    container: str = ""
    issued_at: dt.datetime | None = None
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def selectors(self) -> Iterator[tuple[str, str | bytes]]:
        """Everything that a revocation could name this token by, as the wire names targets."""
        yield "attestation_id", self.attestation
        yield "lease_id", self.lease
        yield "token_id", self.token_id
        yield "identity", self.subject
        for manifest in self.manifests:
            yield "manifest", bytes.fromhex(manifest)
        for name, value in (("node", self.node), ("pod_uid", self.pod), ("container_id", self.container)):
            if value:
                yield name, value
        if self.key_thumbprint:
            yield "instance_key", self.key_thumbprint


def key_id(token: str) -> tuple[str, str]:
    """(kid, algorithm) of a token that has our type; nothing is verified yet. Raises `Denied`."""
    header = header_of(token, CREDENTIAL_TYPE, _WHY)
    kid = header.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= 256:
        raise refuse("the token names no key")
    return kid, header["alg"]


def read(token: str, key: Any, algorithm: str, *, issuer: str, audience: str, now: float) -> Verified:
    """Verify and read. Raises `Denied` (identity_rejected).

    1. signature, 2. issuer, 3. exactly one audience, 4. times, 5. subject and id, 6. our own facts.
    """
    claims = claims_of(token, key, algorithm, _WHY)
    if text(claims, "iss", _WHY) != issuer:
        raise refuse("another issuer")
    said = claims.get("aud")
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not isinstance(said, str) or said != audience:
        raise refuse("not for this audience")
    expires = _check_times(claims, now)
    subject, token_id = text(claims, "sub", _WHY), text(claims, "jti", _WHY)
    facts = claims.get("lockstep")
    if not isinstance(facts, dict):
        raise refuse("no facts of Lockstep")
    as_of, manifests = facts.get("as_of"), facts.get("manifests")
    if isinstance(as_of, bool) or not isinstance(as_of, int) or as_of < 0:
        raise refuse("as_of is missing or malformed")
    scope = claims.get("scope", "")
    return Verified(
        subject=subject,
        audience=audience,
        role=text(facts, "role", _WHY),
        mode=text(facts, "mode", _WHY),
        assurance=text(facts, "assurance", _WHY),
        attestation=text(facts, "attestation", _WHY),
        lease=text(facts, "lease", _WHY),
        token_id=token_id,
        scope=frozenset(scope.split()) if isinstance(scope, str) else frozenset(),
        manifests=_digests(manifests),
        expires_at=dt.datetime.fromtimestamp(expires, dt.UTC),
        as_of=as_of,
        key_thumbprint=_thumbprint(claims),
        node=_optional(facts, "node"),
        pod=_optional(facts, "pod"),
        container=_optional(facts, "container"),
        issued_at=_issued(claims),
        claims=claims,
    )


def _check_times(claims: Mapping[str, Any], now: float) -> float:
    expires = number(claims, "exp", _WHY)
    if expires is None:
        raise refuse("exp is missing")
    if expires <= now:
        raise refuse("the token has expired")
    for name in ("nbf", "iat"):
        value = number(claims, name, _WHY)
        if value is not None and value > now + LEEWAY:
            raise refuse(f"{name} lies in the future")
    return expires


def _issued(claims: Mapping[str, Any]) -> dt.datetime | None:
    issued = number(claims, "iat", _WHY)
    return None if issued is None else dt.datetime.fromtimestamp(issued, dt.UTC)


def _thumbprint(claims: Mapping[str, Any]) -> bytes:
    """RFC 7800 section 3.1 with RFC 9449 section 6.1: a binding that cannot be read is no bearer token."""
    if "cnf" not in claims:
        return b""
    binding = claims["cnf"]
    try:
        thumbprint = b64url_decode(binding["jkt"])
    except (TypeError, KeyError, ValueError, AttributeError):
        raise refuse("cnf is malformed") from None
    if len(thumbprint) != 32:
        raise refuse("cnf is malformed")
    return thumbprint


def _digests(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise refuse("manifests are missing or malformed")
    for item in value:
        if not isinstance(item, str) or len(item) != 64 or not set(item) <= set("0123456789abcdef"):
            raise refuse("manifests are missing or malformed")
    return tuple(value)


def _optional(facts: Mapping[str, Any], name: str) -> str:
    return text(facts, name, _WHY) if name in facts else ""

"""Who a caller is: proofs as received, identities as verified, and how roles match them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from lockstep.formats import identity_name

# SPIFFE-ID section 2: a trust domain of lower-case letters, digits, dot, dash
# and underscore; path segments of letters, digits, dot, dash and underscore.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_MAX_SPIFFE_ID = 2048


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A workload's SPIFFE ID, strictly parsed (SPIFFE-ID sections 2.1 to 2.3)."""

    trust_domain: str
    path: str

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Raises ``ValueError`` on anything but ``spiffe://trust-domain/segment…``."""
        if len(text) > _MAX_SPIFFE_ID or not text.startswith("spiffe://"):
            raise ValueError("not a SPIFFE ID")
        domain, slash, path = text[len("spiffe://") :].partition("/")
        if not _TRUST_DOMAIN.fullmatch(domain):
            raise ValueError("not a SPIFFE trust domain")
        if not slash:
            raise ValueError("the SPIFFE ID of a trust domain is no workload")
        for segment in path.split("/"):
            if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
                raise ValueError("not a SPIFFE path")
        return cls(domain, "/" + path)

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


@dataclass(frozen=True, slots=True)
class JwtProof:
    """A bearer JWT as received; nothing in it is believed yet."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeerProof:
    """The client certificate of a connection, as the TLS layer handed it over.

    `leaf` and `chain` are PEM, leaf first; the TLS layer checked them against
    the union of all bundles at handshake, which is not enough.
    """

    leaf: bytes
    chain: tuple[bytes, ...] = ()


IdentityProof = JwtProof | PeerProof


@dataclass(frozen=True, slots=True)
class InstanceClaims:
    """What a verified identity says of the one instance that holds it; empty where it says nothing."""

    node: str = ""
    pod_uid: str = ""
    container_id: str = ""

    def any(self) -> bool:
        """True where two instances of the workload can be told apart."""
        return bool(self.pod_uid or self.container_id)


@dataclass(frozen=True, slots=True)
class WorkloadIdentity:
    """A verified identity.

    `provider` is the configuration's name of the identity source; `issuer` is
    None for a SPIFFE ID that was verified against its own trust domain;
    `not_after` (seconds since the epoch, UTC) is when the proof itself ends:
    nothing granted on it outlives it.
    """

    provider: str
    issuer: str | None
    subject: str
    not_after: float
    claims: Mapping[str, str] = field(default_factory=dict)
    instance: InstanceClaims = InstanceClaims()

    @property
    def name(self) -> str:
        """The canonical spelling: a SPIFFE ID, or ``issuer|subject``."""
        return identity_name(self.issuer, self.subject)


def matches_pattern(pattern: str, text: str) -> bool:
    """Whole-string match where ``*`` stands for one or more characters other than ``/``, ``**`` for any.

    Case, white space and look-alikes count: nothing is folded.
    """
    return _compiled(pattern).fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    # Patterns are the configuration's, and each is asked at every grant of its role.
    parts = re.split(r"(\*\*|\*)", pattern)
    regex = "".join(".+" if part == "**" else "[^/]+" if part == "*" else re.escape(part) for part in parts)
    return re.compile(regex, re.DOTALL)


@dataclass(frozen=True, slots=True)
class IdentityMatch:
    """Which verified identities a role, an operator or a verifier accepts.

    `provider` is required; `subject` or `spiffe_id` is a pattern of
    `matches_pattern`; `claims` are patterns on verified claims, all of which
    must be there.
    """

    provider: str
    subject: str = ""
    spiffe_id: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)

    def accepts(self, identity: WorkloadIdentity) -> bool:
        """True when every condition holds; an empty match accepts nobody."""
        if identity.provider != self.provider or not (self.subject or self.spiffe_id):
            return False
        if self.subject and not matches_pattern(self.subject, identity.subject):
            return False
        if self.spiffe_id and not (
            identity.issuer is None and matches_pattern(self.spiffe_id, identity.subject)
        ):
            return False
        return all(
            name in identity.claims and matches_pattern(pattern, identity.claims[name])
            for name, pattern in self.claims.items()
        )

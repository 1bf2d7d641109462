"""What came in at a door, before anybody has been believed, and what a room gets once somebody has."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Generic, TypeVar
from urllib.parse import unquote

from broker.errors import Unauthenticated
from broker.model.caller import Caller, ProofUse
from broker.model.identity import JwtProof, PeerProof
from lockstep.formats import AUTHORIZATION_METADATA, PROOF_METADATA, Reason

C = TypeVar("C", bound=Caller | None, covariant=True)

MAX_PROOF: Final = 4096
MAX_BEARER: Final = 16 * 1024
_MAX_CHAIN: Final = 8


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call as received: nothing in it is verified. `address` is what rates are counted by."""

    method: str
    address: str
    proof: str = field(default="", repr=False)
    bearer: JwtProof | None = field(default=None, repr=False)
    peer: PeerProof | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Call(Generic[C]):
    """One call whose caller has been verified; `now` (seconds, UTC) is the one now of the call."""

    method: str
    address: str
    now: float
    caller: C
    proof: ProofUse | None = None
    peer: PeerProof | None = field(default=None, repr=False)


def read_metadata(
    method: str, address: str, metadata: Iterable[tuple[str, str | bytes]], peer: PeerProof | None = None
) -> Arrival:
    """Raises `Unauthenticated` where a proof or a bearer token comes twice, oversize or is no text."""
    proofs: list[str | bytes] = []
    bearers: list[str | bytes] = []
    for name, value in metadata:
        if name == PROOF_METADATA:
            proofs.append(value)
        elif name == AUTHORIZATION_METADATA:
            bearers.append(value)
    proof = _one(proofs, MAX_PROOF, Reason.PROOF_REJECTED)
    bearer = bearer_of(_one(bearers, MAX_BEARER, Reason.NO_IDENTITY))
    return Arrival(method, rate_address(address), proof, bearer, peer)


def _one(values: list[str | bytes], limit: int, reason: Reason) -> str:
    if not values:
        return ""
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or len(value) > limit:
        raise Unauthenticated(reason, "credentials in the metadata are doubled or malformed")
    return value


def bearer_of(value: str) -> JwtProof | None:
    """The token of an ``Authorization`` value (RFC 6750 section 2.1); None where there is none."""
    if not value:
        return None
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token or not token.isascii() or not token.isprintable():
        raise Unauthenticated(Reason.NO_IDENTITY, "authorization is no bearer token")
    return JwtProof(token)


def peer_of(auth_context: Mapping[str, Iterable[bytes]]) -> PeerProof | None:
    """The client certificate of a connection, which only the `mtls` listener asks for."""
    leaf = next(iter(auth_context.get("x509_pem_cert", ())), b"")
    if not leaf:
        return None
    chain = next(iter(auth_context.get("x509_pem_cert_chain", ())), b"")
    end = b"-----END CERTIFICATE-----\n"
    links = [part + end for part in chain.split(end) if part.strip()]
    return PeerProof(leaf, tuple(links[: _MAX_CHAIN + 1]))


@lru_cache(maxsize=4096)
def rate_address(peer: str) -> str:
    """The address that rates are counted by: an IPv4 address, or the /64 of an IPv6 address.

    `peer` is as gRPC spells it (``ipv4:1.2.3.4:5``, ``ipv6:%5B::1%5D:5``) or a bare address.
    """
    text = unquote(peer)
    family, colon, rest = text.partition(":")
    if colon and family in ("ipv4", "ipv6"):
        text = rest.rpartition(":")[0].strip("[]")
    elif colon and family == "unix":
        return "unix"
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)

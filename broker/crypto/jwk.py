"""Public keys of JSON Web Keys: which key may verify which algorithm, decided before a token is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm
from jwt.exceptions import InvalidKeyError

from broker.model.manifest import strict_json
from lockstep.formats import b64url, jwk_thumbprint

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

ALGORITHMS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "ES256": ECAlgorithm(ECAlgorithm.SHA256, ec.SECP256R1),
        "ES384": ECAlgorithm(ECAlgorithm.SHA384, ec.SECP384R1),
        "ES512": ECAlgorithm(ECAlgorithm.SHA512, ec.SECP521R1),
        "EdDSA": OKPAlgorithm(),
        "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
        "RS384": RSAAlgorithm(RSAAlgorithm.SHA384),
        "RS512": RSAAlgorithm(RSAAlgorithm.SHA512),
        "PS256": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256),
        "PS384": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384),
        "PS512": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512),
    }
)
"""Everything that is ever verified: asymmetric only, so no public key can become an HMAC secret."""

MAX_KEYS: Final = 64
MAX_KID: Final = 512
_PARSERS: Final[Mapping[str, Callable[[dict[str, Any]], object]]] = MappingProxyType(
    {"EC": ECAlgorithm.from_jwk, "OKP": OKPAlgorithm.from_jwk, "RSA": RSAAlgorithm.from_jwk}
)
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_RSA_BITS: Final = range(2048, 8193)
_RSA_EXPONENT: Final = 65537


class JwksError(ValueError):
    """A key set that cannot be used at all."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key, its name, and the only algorithms that it may verify (RFC 8725 section 3.1)."""

    kid: str
    key: PublicKey
    algorithms: frozenset[str]

    def __post_init__(self) -> None:
        if not self.algorithms or not self.algorithms <= algorithms_of(self.key):
            raise JwksError("the key does not fit its algorithm")

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """True where `algorithm` is one of this key's and the signature holds."""
        if algorithm not in self.algorithms:
            return False
        return bool(ALGORITHMS[algorithm].verify(signing_input, self.key, signature))


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys by ``kid``. A ``kid`` that two keys bear names neither: `refused` has it."""

    keys: Mapping[str, VerificationKey] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()

    @classmethod
    def of(cls, keys: Iterable[VerificationKey], refused: Iterable[str] = ()) -> KeySet:
        """A set of some keys."""
        every = tuple(keys)
        twice = {kid for kid, count in Counter(key.kid for key in every).items() if count > 1}.union(refused)
        return cls({key.kid: key for key in every if key.kid not in twice}, frozenset(twice))


def algorithms_of(key: PublicKey) -> frozenset[str]:
    """The algorithms of a key's type, curve and size; empty for a key that is too weak or odd to be used."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return frozenset({"EdDSA"})
    if isinstance(key, ec.EllipticCurvePublicKey):
        name = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}.get(key.curve.name)
        return frozenset({name}) if name else frozenset()
    # Costly or tiny exponents and moduli are an attack on us or on the issuer; no issuer needs them.
    if key.key_size not in _RSA_BITS or key.public_numbers().e != _RSA_EXPONENT:
        return frozenset()
    return _RSA


def public_jwk(key: PublicKey) -> dict[str, str]:
    """The required public members of a key as a JWK (RFC 7518 section 6, RFC 8037 section 2)."""
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "e": _uint(numbers.e), "n": _uint(numbers.n)}
    if isinstance(key, ec.EllipticCurvePublicKey):
        return cast("dict[str, str]", ECAlgorithm.to_jwk(key, as_dict=True))
    return cast("dict[str, str]", OKPAlgorithm.to_jwk(key, as_dict=True))


def thumbprint(key: PublicKey) -> bytes:
    """RFC 7638 thumbprint, SHA-256, 32 bytes."""
    return jwk_thumbprint(public_jwk(key))


def parse_jwks(data: bytes, algorithms: frozenset[str], *, limit: int = 256 * 1024) -> KeySet:
    """The keys of a JWK Set (RFC 7517 section 5) that may verify one of `algorithms`.

    Keys for another use, of another type or too weak are left out; a ``kid``
    that occurs twice is refused with all its keys. Raises `JwksError` where the
    document is no key set, is larger than `limit` bytes or has too many keys.
    """
    try:
        document = strict_json(data, limit=limit)
    except ValueError:
        raise JwksError("not a JWK Set: not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise JwksError(f"not a JWK Set of at most {MAX_KEYS} keys")
    kids = Counter(entry["kid"] for entry in entries if isinstance(entry, dict) and _is_kid(entry.get("kid")))
    # Counted over all entries, also those that are left out: two keys of one name are a fault of the issuer.
    refused = {kid for kid, count in kids.items() if count > 1}
    found = [key for entry in entries if (key := _parse_jwk(entry, algorithms)) is not None]
    return KeySet.of((key for key in found if key.kid not in refused), refused)


def _parse_jwk(entry: object, allowed: frozenset[str]) -> VerificationKey | None:
    if not isinstance(entry, dict) or not _is_kid(entry.get("kid")) or "d" in entry or "k" in entry:
        return None
    if entry.get("use", "sig") not in ("sig", "jwt-svid"):  # jwt-svid: SPIFFE Trust Domain and Bundle 4.2.2
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    parser = _PARSERS.get(str(entry.get("kty")))
    if parser is None:
        return None
    try:
        key = parser(entry)
    # PyJWT and cryptography let the type of a bad member decide which of these it is.
    except (InvalidKeyError, ValueError, TypeError, AttributeError):
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        return None
    fitting = algorithms_of(key) & allowed
    if "alg" in entry:
        fitting &= {str(entry["alg"])}
    return VerificationKey(entry["kid"], key, fitting) if fitting else None


def _is_kid(kid: object) -> bool:
    return isinstance(kid, str) and 0 < len(kid) <= MAX_KID


def _uint(value: int) -> str:
    return b64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))

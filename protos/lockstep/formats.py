"""Canonical formats that broker, SDK and other languages must agree on to the byte.

Bytes that are hashed or signed are part of the wire, so they live beside the
``.proto`` files and are owned by neither side. Standard library only; the test
vectors are in ``tests/vectors/``.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

ERROR_DOMAIN: Final = "lockstep.v1"

# Call metadata (gRPC) -----------------------------------------------------------------------------
PROOF_METADATA: Final = "lockstep-proof"
"""Proof of possession of the instance key: a compact JWS, one a call."""
NONCE_METADATA: Final = "lockstep-nonce"
"""Trailer with the server's rolling nonce for the next proof."""
AUTHORIZATION_METADATA: Final = "authorization"
"""``Bearer <JWT>`` for callers that are not attested workloads."""

# Media and token types ----------------------------------------------------------------------------
PROOF_TYPE: Final = "lockstep-proof+jwt"
CREDENTIAL_TYPE: Final = "at+jwt"
GATE_TYPE: Final = "lockstep-gate+jwt"
"""RFC 9068 section 2.1."""
CHECKPOINT_TYPE: Final = "lockstep-audit+jwt"
"""A signed head of the audit log: claims `chain`, `count` and `hash`."""
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MANIFEST_PREDICATE_TYPE: Final = "https://lockstep.dev/code-manifest/v1"
MANIFEST_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
RECEIPT_PAYLOAD_TYPE: Final = "application/vnd.lockstep.receipt.v1+json"
INDEX_PAYLOAD_TYPE: Final = "application/vnd.lockstep.manifest-index.v1+json"

# Manifests ----------------------------------------------------------------------------------------
APPLICATION_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]{0,127}")
"""Plain ASCII and no white space: names are compared as they are, and must not look alike while they differ."""
MAX_MANIFEST_VERSION: Final = 2**53 - 1
"""The greatest version of a manifest, and of the index of a folder of them: what every JSON reader keeps whole."""

_EVIDENCE_CONTEXT: Final = b"lockstep-evidence-v1\x00"


class Reason(enum.StrEnum):
    """Every reason code on the wire (``google.rpc.ErrorInfo.reason`` is its upper-case form)."""

    OK = "ok"
    # who
    NO_IDENTITY = "no_identity"
    IDENTITY_REJECTED = "identity_rejected"
    PROOF_REJECTED = "proof_rejected"
    NOT_ENTITLED = "not_entitled"
    # what it runs
    CHALLENGE_REJECTED = "challenge_rejected"
    EVIDENCE_REJECTED = "evidence_rejected"
    APPRAISAL_FAILED = "appraisal_failed"
    NO_MANIFEST = "no_manifest"
    ASSURANCE_TOO_LOW = "assurance_too_low"
    # whether it still may
    ATTESTATION_EXPIRED = "attestation_expired"
    REVOKED = "revoked"
    BANNED = "banned"
    HELD = "held"
    LEASE_ENDED = "lease_ended"
    STALE_EVIDENCE = "stale_evidence"
    # the request itself
    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    # manifests
    MANIFEST_REJECTED = "manifest_rejected"
    SIGNATURE_REJECTED = "signature_rejected"
    ROLLBACK = "rollback"
    # detections
    DETECTION_REJECTED = "detection_rejected"
    # limits and weather
    RATE_LIMITED = "rate_limited"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    STATE_UNAVAILABLE = "state_unavailable"
    IDENTITY_UNAVAILABLE = "identity_unavailable"
    SENSOR_BLIND = "sensor_blind"
    DRAINING = "draining"
    INTERNAL = "internal"


class FindingReason(enum.StrEnum):
    """Why one unit failed its appraisal."""

    UNIT_NOT_APPROVED = "unit_not_approved"
    UNIT_MISSING = "unit_missing"
    UNKNOWN_CODE = "unknown_code"
    ANONYMOUS_CODE = "anonymous_code"
    DELETED_FILE = "deleted_file"
    GENERATED_CODE = "generated_code"
    DYNAMIC_LOAD = "dynamic_load"


class UnitKind(enum.StrEnum):
    """Kinds of code; the text is what canonical digests and manifests say."""

    EXECUTABLE = "executable"
    SHARED_OBJECT = "shared_object"
    PYTHON_SOURCE = "python_source"
    PYTHON_BYTECODE = "python_bytecode"
    PYTHON_ARCHIVE = "python_archive"
    PYTHON_PATH_FILE = "python_path_file"
    SCRIPT = "script"
    MODULE_JS = "module_js"
    MODEL = "model"
    DATA_CODE = "data_code"


def code_set_digest(units: Iterable[tuple[str, bytes]]) -> bytes:
    """The canonical digest of a code set.

    ``units`` are (kind, SHA-256) pairs in any order, duplicates allowed. SHA-256
    over the sorted, de-duplicated ASCII lines ``kind:hexdigest LF``; the empty
    set is the SHA-256 of nothing.
    """
    lines = sorted({f"{kind}:{digest.hex()}\n" for kind, digest in units})
    return hashlib.sha256("".join(lines).encode("ascii")).digest()


def evidence_signing_input(statement: bytes) -> bytes:
    """The bytes that the measurer's key signs: a context string, NUL, the statement."""
    return _EVIDENCE_CONTEXT + statement


def b64url(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """The inverse of :func:`b64url`; raises ``ValueError`` on padding, white space or junk."""
    if not text.isascii() or "=" in text:
        raise ValueError("not unpadded base64url")
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if b64url(data) != text:
        raise ValueError("not canonical base64url")
    return data


def jwk_thumbprint(jwk: Mapping[str, str]) -> bytes:
    """RFC 7638 thumbprint (SHA-256, 32 bytes) of an EC, OKP or RSA public key.

    Raises ``ValueError`` for another ``kty`` or a missing member.
    """
    required = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
    members = required.get(jwk.get("kty", ""))
    if members is None or any(name not in jwk for name in members):
        raise ValueError("not a public key that has a thumbprint here")
    canonical = {name: jwk[name] for name in members}
    return hashlib.sha256(canonical_json(canonical)).digest()


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys, no white space, UTF-8: for values of strings, integers, lists, objects."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def proof_claims(
    *, method: str, body: bytes, audience: str, jti: str, issued_at: int, nonce: str | None
) -> dict[str, str | int]:
    """Claims of a proof of possession (after RFC 9449, for gRPC).

    ``method`` is the full gRPC method (``/package.Service/Method``), ``body``
    the request message exactly as sent, ``audience`` the broker cluster's name,
    ``issued_at`` seconds since the epoch. ``nonce`` is the server's last rolling
    nonce, or None on the first call.
    """
    claims: dict[str, str | int] = {
        "htm": method,
        "dig": b64url(hashlib.sha256(body).digest()),
        "aud": audience,
        "iat": issued_at,
        "jti": jti,
    }
    if nonce is not None:
        claims["nonce"] = nonce
    return claims


def identity_name(issuer: str | None, subject: str) -> str:
    """The one spelling of an identity in selectors and messages.

    ``issuer`` is None only for a SPIFFE ID that was verified against its own
    trust domain: it stands alone. Every other identity is ``issuer|subject``,
    so that no OIDC subject can pass for a SPIFFE ID.
    """
    return subject if issuer is None else f"{issuer}|{subject}"


def unit_line(kind: str, digest: bytes) -> str:
    """``kind:hexdigest``, as canonical digests and messages spell a unit."""
    return f"{kind}:{digest.hex()}"


def audit_json(content: object) -> bytes:
    """Canonical JSON of the audit log, in ASCII: no text can break a line, or a terminal that shows it."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")


def audit_content_digest(content: object) -> str:
    """SHA-256 (hexadecimal) of what a line of the audit log says."""
    return hashlib.sha256(audit_json(content)).hexdigest()


def audit_line_hash(line: Mapping[str, object]) -> str:
    """SHA-256 (hexadecimal) of a line of the audit log without its hash.

    Where the line has the digest of its content, that stands for the content, so
    that a line whose content is withheld is still a link of the chain.
    """
    without = {"hash", "decision", "checkpoint"} if "digest" in line else {"hash"}
    return hashlib.sha256(audit_json({name: line[name] for name in line if name not in without})).hexdigest()


def audit_line_whole(line: Mapping[str, object]) -> bool:
    """True where a line's content is there and has its digest, and the line its hash."""
    if line.get("hash") != audit_line_hash(line):
        return False
    contents = [line[name] for name in ("decision", "checkpoint") if name in line]
    return len(contents) == 1 and line.get("digest", "") in ("", audit_content_digest(contents[0]))

"""Writes the canonical vectors: ``python -m tests.vectors.make``. Other languages read the JSON files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lockstep.formats import (
    b64url,
    canonical_json,
    code_set_digest,
    evidence_signing_input,
    jwk_thumbprint,
    proof_claims,
)

HERE = Path(__file__).parent


def _sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def code_sets() -> list[dict[str, Any]]:
    """Units in any order, duplicates among them, and the digest of the set."""
    cases = {
        "empty": [],
        "one": [("python_source", _sha("a"))],
        "order and duplicates do not count": [
            ("shared_object", _sha("b")),
            ("python_source", _sha("a")),
            ("shared_object", _sha("b")),
        ],
        "the kind counts": [("python_bytecode", _sha("a"))],
    }
    return [
        {
            "name": name,
            "units": [{"kind": kind, "digest": digest.hex()} for kind, digest in units],
            "code_set_digest": code_set_digest(units).hex(),
        }
        for name, units in cases.items()
    ]


def thumbprints() -> list[dict[str, Any]]:
    """RFC 7638 section 3.1 for RSA, RFC 8037 appendix A.3 for Ed25519."""
    rsa = {
        "kty": "RSA",
        "n": (
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n"
            "3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgd"
            "AZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur"
            "-kEgU8awapJzKnqDKgw"
        ),
        "e": "AQAB",
    }
    okp = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    return [{"jwk": jwk, "thumbprint": b64url(jwk_thumbprint(jwk))} for jwk in (rsa, okp)]


def proofs() -> list[dict[str, Any]]:
    """Claims of a proof of possession."""
    body = bytes.fromhex("0a03412d31")
    method = "/lockstep.v1.CredentialService/IssueCredential"
    return [
        {
            "method": method,
            "body": body.hex(),
            "claims": proof_claims(
                method=method, body=body, audience="lockstep", jti="x" * 22, issued_at=1790000000, nonce=nonce
            ),
        }
        for nonce in ("n", None)
    ]


def evidence() -> list[dict[str, Any]]:
    """What the measurer's key signs."""
    return [
        {"statement": text, "signing_input": evidence_signing_input(bytes.fromhex(text)).hex()}
        for text in ("", "0a00")
    ]


def canonical() -> list[dict[str, Any]]:
    """Canonical JSON, as receipts, log entries and manifests use it."""
    values: list[Any] = [{"b": 1, "a": [True, None, "ä\n"]}, [], "\u2028"]
    return [{"value": value, "bytes": canonical_json(value).hex()} for value in values]


VECTORS = {
    "code_set": code_sets,
    "thumbprint": thumbprints,
    "proof": proofs,
    "evidence": evidence,
    "canonical_json": canonical,
}


def main() -> None:
    """Write every file."""
    for name, build in VECTORS.items():
        text = json.dumps(build(), indent=2, ensure_ascii=True)
        (HERE / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

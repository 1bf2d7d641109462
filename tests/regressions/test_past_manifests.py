"""Flaws of systems like ours in signed lists of what may run; each named after where it was."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.crypto.dsse import DsseSealer, DsseVerifier
from broker.errors import Denied
from broker.model.manifest import ManifestError, parse_manifest
from lockstep.formats import MANIFEST_PAYLOAD_TYPE
from tests.support.manifests import payload, statement, unit


def test_cve_2026_23992_one_key_signs_twice() -> None:
    """A threshold counted signatures, not keys: one signer under two key ids met two of n."""
    key = ed25519.Ed25519PrivateKey.generate()
    envelope = json.loads(DsseSealer(key).seal(payload([unit("a")]), MANIFEST_PAYLOAD_TYPE))
    again = {**envelope["signatures"][0], "keyid": "another"}
    envelope["signatures"].append(again)
    envelope["signatures"].append(envelope["signatures"][0])
    _, names = DsseVerifier({"alice": key.public_key()}).verify(
        json.dumps(envelope).encode(), MANIFEST_PAYLOAD_TYPE
    )
    assert names == {"alice"}


def test_sigstore_python_1651_the_subjects_digest_is_compared() -> None:
    """A bundle's digest field was carried along and never compared with the content."""
    other = statement([unit("a")])
    other["subject"] = statement([unit("b")])["subject"]
    with pytest.raises(ManifestError, match="digest"):
        parse_manifest(json.dumps(other).encode())


def test_go_2026_5547_two_readers_of_one_document() -> None:
    """Two implementations took the same bytes differently: of doubled keys, one took the first, one the last."""
    text = payload([unit("a")]).decode()
    doubled = text.replace('"version": 1', '"version": 1, "version": 2')
    assert doubled != text
    with pytest.raises(ManifestError, match="duplicate"):
        parse_manifest(doubled.encode())


@pytest.mark.parametrize("name", ["Payments", " payments", "payments\u200b", "pa\u0443ments"])
def test_cve_2025_5999_names_are_not_folded(name: str) -> None:
    """A policy name was normalised on one side only: " Root" became root."""
    try:
        found = parse_manifest(payload([unit("a")], application=name)).application
    except ManifestError:
        return
    assert found == name
    assert found != "payments"


def test_keylime_40_a_bad_signature_is_no_remark() -> None:
    """CVE-2023-3674: a signature that did not hold was logged, and the content taken."""
    key, other = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    envelope = DsseSealer(other).seal(payload([unit("a")]), MANIFEST_PAYLOAD_TYPE)
    with pytest.raises(Denied):
        DsseVerifier({"alice": key.public_key()}).verify(envelope, MANIFEST_PAYLOAD_TYPE)

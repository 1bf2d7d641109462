"""Signatures: k of n, each key once, read by the broker as by the author."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from broker.crypto.dsse import DsseVerifier
from lockstep.formats import MANIFEST_PAYLOAD_TYPE, UnitKind
from lockstep_client.manifest import CodeManifest, ManifestError, ManifestUnit, signing

FIRST = ec.generate_private_key(ec.SECP256R1())
SECOND = ed25519.Ed25519PrivateKey.generate()
PAYLOAD = CodeManifest(
    "payments",
    1,
    (ManifestUnit(UnitKind.SCRIPT, b"\x01" * 32),),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2027, 1, 1, tzinfo=UTC),
).payload()


@pytest.mark.parametrize("key", [FIRST, SECOND], ids=["P-256", "Ed25519"])
def test_the_broker_takes_what_was_signed(key: signing.PrivateKey) -> None:
    envelope = signing.sign(PAYLOAD, key)
    verified = DsseVerifier({"me": key.public_key()}).verify(envelope, MANIFEST_PAYLOAD_TYPE)
    assert verified == (PAYLOAD, frozenset({"me"}))


def test_two_of_two() -> None:
    keys = [FIRST.public_key(), SECOND.public_key()]
    one = signing.sign(PAYLOAD, FIRST)
    with pytest.raises(ManifestError, match="1 of 2"):
        signing.verify(one, keys, 2)
    two = signing.add_signature(one, SECOND)
    payload, names = signing.verify(two, keys, 2)
    assert (payload, names) == (PAYLOAD, tuple(signing.key_id(key) for key in keys))


def test_one_key_counts_once() -> None:
    twice = signing.add_signature(signing.sign(PAYLOAD, FIRST), FIRST)
    with pytest.raises(ManifestError, match="1 of 2"):
        signing.verify(twice, [FIRST.public_key(), FIRST.public_key()], 2)


def test_another_payload_is_not_verified() -> None:
    envelope = json.loads(signing.sign(PAYLOAD, FIRST))
    envelope["payload"] = envelope["payload"][:-4] + "AAAA"
    with pytest.raises(ManifestError, match="0 of 1"):
        signing.verify(json.dumps(envelope).encode(), [FIRST.public_key()])


def test_a_threshold_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="verifies nothing"):
        signing.verify(signing.sign(PAYLOAD, FIRST), [FIRST.public_key()], 0)


@pytest.mark.parametrize("junk", [b"", b"{}", b"[]", b'{"payloadType": 1}', PAYLOAD])
def test_junk_is_no_envelope(junk: bytes) -> None:
    with pytest.raises(ManifestError):
        signing.read_envelope(junk)


def pem(
    key: signing.PrivateKey | rsa.RSAPrivateKey, encryption: serialization.KeySerializationEncryption
) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def test_a_key_that_others_can_read_is_refused_with_its_cure(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(pem(FIRST, serialization.NoEncryption()))
    path.chmod(0o640)
    with pytest.raises(ManifestError, match="chmod 600"):
        signing.load_signer(path)
    path.chmod(0o400)
    assert signing.key_id(signing.load_signer(path).public_key()) == signing.key_id(FIRST.public_key())


def test_other_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    for content, why in (
        (pem(FIRST, serialization.BestAvailableEncryption(b"x")), "encrypted"),
        (pem(rsa.generate_private_key(65537, 2048), serialization.NoEncryption()), "P-256 or Ed25519"),
        (pem(ec.generate_private_key(ec.SECP384R1()), serialization.NoEncryption()), "P-256 or Ed25519"),
        (b"junk", "not a PEM private key"),
    ):
        path.write_bytes(content)
        with pytest.raises(ManifestError, match=why):
            signing.load_signer(path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ManifestError, match="not a key file"):
        signing.load_signer(tmp_path / "pipe")

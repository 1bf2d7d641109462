"""SdkEvidence: signed by the instance key, bound to key and challenge, in one form, within bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from broker.adapters.evidence.sdk import EvidenceLimits, SdkEvidence
from broker.crypto.keyfiles import PrivateKey, public_der
from broker.errors import Denied, InvalidRequest
from broker.model.evidence import Assurance, CodeSet, Evidence, ProcessRef, SealedEvidence, Unit
from lockstep.formats import Reason, UnitKind, code_set_digest, evidence_signing_input
from lockstep.v1 import evidence_pb2 as pb

NOW = 1_800_000_000.0
NONCE = b"n" * 57
P256 = ec.generate_private_key(ec.SECP256R1())
SDK = SdkEvidence(EvidenceLimits(statement=100_000, units=10, hints=3, unknown=2, anonymous=2, text=100))
KEY = SDK.parse_key(public_der(P256.public_key()))
DIGESTS = sorted(hashlib.sha256(bytes([number])).digest() for number in range(4))


def sign(key: PrivateKey, statement: bytes) -> bytes:
    message = evidence_signing_input(statement)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def sealed(statement: pb.EvidenceStatement, key: PrivateKey = P256) -> SealedEvidence:
    data = statement.SerializeToString()
    return SealedEvidence(level=int(Assurance.SELF), statement=data, signature=sign(key, data))


def statement(digests: Iterable[bytes] = DIGESTS, thumbprint: bytes = KEY.thumbprint) -> pb.EvidenceStatement:
    digests = list(digests)
    return pb.EvidenceStatement(
        nonce=NONCE,
        key_thumbprint=thumbprint,
        measured_at=NOW,
        subject=pb.Subject(node="n1", boot_id="b1", pid=7, start_ticks=11, exec_seq=1, pod_uid="p1"),
        units=[pb.UnitSet(kind=pb.UNIT_KIND_PYTHON_BYTECODE, digests=digests)],
        hints=[pb.UnitHint(digest=DIGESTS[0], path="/app/a.py", name="a")],
        unknown=[pb.UnknownCode(kind=pb.UNIT_KIND_SCRIPT, name="python -c", reason="no file")],
        anonymous=[pb.AnonymousCode(size=4096, permissions="rwxp", name="memfd:x", deleted=True)],
        code_set_digest=code_set_digest(("python_bytecode", digest) for digest in digests),
        watched_since_exec=True,
        measurer="lockstep-client 0.1",
    )


async def verify(item: SealedEvidence, nonce: bytes = NONCE) -> Evidence:
    return await SDK.verify(item, KEY, nonce, NOW)


async def test_a_sound_statement_says_what_runs() -> None:
    evidence = await verify(sealed(statement()))
    assert evidence.level is Assurance.SELF
    assert evidence.units == {Unit(UnitKind.PYTHON_BYTECODE, digest) for digest in DIGESTS}
    assert evidence.code_set_digest == CodeSet.of(evidence.units).digest
    assert evidence.process == ProcessRef("n1", "b1", 7, 11, 1, "", "p1")
    assert [(hint.digest, hint.path, hint.name) for hint in evidence.hints] == [
        (DIGESTS[0], "/app/a.py", "a")
    ]
    assert [(item.kind, item.name) for item in evidence.unknown] == [(UnitKind.SCRIPT, "python -c")]
    assert [(item.permissions, item.deleted) for item in evidence.anonymous] == [("rwxp", True)]
    assert evidence.measured_at == NOW
    assert evidence.watched_since_exec


async def test_an_ed25519_instance_key_signs_as_well() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    key = SDK.parse_key(public_der(private.public_key()))
    assert key.algorithm == "EdDSA"
    item = sealed(statement(thumbprint=key.thumbprint), private)
    assert (await SDK.verify(item, key, NONCE, NOW)).key_thumbprint == key.thumbprint


async def test_nothing_loaded_is_a_set_too() -> None:
    empty = statement([])
    assert (await verify(sealed(empty))).units == frozenset()
    del empty.units[:]
    assert (await verify(sealed(empty))).code_set_digest == hashlib.sha256().digest()


async def test_an_addition_names_its_base_and_its_whole_is_not_judged_here() -> None:
    addition = statement(DIGESTS[:1])
    addition.base_digest = b"b" * 32
    addition.code_set_digest = b"w" * 32
    evidence = await verify(sealed(addition))
    assert (evidence.base_digest, evidence.code_set_digest) == (b"b" * 32, b"w" * 32)


async def refused(item: SealedEvidence, nonce: bytes = NONCE) -> None:
    with pytest.raises(Denied) as caught:
        await verify(item, nonce)
    assert caught.value.reason is Reason.EVIDENCE_REJECTED


@pytest.mark.parametrize("off", [-301.0, 301.0, -NOW])
async def test_what_was_measured_long_ago_or_is_still_to_be_is_refused(off: float) -> None:
    """The challenge is new, and what is signed with it is not."""
    await refused(sealed(_set(lambda s: setattr(s, "measured_at", NOW + off))))


@pytest.mark.parametrize("off", [-299.0, 299.0])
async def test_a_clock_that_is_somewhat_off_does_not_matter(off: float) -> None:
    assert await verify(sealed(_set(lambda s: setattr(s, "measured_at", NOW + off))))


async def test_a_changed_moved_or_borrowed_statement_is_refused() -> None:
    sound = sealed(statement())
    await refused(SealedEvidence(sound.level, sound.statement + b"\x58\x00", sound.signature))
    await refused(SealedEvidence(sound.level, sound.statement, bytes(64)))
    await refused(SealedEvidence(sound.level, sound.statement, b""))
    await refused(sealed(statement(), ec.generate_private_key(ec.SECP256R1())))
    await refused(sound, b"m" * 57)
    await refused(sound, b"")
    await refused(sealed(statement(thumbprint=b"t" * 32)))


async def test_a_signature_without_the_context_is_refused() -> None:
    data = statement().SerializeToString()
    r, s = decode_dss_signature(P256.sign(data, ec.ECDSA(hashes.SHA256())))
    await refused(SealedEvidence(1, data, r.to_bytes(32, "big") + s.to_bytes(32, "big")))


@pytest.mark.parametrize("level", [0, 2, 3, 4, 5, -1])
async def test_a_workload_cannot_lift_its_own_level(level: int) -> None:
    sound = sealed(statement())
    await refused(SealedEvidence(level, sound.statement, sound.signature))


async def test_a_node_keys_name_is_no_business_of_a_workload() -> None:
    sound = sealed(statement())
    await refused(SealedEvidence(1, sound.statement, sound.signature, key_id="node-1"))


async def test_a_code_set_that_is_not_what_its_digest_says_is_refused() -> None:
    other = statement()
    other.code_set_digest = b"d" * 32
    await refused(sealed(other))
    # The same digests under another kind are another set.
    other = statement()
    other.units[0].kind = pb.UNIT_KIND_PYTHON_SOURCE
    await refused(sealed(other))


def _set(change: Callable[[pb.EvidenceStatement], object]) -> pb.EvidenceStatement:
    bent = statement()
    change(bent)
    return bent


MALFORMED: dict[str, Callable[[pb.EvidenceStatement], object]] = {
    "a short digest": lambda s: s.units[0].digests.append(b"\xff" * 31),
    "a long digest": lambda s: s.units[0].digests.append(b"\xff" * 33),
    "a digest twice": lambda s: s.units[0].digests.append(DIGESTS[-1]),
    "digests out of order": lambda s: s.units[0].digests.append(b"\x00" * 32),
    "no kind": lambda s: setattr(s.units[0], "kind", 0),
    "an unknown kind": lambda s: setattr(s.units[0], "kind", 99),
    "a kind twice": lambda s: s.units.append(s.units[0]),
    "a short hint": lambda s: setattr(s.hints[0], "digest", b"x"),
    "a NUL in a path": lambda s: setattr(s.hints[0], "path", "/a\x00b"),
    "a long path": lambda s: setattr(s.hints[0], "path", "/" * 101),
    "a long name": lambda s: setattr(s.unknown[0], "name", "n" * 101),
    "a long node": lambda s: setattr(s.subject, "node", "n" * 101),
    "a negative process": lambda s: setattr(s.subject, "pid", -1),
    "no code set digest": lambda s: setattr(s, "code_set_digest", b""),
    "a short base": lambda s: setattr(s, "base_digest", b"b"),
    "a time that is none": lambda s: setattr(s, "measured_at", float("nan")),
    "a time without end": lambda s: setattr(s, "measured_at", float("inf")),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_what_is_malformed_is_an_invalid_request(case: str) -> None:
    with pytest.raises(InvalidRequest, match="evidence"):
        await verify(sealed(_set(MALFORMED[case])))


TOO_MUCH: dict[str, Callable[[pb.EvidenceStatement], object]] = {
    "units": lambda s: s.units[0].digests.extend(b"\xff" * 31 + bytes([n]) for n in range(7)),
    "hints": lambda s: s.hints.extend([s.hints[0]] * 3),
    "unknown": lambda s: s.unknown.extend([s.unknown[0]] * 2),
    "anonymous": lambda s: s.anonymous.extend([s.anonymous[0]] * 2),
    "the statement": lambda s: setattr(s, "measurer", "m" * 100_000),
}


@pytest.mark.parametrize("case", TOO_MUCH)
async def test_too_much_of_anything_is_refused(case: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await verify(sealed(_set(TOO_MUCH[case])))
    assert caught.value.reason is Reason.TOO_LARGE


async def test_signed_junk_is_an_invalid_request() -> None:
    for junk in (b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"\x62\x02\xff\xfe"):
        with pytest.raises(InvalidRequest, match="malformed"):
            await verify(SealedEvidence(1, junk, sign(P256, junk)))


def test_a_key_of_another_type_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="instance_key"):
        SDK.parse_key(b"junk")

"""What is fuzzed: one function a parser, from bytes to nothing. Only the errors that it documents are swallowed.

The first byte of an input chooses how the rest is taken: as it comes from a stranger, or signed by the very key that
the parser believes, so that what lies behind the signature is reached. Keys are fixed: an input means one thing.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from google.protobuf.message import DecodeError

from broker.adapters.backends.vault.handles import parse_handle
from broker.adapters.challenges import HmacChallenges
from broker.adapters.detectors.standard import StandardDetector
from broker.adapters.identity.jwks import FileKeys
from broker.adapters.identity.oidc import OidcIdentity, OidcRules
from broker.api.convert.revocations import selector, selector_message
from broker.crypto.dsse import DsseSealer, DsseVerifier
from broker.crypto.jwk import public_jwk
from broker.crypto.keyfiles import public_der
from broker.crypto.proof import RollingNonce, parse_instance_key, verify_proof
from broker.crypto.webhooks import HmacKey, signed_headers
from broker.crypto.x509 import CertificateError, parse_bundle, parse_chain, verify_svid
from broker.errors import Denied, InvalidRequest, Unauthenticated
from broker.model.identity import JwtProof, SpiffeId
from broker.model.manifest import ManifestError, parse_manifest
from broker.model.matching import selector_problem
from broker.model.revocation import Selector, SelectorKind
from broker.settings import ConfigurationRefused, outline
from lockstep.formats import MANIFEST_PAYLOAD_TYPE
from lockstep.v1 import revocation_pb2
from tests.support import pki
from tests.unit.crypto.tokens import b64, es256

NOW: Final = 1_800_000_000.0
MOST: Final = 16 * 1024
"""Bytes of an input: beyond it, sizes are refused before anything is read, which has tests of its own."""

KEY = ec.derive_private_key(0x10C5, ec.SECP256R1())
SIGNER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SECRET = b"f" * 32
_FOLDER = tempfile.TemporaryDirectory(prefix="lockstep-fuzz-")
_LOOP = asyncio.new_event_loop()

SIGNED: Final = 1


def _mode(data: bytes) -> tuple[int, bytes]:
    return (data[0] % 2 if data else 0), data[1:]


def manifest(data: bytes) -> None:
    """The Statement inside an envelope."""
    try:
        found = parse_manifest(data)
    except ManifestError:
        return
    assert found.not_before < found.not_after
    assert found.version >= 1


_ENVELOPES = DsseVerifier({"alice": SIGNER.public_key()})
_SEALER = DsseSealer(SIGNER)


def envelope(data: bytes) -> None:
    """A DSSE envelope, and what the payload of a good one says."""
    mode, rest = _mode(data)
    sealed = _SEALER.seal(rest, MANIFEST_PAYLOAD_TYPE) if mode == SIGNED else rest
    try:
        payload, names = _ENVELOPES.verify(sealed, MANIFEST_PAYLOAD_TYPE)
    except Denied:
        assert mode != SIGNED
        return
    assert names == {"alice"}
    assert mode != SIGNED or payload == rest
    manifest(payload)


_HOOK = HmacKey(SECRET)
_DETECTOR = StandardDetector("sensor", [_HOOK, SIGNER.public_key()])


def webhook(data: bytes) -> None:
    """Three lines for the headers, then the body; or a body that is signed."""
    mode, rest = _mode(data)
    if mode == SIGNED:
        body = rest.decode("utf-8", "replace").encode()
        headers: Mapping[str, str] = signed_headers([_HOOK], "msg_1", int(NOW), body)
    else:
        lines = rest.split(b"\n", 3)
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        headers = {name: line.decode("latin-1") for name, line in zip(names, lines, strict=False)}
        body = lines[3] if len(lines) == 4 else b""
    try:
        found = _DETECTOR.parse(headers, body, NOW)
    except Denied:
        assert mode != SIGNED
    except InvalidRequest:
        pass
    else:
        assert len({item.event_id for item in found}) == len(found)


_NONCES = RollingNonce(SECRET)
_INSTANCE = parse_instance_key(public_der(KEY.public_key()))


def _token(data: bytes) -> tuple[bool, str]:
    """(signed, token): header and claims are divided by a NUL."""
    mode, rest = _mode(data)
    if mode == SIGNED:
        head, _, claims = rest.decode("utf-8", "replace").partition("\x00")
        return True, es256(KEY, head, claims)
    return False, rest.decode("latin-1")


def proof(data: bytes) -> None:
    """A proof of possession."""
    signed, token = _token(data)
    try:
        used = verify_proof(
            token, key=_INSTANCE, method="/m", body=b"body", audience="cluster", nonces=_NONCES, now=NOW
        )
    except Unauthenticated as error:
        assert len(str(error)) < 300
        return
    assert signed
    assert used.expires_at > NOW


def _identity() -> OidcIdentity:
    file = Path(_FOLDER.name, "jwks.json")
    file.write_text(json.dumps({"keys": [{**public_jwk(KEY.public_key()), "kid": "k1"}]}))
    algorithms = frozenset({"ES256"})
    rules = OidcRules(
        name="f", issuer="https://issuer.example", audience="lockstep", algorithms=algorithms, leeway=30
    )
    return OidcIdentity(rules, FileKeys(file, algorithms))


_OIDC = _identity()


def identity(data: bytes) -> None:
    """An identity token."""
    signed, token = _token(data)
    try:
        found = _LOOP.run_until_complete(_OIDC.verify(JwtProof(token), NOW))
    except Denied as error:
        assert len(str(error)) < 300
        return
    assert signed
    assert found.issuer == "https://issuer.example"
    assert NOW < found.not_after < float("inf")


_CHALLENGES = HmacChallenges(SECRET, random=bytes)


def challenge(data: bytes) -> None:
    """A nonce: as it comes, or with a MAC of ours over a head of anything."""
    mode, rest = _mode(data)
    nonce = rest + _CHALLENGES._mac(rest, b"t" * 32) if mode == SIGNED else rest
    try:
        ends = _CHALLENGES.check(nonce, b"t" * 32, NOW)
    except Denied:
        return
    assert mode == SIGNED
    assert NOW < ends <= NOW + _CHALLENGES.lifetime + 1


_ROOT = pki.authority("root", now=NOW, key=KEY)
_BUNDLE = parse_bundle(_ROOT.pem)


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + b64encode(der) + b"\n-----END CERTIFICATE-----\n"


def chain(data: bytes) -> None:
    """PEM or DER of a leaf and its chain, divided by ``----|``; or a certificate with any URI as its name."""
    mode, rest = _mode(data)
    parts = rest.split(b"----|")
    texts = [part if b"BEGIN" in part else _pem(part) for part in parts]
    if mode == SIGNED:
        try:
            texts = [pki.svid(_ROOT, rest.decode("utf-8", "replace"), now=NOW, key=KEY).pem]
        except ValueError:  # no certificate can say that
            return
    try:
        parse_bundle(texts[0])
    except CertificateError:
        pass
    try:
        leaf, intermediates = parse_chain(texts[0], tuple(texts[1:]))
        found = verify_svid(leaf, intermediates, _BUNDLE, "acme.example", NOW)
    except CertificateError as error:
        assert len(str(error)) < 300
        return
    assert SpiffeId.parse(str(found.spiffe_id)).trust_domain == "acme.example"
    assert found.not_before <= NOW <= found.not_after


def settings(data: bytes) -> None:
    """A configuration."""
    file = Path(_FOLDER.name, "lockstep.toml")
    file.write_bytes(data)
    try:
        outline(file, {})
    except ConfigurationRefused as error:
        assert error.problems
        assert all("\n" not in str(problem) for problem in error.problems)


def selectors(data: bytes) -> None:
    """What a revocation is aimed at: a message, or the text of a package URL."""
    mode, rest = _mode(data)
    if mode == SIGNED:
        noun = Selector(SelectorKind.PACKAGE, rest.decode("utf-8", "replace"))
    else:
        try:
            noun = selector(revocation_pb2.Selector.FromString(rest))
        except (DecodeError, InvalidRequest):
            return
    if not selector_problem(noun):
        assert selector(selector_message(noun)) == noun


def handle(data: bytes) -> None:
    """What a lease row keeps of a credential at Vault: nobody checks it before it is read."""
    found = parse_handle(data.decode("utf-8", "replace"))
    if not found.until:
        return
    again = parse_handle(found.text("lease-1"))
    # Of a lease id of Vault's form: a slash before any colon.
    if "/" in found.lease_id.partition(":")[0] or (found.serial and not found.lease_id):
        assert again == found
    elif not found.lease_id:
        assert again.until == found.until


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "manifest": manifest,
    "envelope": envelope,
    "webhook": webhook,
    "proof": proof,
    "identity": identity,
    "challenge": challenge,
    "chain": chain,
    "settings": settings,
    "selectors": selectors,
    "handle": handle,
}


def seeds() -> Mapping[str, list[bytes]]:
    """Good inputs of every target, to begin from."""
    from tests.support.manifests import payload, unit
    from tests.unit.adapters.detectors.test_canonical import FULL

    statement = payload([unit("a")], application="payments")
    header = {"alg": "ES256", "typ": "lockstep-proof+jwt"}
    claims = {
        "htm": "/m", "aud": "cluster", "iat": int(NOW), "jti": "0123456789abcdef", "nonce": _NONCES.current(NOW),
        "dig": "Iw2DWNyOiJCAnwUiPHNORYQZgTFE_a4QlRJ_A-bqvHs",
    }  # fmt: skip
    says = {
        "iss": "https://issuer.example",
        "sub": "pay",
        "aud": "lockstep",
        "iat": int(NOW),
        "exp": int(NOW) + 60,
    }
    named = {"alg": "ES256", "typ": "JWT", "kid": "k1"}
    event = json.dumps(FULL).encode()
    headers = signed_headers([_HOOK], "msg_1", int(NOW), b"{}")
    leaf = pki.svid(_ROOT, "spiffe://acme.example/pay", now=NOW, key=KEY)
    both = (
        revocation_pb2.Selector(package="pkg:pypi/jinja2@3.1.6"),
        revocation_pb2.Selector(digest=bytes(32)),
        revocation_pb2.Selector(
            process=revocation_pb2.Selector.DESCRIPTOR.fields_by_name["process"].message_type._concrete_class(
                node="n", boot_id="b", pid=7, start_ticks=9
            )
        ),
    )
    example = Path(__file__).parents[2] / "deploy" / "lockstep.example.toml"

    def joined(first: object, second: object) -> bytes:
        return b"\x01" + json.dumps(first).encode() + b"\x00" + json.dumps(second).encode()

    return {
        "manifest": [statement],
        "envelope": [b"\x00" + _SEALER.seal(statement, MANIFEST_PAYLOAD_TYPE), b"\x01" + statement],
        "webhook": [b"\x01" + event, b"\x01[" + event + b"]", b"\x00" + "\n".join(headers.values()).encode() + b"\n{}"],
        "proof": [joined(header, claims), b"\x00" + b64(b"{}").encode() + b".e30.AA"],
        "identity": [joined(named, says), b"\x00" + b64(b"{}").encode() + b".e30.AA"],
        "challenge": [b"\x00" + _CHALLENGES.mint(b"t" * 32, NOW)[:-1], b"\x01" + _CHALLENGES.mint(b"t" * 32, NOW)[:25]],
        "chain": [b"\x00" + leaf.pem + b"----|" + _ROOT.pem, b"\x01spiffe://acme.example/pay"],
        "settings": [example.read_bytes()[:MOST], b'cluster = "c"\n[roles.api]\nmode = "observe"\n'],
        "selectors": [*(b"\x00" + item.SerializeToString() for item in both), b"\x01pkg:pypi/a@1"],
        "handle": [
            b"database/creds/pay/abc", b"database/creds/pay/abc:until:1800000000",
            b"until:1800000000:serial:pki:39-dd-2e", b"until:1800000000:lockstep:lease-1",
        ],
    }  # fmt: skip

"""Envelopes: only pinned keys count, each once, over exactly the bytes that are returned."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from broker.adapters.receipts import ReceiptSealer
from broker.crypto.dsse import MAX_SIGNATURES, DsseSealer, DsseVerifier
from broker.crypto.keyfiles import PrivateKey, key_id
from broker.errors import Denied
from lockstep.formats import RECEIPT_PAYLOAD_TYPE, Reason

TYPE = "application/vnd.example+json"
PAYLOAD = b'{"a": 1}'

KEYS: dict[str, PrivateKey] = {
    "ed": ed25519.Ed25519PrivateKey.generate(),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "other": ed25519.Ed25519PrivateKey.generate(),
}
VERIFIER = DsseVerifier({name: KEYS[name].public_key() for name in ("ed", "ec")})


def sealed(*names: str, payload: bytes = PAYLOAD, payload_type: str = TYPE) -> dict[str, Any]:
    envelopes = [json.loads(DsseSealer(KEYS[name]).seal(payload, payload_type)) for name in names]
    whole: dict[str, Any] = envelopes[0]
    whole["signatures"] = [signature for envelope in envelopes for signature in envelope["signatures"]]
    return whole


def rejected(envelope: object) -> str:
    data = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
    with pytest.raises(Denied) as caught:
        VERIFIER.verify(data, TYPE)
    assert caught.value.reason is Reason.SIGNATURE_REJECTED
    return caught.value.message


@pytest.mark.parametrize("name", ["ed", "ec"])
def test_a_pinned_key_is_named_and_the_verified_bytes_come_back(name: str) -> None:
    envelope = DsseSealer(KEYS[name]).seal(PAYLOAD, TYPE)
    assert VERIFIER.verify(envelope, TYPE) == (PAYLOAD, frozenset({name}))
    assert json.loads(envelope)["signatures"][0]["keyid"] == key_id(KEYS[name].public_key())


def test_all_pinned_signers_are_named_and_unknown_ones_ignored() -> None:
    envelope = sealed("other", "ed", "ec")
    assert VERIFIER.verify(json.dumps(envelope).encode(), TYPE)[1] == {"ed", "ec"}
    rejected(sealed("other"))


def test_unknown_fields_are_ignored_as_the_specification_asks() -> None:
    envelope = sealed("ed")
    envelope["note"] = "x"
    envelope["signatures"][0]["cert"] = "y"
    assert VERIFIER.verify(json.dumps(envelope).encode(), TYPE)[1] == {"ed"}


def test_both_base64_alphabets_are_read() -> None:
    payload = bytes(range(256))
    envelope = sealed("ed", payload=payload)
    envelope["payload"] = base64.urlsafe_b64encode(payload).decode()
    assert "-" in envelope["payload"]
    assert VERIFIER.verify(json.dumps(envelope).encode(), TYPE)[0] == payload


def test_the_payload_type_is_signed_and_must_be_the_one_expected() -> None:
    rejected(sealed("ed", payload_type="application/other"))
    renamed = sealed("ed", payload_type="application/other")
    renamed["payloadType"] = TYPE
    rejected(renamed)
    spelled = sealed("ed", payload_type=TYPE.upper())
    rejected(spelled)


def test_another_payload_under_the_same_signature_is_rejected() -> None:
    envelope = sealed("ed", "ec")
    envelope["payload"] = base64.b64encode(PAYLOAD + b" ").decode()
    rejected(envelope)


def test_junk_under_a_signers_key_id_does_not_push_out_a_signature_that_holds() -> None:
    envelope = sealed("ed")
    junk = {**envelope["signatures"][0], "sig": base64.b64encode(bytes(64)).decode()}
    for signatures in ([junk, *envelope["signatures"]], [*envelope["signatures"], junk]):
        whole = json.dumps({**envelope, "signatures": signatures}).encode()
        assert VERIFIER.verify(whole, TYPE)[1] == {"ed"}
    rejected({**envelope, "signatures": [junk]})


@pytest.mark.parametrize(
    "change",
    [
        {"payload": None},
        {"payload": 5},
        {"payload": "é"},
        {"payload": "a"},
        {"payload": "!!!!"},
        {"payloadType": 1},
        {"payloadType": None},
        {"signatures": None},
        {"signatures": {}},
        {"signatures": []},
        {"signatures": [None]},
        {"signatures": ["x"]},
        {"signatures": [{}]},
        {"signatures": [{"keyid": 1, "sig": "AA=="}]},
        {"signatures": [{"keyid": "x", "sig": 1}]},
        {"signatures": [{"keyid": "x", "sig": "A"}]},
        {"signatures": [{"keyid": ["x"], "sig": "AA=="}]},
        {"signatures": [{"keyid": "x", "sig": "AA=="}] * (MAX_SIGNATURES + 1)},
    ],
)
def test_malformed_envelopes_are_denied(change: dict[str, Any]) -> None:
    rejected({**sealed("ed"), **change})


@pytest.mark.parametrize("missing", ["payload", "payloadType", "signatures"])
def test_missing_members_are_denied(missing: str) -> None:
    envelope = sealed("ed")
    del envelope[missing]
    rejected(envelope)


@pytest.mark.parametrize(
    "raw",
    [b"", b"null", b"[]", b'"x"', b"\xff", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b"NaN"],
)
def test_what_is_no_json_object_is_denied(raw: bytes) -> None:
    rejected(raw)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_junk_is_denied_and_nothing_else_is_raised(raw: bytes) -> None:
    rejected(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries({}, optional={"payload": JSON, "payloadType": JSON, "signatures": JSON}),
    st.lists(st.fixed_dictionaries({}, optional={"keyid": JSON, "sig": JSON}), max_size=3),
)
def test_any_shape_of_json_is_denied_or_verified(change: dict[str, Any], signatures: list[Any]) -> None:
    rejected({**sealed("other"), "signatures": signatures, **change})


def test_two_names_cannot_pin_one_key() -> None:
    key = KEYS["ed"].public_key()
    with pytest.raises(ValueError, match="one and the same key"):
        DsseVerifier({"alice": key, "bob": key})


class TestMerge:
    def test_signatures_gather_over_time(self) -> None:
        one = DsseSealer(KEYS["ed"]).seal(PAYLOAD, TYPE)
        two = DsseSealer(KEYS["ec"]).seal(PAYLOAD, TYPE)
        merged = VERIFIER.merge(one, two)
        assert VERIFIER.verify(merged, TYPE) == (PAYLOAD, frozenset({"ed", "ec"}))
        assert VERIFIER.merge(merged, two) == merged

    def test_only_what_verifies_is_kept(self) -> None:
        good = sealed("ed")
        junk = {**good["signatures"][0], "sig": base64.b64encode(bytes(64)).decode()}
        bad = json.dumps({**good, "signatures": [junk, *sealed("other")["signatures"]]}).encode()
        merged = json.loads(VERIFIER.merge(bad, json.dumps(good).encode()))
        assert merged["signatures"] == good["signatures"]

    @pytest.mark.parametrize("other", [{"payload": b"{}"}, {"payload_type": "application/other"}])
    def test_different_payloads_do_not_merge(self, other: dict[str, Any]) -> None:
        with pytest.raises(Denied):
            VERIFIER.merge(json.dumps(sealed("ed")).encode(), json.dumps(sealed("ec", **other)).encode())


def test_receipts_have_a_type_of_their_own() -> None:
    sealer = ReceiptSealer(KEYS["ec"])
    payload, names = VERIFIER.verify(sealer.seal(PAYLOAD), RECEIPT_PAYLOAD_TYPE)
    assert (payload, names) == (PAYLOAD, {"ec"})
    assert sealer.keyid == key_id(KEYS["ec"].public_key())
    rejected(sealer.seal(PAYLOAD))

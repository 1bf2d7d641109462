"""Standard Webhooks: what counts as signed, and which keys are keys."""

import base64
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from standardwebhooks import Webhook

from broker.crypto.webhooks import (
    MAX_SIGNATURES,
    HmacKey,
    SigningKey,
    VerifyingKey,
    WebhookKeyError,
    parse_signing_key,
    parse_verifying_key,
    sign,
    signed_headers,
    verify,
)
from broker.errors import Denied

NOW = 1_790_932_447
BODY = '{"a": "é"}'.encode()
OLD, NEW = HmacKey(b"o" * 32), HmacKey(b"n" * 32)
PRIVATE = Ed25519PrivateKey.generate()


def public(key: SigningKey) -> VerifyingKey:
    return key.public_key() if isinstance(key, Ed25519PrivateKey) else key


def accepted(keys: list[VerifyingKey], headers: dict[str, str], body: bytes = BODY) -> bool:
    try:
        delivery = verify(keys, headers, body, now=float(NOW), tolerance=60)
    except Denied:
        return False
    assert delivery.message_id == headers["webhook-id"]
    assert delivery.sent_at == int(headers["webhook-timestamp"])
    return True


def test_our_hmac_is_the_librarys() -> None:
    library = Webhook("whsec_" + base64.b64encode(OLD.secret).decode())
    moment = datetime.fromtimestamp(NOW, UTC)
    assert sign(OLD, "msg_1", NOW, BODY) == library.sign("msg_1", moment, BODY.decode())


@pytest.mark.parametrize("key", [OLD, PRIVATE])
def test_a_signature_holds_for_its_id_time_and_body_alone(key: SigningKey) -> None:
    headers = signed_headers([key], "msg_1", NOW, BODY)
    assert accepted([public(key)], headers)
    assert not accepted([public(key)], {**headers, "webhook-id": "msg_2"})
    assert not accepted([public(key)], {**headers, "webhook-timestamp": str(NOW + 1)})
    assert not accepted([public(key)], headers, BODY + b" ")
    assert not accepted([NEW], headers)
    assert not accepted([], headers)


def test_keys_overlap_in_rotation_on_both_sides() -> None:
    for signing in ([OLD], [NEW], [OLD, NEW], [PRIVATE, OLD], [PRIVATE]):
        headers = signed_headers(signing, "msg_1", NOW, BODY)
        assert accepted([OLD, NEW, PRIVATE.public_key()], headers)
    assert not accepted([NEW], signed_headers([OLD, PRIVATE], "msg_1", NOW, BODY))


@pytest.mark.parametrize(
    "listed",
    [
        "",
        " ",
        ",",
        "v1",
        "v1,",
        "v1a,",
        "v1,AAAA",
        "v1a,AAAA",
        "v1a,é",
        "v1,\ud800",
        "v1a,!",
        "V1,{v1}",
        "v2,{v1}",
        "v1a,{v1}",
        "{v1}",
        "v1,{v1}=",
        "v1, {v1}",
        "v1,{v1},",
        " ".join(["v1,AAAA"] * MAX_SIGNATURES) + " v1,{v1}",
        "v1,{v1} " + "x" * 4096,
    ],
)
def test_signature_lists_that_do_not_hold(listed: str) -> None:
    headers = signed_headers([OLD], "msg_1", NOW, BODY)
    value = headers["webhook-signature"].removeprefix("v1,")
    headers["webhook-signature"] = listed.replace("{v1}", value)
    assert not accepted([OLD, PRIVATE.public_key()], headers)


def test_unknown_versions_beside_a_good_signature_are_ignored() -> None:
    headers = signed_headers([OLD], "msg_1", NOW, BODY)
    headers["webhook-signature"] = f"v9,junk junk {headers['webhook-signature']}"
    assert accepted([OLD], headers)


@pytest.mark.parametrize("message_id", ["", "a.b", "a b", "a\n", "é", "x" * 257, "a\x00"])
def test_ids_that_could_shift_what_is_signed_are_refused(message_id: str) -> None:
    with pytest.raises(ValueError, match="webhook id"):
        sign(OLD, message_id, NOW, BODY)
    assert not accepted([OLD], {**signed_headers([OLD], "msg_1", NOW, BODY), "webhook-id": message_id})


@pytest.mark.parametrize(
    "spelling", ["{t}.0", "{t}.9", "0{t}", "+{t}", " {t}", "{t} ", "-{t}", "1e9", "nan", "١", ""]
)
def test_a_time_has_one_spelling(spelling: str) -> None:
    headers = signed_headers([OLD], "msg_1", NOW, BODY)
    assert not accepted([OLD], {**headers, "webhook-timestamp": spelling.format(t=NOW)})


def test_the_body_need_not_be_text_for_ed25519_and_must_for_hmac() -> None:
    assert accepted([PRIVATE.public_key()], signed_headers([PRIVATE], "m", NOW, b"\xff"), b"\xff")
    assert not accepted([OLD], signed_headers([OLD], "m", NOW, b""), b"\xff")


class TestKeys:
    def test_all_kinds_are_read(self) -> None:
        secret = "whsec_" + base64.b64encode(OLD.secret).decode()
        raw = PRIVATE.public_key().public_bytes_raw()
        seed = PRIVATE.private_bytes_raw()
        assert parse_verifying_key(secret) == parse_signing_key(secret) == OLD
        found = parse_verifying_key("whpk_" + base64.b64encode(raw).decode())
        assert isinstance(found, Ed25519PublicKey)
        assert found.public_bytes_raw() == raw
        for text in (seed, seed + raw):
            key = parse_signing_key("whsk_" + base64.b64encode(text).decode())
            assert isinstance(key, Ed25519PrivateKey)
            assert key.private_bytes_raw() == seed

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "whsec_",
            "whsec_!",
            "whsec_é",
            "whsec_" + base64.b64encode(b"short").decode(),
            "whsec_" + base64.b64encode(bytes(65)).decode(),
            base64.b64encode(bytes(32)).decode(),
            "whsk_" + base64.b64encode(bytes(32)).decode(),
            "WHSEC_" + base64.b64encode(bytes(32)).decode(),
            "whpk_" + base64.b64encode(bytes(31)).decode(),
            "whpk_" + base64.b64encode(bytes(32)).decode().rstrip("="),
        ],
    )
    def test_what_is_no_verifying_key_is_refused_without_a_word_of_it(self, text: str) -> None:
        with pytest.raises(WebhookKeyError) as caught:
            parse_verifying_key(text)
        assert len(text) < 8 or text[8:] not in str(caught.value)

    @pytest.mark.parametrize("size", [31, 33, 63, 65])
    def test_private_keys_of_another_size_are_refused(self, size: int) -> None:
        with pytest.raises(WebhookKeyError):
            parse_signing_key("whsk_" + base64.b64encode(bytes(size)).decode())

    def test_two_halves_must_belong_together(self) -> None:
        with pytest.raises(WebhookKeyError):
            parse_signing_key("whsk_" + base64.b64encode(bytes(64)).decode())

    def test_a_secret_is_not_shown(self) -> None:
        assert "ooo" not in repr(OLD)

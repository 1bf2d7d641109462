"""What every detector plug keeps to: authentic reports come through, and nothing else does."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker.adapters.detectors.standard import StandardDetector
from broker.crypto.webhooks import HmacKey, SigningKey, signed_headers
from broker.errors import Denied, InvalidRequest
from broker.model.detection import DetectionKind
from broker.ports import Detector
from lockstep.formats import Reason

NOW = 1_790_932_447.0
BODY = json.dumps(
    {
        "type": "lockstep.detector.code_load",
        "timestamp": "2026-10-02T09:14:07.118402Z",
        "data": {
            "kind": "library",
            "subject": {"node": "node-7", "boot_id": "b1f6", "pid": 48002, "start_ticks": 250728},
            "object": {"sha256": "ab" * 32, "path": "/tmp/.x/libx.so"},
        },
    }
).encode()


@dataclass(frozen=True)
class Dialect:
    """A plug, a body of one report in its dialect, and how its sender makes headers."""

    plug: Detector
    body: bytes
    headers: Callable[[bytes, float], Mapping[str, str]]


def standard(key: SigningKey) -> Dialect:
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return Dialect(
        StandardDetector("falco", [public]),
        BODY,
        lambda body, at: signed_headers([key], "msg_2f9", int(at), body),
    )


DIALECTS = {
    "standard-v1": standard(HmacKey(bytes(range(32)))),
    "standard-v1a": standard(Ed25519PrivateKey.generate()),
}


@pytest.fixture(params=sorted(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


def test_an_authentic_report_is_parsed(dialect: Dialect) -> None:
    (report,) = dialect.plug.parse(dialect.headers(dialect.body, NOW), dialect.body, NOW)
    assert report.detector == "falco"
    assert report.kind is DetectionKind.LIBRARY
    assert report.subject.process.node == "node-7"
    assert report.object.digest == b"\xab" * 32
    assert report.sent_at == NOW


def test_a_retry_has_the_same_event_id_and_its_own_time(dialect: Dialect) -> None:
    first = dialect.plug.parse(dialect.headers(dialect.body, NOW), dialect.body, NOW)
    again = dialect.plug.parse(dialect.headers(dialect.body, NOW + 900), dialect.body, NOW + 900)
    assert [report.event_id for report in first] == [report.event_id for report in again]
    assert (first[0].sent_at, again[0].sent_at) == (NOW, NOW + 900)


def test_every_changed_byte_is_noticed(dialect: Dialect) -> None:
    headers = dialect.headers(dialect.body, NOW)
    for index in range(len(dialect.body)):
        body = bytearray(dialect.body)
        body[index] ^= 1
        with pytest.raises(Denied) as caught:
            dialect.plug.parse(headers, bytes(body), NOW)
        assert caught.value.reason is Reason.DETECTION_REJECTED


@pytest.mark.parametrize("shift", [-3600, -61, 61, 3600])
def test_what_was_sent_at_another_time_is_denied(dialect: Dialect, shift: int) -> None:
    headers = dialect.headers(dialect.body, NOW + shift)
    with pytest.raises(Denied):
        dialect.plug.parse(headers, dialect.body, NOW)


@pytest.mark.parametrize("shift", [-60, 60])
def test_clocks_may_differ_a_little_both_ways(dialect: Dialect, shift: int) -> None:
    assert dialect.plug.parse(dialect.headers(dialect.body, NOW + shift), dialect.body, NOW)


def test_every_header_is_needed(dialect: Dialect) -> None:
    headers = dialect.headers(dialect.body, NOW)
    for missing in headers:
        with pytest.raises(Denied):
            dialect.plug.parse(
                {name: headers[name] for name in headers if name != missing}, dialect.body, NOW
            )
    with pytest.raises(Denied):
        dialect.plug.parse({}, dialect.body, NOW)


def test_a_huge_body_is_refused(dialect: Dialect) -> None:
    body = b'{"a":"' + b"x" * 1_000_000 + b'"}'
    with pytest.raises(InvalidRequest) as caught:
        dialect.plug.parse(dialect.headers(body, NOW), body, NOW)
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(body=st.text(max_size=100).map(str.encode) | st.binary(max_size=100))
def test_signed_junk_is_refused_and_nothing_else_is_raised(name: str, body: bytes) -> None:
    dialect = DIALECTS[name]
    try:
        headers = dialect.headers(body, NOW)
    except UnicodeDecodeError:  # cannot be signed in this dialect
        headers = dialect.headers(b"{}", NOW)
    with pytest.raises((Denied, InvalidRequest)):
        dialect.plug.parse(headers, body, NOW)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(
    headers=st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "authorization"]),
        st.text(max_size=40) | st.from_regex(r"v1a?,[A-Za-z0-9+/=]{0,90}", fullmatch=True),
    )
)
def test_any_headers_are_denied_and_nothing_else_is_raised(name: str, headers: dict[str, str]) -> None:
    with pytest.raises(Denied):
        DIALECTS[name].plug.parse(headers, DIALECTS[name].body, NOW)

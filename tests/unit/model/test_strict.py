"""Strict reading: one meaning, or none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.strict import Malformed, read_number, read_sha256, read_text, read_time, strict_json


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "\\u0062": 1}}',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"9" * 5000,
        b"\xff",
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-32"),
        b"",
        b"{}{}",
        b"{'a': 1}",
        b"[1,]",
        b"[" * 200_000,
        b'{"a":' * 200_000,
    ],
)
def test_what_readers_could_take_differently_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        strict_json(data)
    with pytest.raises(Malformed):
        strict_json(data, depth=8)


def test_size_is_looked_at_before_anything_else() -> None:
    assert strict_json(b'"12345678"', limit=10) == "12345678"
    with pytest.raises(Malformed, match="larger"):
        strict_json(b'"123456789"', limit=10)


@pytest.mark.parametrize(
    "data", [b'["]]]]", [[[]]]]', b'["\\"]]]", [[[]]]]', b'{"]": {"}": [[]]}}', b'["\\\\", [[[]]]]']
)
def test_brackets_in_texts_hide_no_depth(data: bytes) -> None:
    assert strict_json(data, depth=4) == json.loads(data)
    with pytest.raises(Malformed, match="nested deeper than 3"):
        strict_json(data, depth=3)


@pytest.mark.parametrize("data", [b'"' + b'\\"' * 200_000, b'"' * 200_001, b'["' + b"[" * 200_000])
def test_depth_is_counted_in_linear_time(data: bytes) -> None:
    with pytest.raises(Malformed):
        strict_json(data, depth=3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(JSON)
def test_json_comes_back_as_it_was_unless_it_is_too_deep(value: object) -> None:
    data = json.dumps(value).encode()
    assert strict_json(data, depth=depth_of(value)) == strict_json(data) == value
    if depth_of(value):
        with pytest.raises(Malformed):
            strict_json(data, depth=depth_of(value) - 1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-10-02T09:14:07Z", 1790932447.0),
        ("2026-10-02T11:14:07+02:00", 1790932447.0),
        ("2026-10-02T09:14:07.118402331Z", 1790932447.118402),
        ("1969-12-31T23:59:59-00:00", -1.0),
        ("0001-01-01T00:00:00Z", -62135596800.0),
    ],
)
def test_times_are_seconds_of_the_epoch(text: str, seconds: float) -> None:
    assert read_time(text, "t") == seconds


@pytest.mark.parametrize(
    "value",
    [
        "2026-10-02T09:14:07",
        "2026-10-02 09:14:07Z",
        "2026-10-02",
        "20261002T091407Z",
        "2026-W40-5T09:14:07Z",
        "2026-10-02T09:14Z",
        "2026-10-02T09:14:60Z",
        "2026-02-30T09:14:07Z",
        "2026-10-02T09:14:07+25:00",
        "2026-10-02T09:14:07+0200",
        "2026-10-02T09:14:07.Z",
        "2026-10-02T09:14:07z",
        " 2026-10-02T09:14:07Z",
        "2026-10-02T09:14:07Z\n",
        "٢٠٢٦-١٠-٠٢T٠٩:١٤:٠٧Z",
        1790932447,
        None,
    ],
)
def test_other_times_are_refused(value: object) -> None:
    with pytest.raises(Malformed):
        read_time(value, "t")


@pytest.mark.parametrize(
    "value", ["AB" * 32, "ab" * 31, "ab" * 33, " " + "ab" * 32, "ab" * 32 + "\n", b"ab" * 32, None]
)
def test_a_digest_has_one_spelling(value: object) -> None:
    assert read_sha256("ab" * 32, "d") == b"\xab" * 32
    with pytest.raises(Malformed):
        read_sha256(value, "d")


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, -1, 11, 10**30])
def test_a_number_is_whole_and_in_range(value: object) -> None:
    assert read_number(10, "n", most=10) == 10
    with pytest.raises(Malformed):
        read_number(value, "n", most=10)


@pytest.mark.parametrize("value", ["", "a\n", "\u202e", "\ud800", "a" * 11, 1, None])
def test_a_text_prints(value: object) -> None:
    assert read_text("é ok", "t", limit=10) == "é ok"
    with pytest.raises(Malformed):
        read_text(value, "t", limit=10)

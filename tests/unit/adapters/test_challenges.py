"""Challenges: bound to one key and one span of time, unique, and stored nowhere."""

from __future__ import annotations

import pytest

from broker.adapters.challenges import NONCE_SIZE, HmacChallenges
from broker.errors import Denied
from lockstep.formats import Reason

NOW = 1_800_000_000.0
KEY = b"k" * 32
MINT = HmacChallenges(b"s" * 32, 30)


def refused(nonce: bytes, thumbprint: bytes = KEY, now: float = NOW, mint: HmacChallenges = MINT) -> None:
    with pytest.raises(Denied) as caught:
        mint.check(nonce, thumbprint, now)
    assert caught.value.reason is Reason.CHALLENGE_REJECTED


def test_a_nonce_is_good_for_its_key_and_its_lifetime() -> None:
    nonce = MINT.mint(KEY, NOW)
    assert MINT.lifetime == 30
    assert MINT.check(nonce, KEY, NOW) == MINT.check(nonce, KEY, NOW + 29.999) == NOW + 30
    refused(nonce, now=NOW + 30)
    refused(nonce, now=NOW + 10_000)
    refused(nonce, b"x" * 32)


def test_replicas_with_one_secret_agree_and_others_do_not() -> None:
    nonce = HmacChallenges(b"s" * 32, 30).mint(KEY, NOW)
    assert MINT.check(nonce, KEY, NOW)
    refused(nonce, mint=HmacChallenges(b"t" * 32, 30))


def test_a_replica_whose_clock_is_a_little_ahead_is_believed_and_no_more() -> None:
    assert MINT.check(MINT.mint(KEY, NOW + 0.9), KEY, NOW)
    refused(MINT.mint(KEY, NOW + 1.1))


def test_no_two_nonces_are_equal() -> None:
    # A nonce that does not change is the flaw of CVE-2026-6420.
    nonces = {MINT.mint(KEY, NOW) for _ in range(1000)}
    assert len(nonces) == 1000
    assert {len(nonce) for nonce in nonces} == {NONCE_SIZE}


def test_every_changed_byte_is_refused() -> None:
    nonce = MINT.mint(KEY, NOW)
    for position in range(len(nonce)):
        bent = bytearray(nonce)
        bent[position] ^= 1
        refused(bytes(bent))


def test_another_length_is_refused() -> None:
    nonce = MINT.mint(KEY, NOW)
    for bent in (b"", nonce[:-1], nonce + b"\x00", nonce[1:], b"\x00" * 100_000):
        refused(bent)
    # Bytes moved between the nonce and the thumbprint make no other valid pair.
    refused(nonce[:24] + nonce[25:], nonce[24:25] + KEY)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        HmacChallenges(b"short")

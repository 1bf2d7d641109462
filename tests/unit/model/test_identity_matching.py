"""SPIFFE IDs and role patterns: strict to the character, and nothing is folded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.identity import IdentityMatch, JwtProof, SpiffeId, WorkloadIdentity, matches_pattern

PAYMENTS = WorkloadIdentity(
    "oidc", "https://issuer.example", "system:serviceaccount:pay:payments", 1e12, {"team": "pay"}
)
SPIFFE = WorkloadIdentity("spire", None, "spiffe://pay.example/ns/pay/sa/payments", 1e12)


class TestSpiffeId:
    @pytest.mark.parametrize(
        "text",
        ["spiffe://pay.example/payments", "spiffe://a/b", "spiffe://pay_1-x.example/ns/pay/sa/A.b-c_D"],
    )
    def test_it_is_parsed_and_spelled_the_same(self, text: str) -> None:
        assert str(SpiffeId.parse(text)) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "spiffe://",
            "spiffe://pay.example",
            "spiffe://pay.example/",
            "spiffe:///payments",
            "SPIFFE://pay.example/payments",
            "spiffe://Pay.example/payments",
            "spiffe://pay.example:8443/payments",
            "spiffe://user@pay.example/payments",
            "spiffe://pay.example//payments",
            "spiffe://pay.example/payments/",
            "spiffe://pay.example/./payments",
            "spiffe://pay.example/../payments",
            "spiffe://pay.example/a/../b",
            "spiffe://pay.example/%2e%2e/b",
            "spiffe://pay.example/pay%20ments",
            "spiffe://pay.example/pay ments",
            "spiffe://pay.example/payments?x=1",
            "spiffe://pay.example/payments#x",
            "spiffe://pay.example/pay\x00ments",
            "spiffe://pay.example/pаyments",
            "spiffe://pay.example/payments\n",
            " spiffe://pay.example/payments",
            "https://pay.example/payments",
            "spiffe://" + "a" * 256 + "/b",
            "spiffe://pay.example/" + "a" * 2048,
        ],
    )
    def test_nothing_else_is_one(self, text: str) -> None:
        """CVE-2021-27099: paths that are not in their one form."""
        with pytest.raises(ValueError, match="SPIFFE"):
            SpiffeId.parse(text)

    @given(st.text(max_size=40))
    def test_whatever_is_parsed_has_one_spelling(self, text: str) -> None:
        try:
            found = SpiffeId.parse("spiffe://" + text)
        except ValueError:
            return
        assert str(found) == "spiffe://" + text
        assert ".." not in found.path.split("/")


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "text", "fits"),
        [
            ("api", "api", True),
            ("api", "API", False),
            ("api", "api ", False),
            ("api", "xapi", False),
            ("api-*", "api-1", True),
            ("api-*", "api-", False),
            ("api-*", "api-1/2", False),
            ("api-**", "api-1/2", True),
            ("*", "a", True),
            ("*", "", False),
            ("*", "a/b", False),
            ("**", "a/b", True),
            ("a.c", "abc", False),
            ("a+", "aa", False),
            ("[ab]", "a", False),
            ("a?", "ab", False),
            ("spiffe://pay.example/*", "spiffe://pay.example/a", True),
            ("spiffe://pay.example/*", "spiffe://pay.example.evil/a", False),
            ("spiffe://pay.example/*", "spiffe://pay.example/a/b", False),
            ("spiffe://pay.example/**", "spiffe://pay.example/a/b", True),
            ("a*", "a\nb", True),
            ("a", "a\n", False),
        ],
    )
    def test_the_whole_text_counts(self, pattern: str, text: str, fits: bool) -> None:
        assert matches_pattern(pattern, text) is fits

    @given(st.text())
    def test_a_text_without_stars_fits_itself_alone(self, text: str) -> None:
        if "*" not in text:
            assert matches_pattern(text, text)
            assert not matches_pattern(text, text + "x")


class TestMatch:
    @pytest.mark.parametrize(
        ("match", "identity", "accepted"),
        [
            (IdentityMatch("oidc", subject="system:serviceaccount:pay:*"), PAYMENTS, True),
            (IdentityMatch("oidc2", subject="system:serviceaccount:pay:*"), PAYMENTS, False),
            (IdentityMatch("oidc", subject="system:serviceaccount:pay:Payments"), PAYMENTS, False),
            (IdentityMatch("oidc"), PAYMENTS, False),
            (IdentityMatch("oidc", claims={"team": "pay"}), PAYMENTS, False),
            (IdentityMatch("oidc", subject="**", claims={"team": "pay"}), PAYMENTS, True),
            (IdentityMatch("oidc", subject="**", claims={"team": "*", "env": "**"}), PAYMENTS, False),
            (IdentityMatch("oidc", subject="**", claims={"team": "PAY"}), PAYMENTS, False),
            (IdentityMatch("spire", spiffe_id="spiffe://pay.example/**"), SPIFFE, True),
            (IdentityMatch("spire", spiffe_id="spiffe://other.example/**"), SPIFFE, False),
            (IdentityMatch("spire", subject="a", spiffe_id="spiffe://pay.example/**"), SPIFFE, False),
        ],
    )
    def test_every_condition_holds_or_nobody_is_accepted(
        self, match: IdentityMatch, identity: WorkloadIdentity, accepted: bool
    ) -> None:
        assert match.accepts(identity) is accepted

    def test_no_issuer_can_make_a_spiffe_id(self) -> None:
        """CVE-2025-59048: equal paths of two trust domains, or of none."""
        forged = replace(PAYMENTS, provider="spire", subject=SPIFFE.subject)
        assert not IdentityMatch("spire", spiffe_id="spiffe://pay.example/**").accepts(forged)
        assert forged.name != SPIFFE.name

    def test_two_issuers_with_one_subject_are_two_names(self) -> None:
        other = replace(PAYMENTS, issuer="https://evil.example")
        assert other.name != PAYMENTS.name
        assert SPIFFE.name == SPIFFE.subject


def test_a_proof_does_not_show_its_token() -> None:
    assert "s3cret" not in repr(JwtProof("s3cret"))

"""Handles of Vault's credentials: what is written is read again, also as it was spelled before."""

from __future__ import annotations

import pytest

from broker.adapters.backends.vault.handles import FOREVER, Handle, parse_handle

LEASE = "database/creds/payments/Fq1ZyXw3.ns1"


@pytest.mark.parametrize(
    "handle",
    [
        Handle(LEASE),
        Handle(LEASE, until=1_800_000_300.0),
        Handle(mount="pki", serial="39:dd:2e:90", until=1_800_000_300.0),
        Handle(until=FOREVER),
    ],
    ids=str,
)
def test_what_is_written_is_read(handle: Handle) -> None:
    assert parse_handle(handle.text("L-1")) == handle


def test_a_lease_of_vaults_comes_first_so_that_a_sweep_finds_its_row() -> None:
    assert Handle(LEASE, until=5.0).text("L-1") == f"{LEASE}:until:5"


def test_handles_that_vault_has_no_name_for_differ_by_lease() -> None:
    assert Handle(until=FOREVER).text("L-1") != Handle(until=FOREVER).text("L-2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"until:1800000300:lease:{LEASE}", Handle(LEASE, until=1_800_000_300.0)),
        ("", Handle()),
        ("until:soon:lease:x", Handle("until:soon:lease:x")),
    ],
)
def test_other_spellings(text: str, expected: Handle) -> None:
    assert parse_handle(text) == expected


@pytest.mark.parametrize("ends", ["²", "\u0661", "9" * 13, "9" * 5000, "-1", "1.5", ""])
def test_what_is_no_time_is_part_of_the_name(ends: str) -> None:
    for text in (f"db/creds/pay/x:until:{ends}", f"until:{ends}:serial:pki:39", f"until:{ends}:lockstep:l"):
        assert parse_handle(text) == Handle(lease_id=text)


def test_a_serial_is_no_second_end() -> None:
    text = "until:17:serial:pki:39:until:0"
    assert parse_handle(text) == Handle(mount="pki", serial="39:until:0", until=17.0)
    assert parse_handle(text).text("lease") == text

"""What every credential backend keeps to; each plug's test class says how the plug is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.model.credential import Confirmation, Grant, Lease, LeaseState
from broker.model.evidence import Assurance
from broker.model.role import Mode, Revocability
from broker.ports import CredentialBackend


def grant_at(now: float, **changes: Any) -> Grant:
    """A grant of five minutes to a workload; `changes` go to the lease."""
    lease = Lease(
        id="L-1",
        attestation_id="A-1",
        role="orders",
        role_version=b"r" * 32,
        backend="builtin",
        state=LeaseState.PENDING,
        mode=Mode.ENFORCE,
        decision_id="D-1",
        request_id="q-1",
        identity="spiffe://acme.example/pay",
        audience="orders",
        assurance=Assurance.SELF,
        handle="T-1",
        revocability=Revocability.INSTANT,
        possession_required=True,
        issued_at=now,
        expires_at=now + 300,
        max_expires_at=now + 3600,
        as_of=41,
    )
    lease = replace(lease, **changes)
    return Grant(
        lease=lease,
        subject=lease.identity,
        parameters={"audience": "orders"},
        ttl=lease.expires_at - lease.issued_at,
        key_thumbprint=b"k" * 32,
        manifests=(b"m" * 32,),
    )


class BackendSuite:
    """Subclass, name it ``Test…`` and give a `backend` fixture; `now` and `grant` where the plug needs others."""

    @pytest.fixture
    def now(self) -> float:
        return 1_800_000_000.25

    @pytest.fixture
    def grant(self, now: float) -> Grant:
        return grant_at(now)

    async def test_a_secret_is_given_and_its_repr_hides_it(
        self, backend: CredentialBackend, grant: Grant
    ) -> None:
        issued = await backend.issue(grant)
        secrets = [issued.credential.token, *issued.credential.fields.values()]
        assert any(secrets)
        assert issued.handle
        assert not any(secret in repr(issued) for secret in secrets if secret)
        assert issued.handle not in secrets

    async def test_no_secret_outlives_its_lease(self, backend: CredentialBackend, grant: Grant) -> None:
        issued = await backend.issue(grant)
        assert grant.lease.issued_at < issued.expires_at <= grant.lease.expires_at

    async def test_a_renewal_keeps_the_handle(self, backend: CredentialBackend, grant: Grant) -> None:
        first = await backend.issue(grant)
        longer = replace(grant.lease, handle=first.handle, expires_at=grant.lease.expires_at + 60)
        issued = await backend.renew(replace(grant, lease=longer, ttl=grant.ttl + 60))
        if issued is not None:
            assert issued.handle == first.handle
            assert issued.expires_at <= longer.expires_at

    async def test_taking_back_is_idempotent_and_confirmed(
        self, backend: CredentialBackend, grant: Grant, now: float
    ) -> None:
        issued = await backend.issue(grant)
        lease = replace(grant.lease, state=LeaseState.REVOKING, handle=issued.handle)
        for _ in range(2):
            await backend.revoke(lease)
            confirmed = await backend.confirm(lease, now)
            assert confirmed.method
            if backend.revocability_of(grant.parameters).rank <= Revocability.AT_TARGET.rank:
                assert confirmed.result is Confirmation.GONE
            else:
                assert confirmed.result is not Confirmation.ALIVE
                assert confirmed.until >= now

    async def test_taking_back_what_was_never_made_is_no_error(
        self, backend: CredentialBackend, grant: Grant, now: float
    ) -> None:
        # A crash between PENDING and the backend's answer leaves such a lease.
        await backend.revoke(grant.lease)
        confirmed = await backend.confirm(grant.lease, now)
        if backend.revocability_of(grant.parameters) is Revocability.UNTIL_EXPIRY:
            # Had it been made after all, nobody could take it back.
            assert confirmed.result is Confirmation.UNTIL_EXPIRY
            assert confirmed.until >= grant.lease.expires_at
        else:
            assert confirmed.result is Confirmation.GONE

    async def test_taking_back_one_leaves_the_other(
        self, backend: CredentialBackend, grant: Grant, now: float
    ) -> None:
        first = await backend.issue(grant)
        other = replace(grant, lease=replace(grant.lease, id="L-2", request_id="q-2", handle="T-2"))
        second = await backend.issue(other)
        assert first.handle != second.handle
        await backend.revoke(replace(grant.lease, handle=first.handle))
        if backend.outside:
            left = await backend.confirm(replace(other.lease, handle=second.handle), now)
            # What nobody can take back is said to live until its end, used or not.
            assert left.result is not Confirmation.GONE

"""Flaws of Vault and OpenBao; those that other tests would find are in the table."""

from __future__ import annotations

from broker.model.credential import Grant, Issued
from broker.model.role import Revocability
from tests.fakes.backend import FakeBackend
from tests.support.house import House, role


class Listening(FakeBackend):
    """A backend that keeps all that it was ever told."""

    def __init__(self) -> None:
        super().__init__(Revocability.AT_TARGET)
        self.told: list[str] = []

    async def issue(self, grant: Grant) -> Issued:
        self.told.append(repr(grant))
        return await super().issue(grant)

    async def renew(self, grant: Grant) -> Issued | None:
        self.told.append(repr(grant))
        return await super().renew(grant)


async def test_cve_2026_4525_a_backend_never_sees_what_its_caller_proved_itself_with() -> None:
    """Vault handed the caller's token on to plugins, which could act as the caller then."""
    backend = Listening()
    house = await House.open(role("api", backend="db"), backends={"db": backend})
    workload = await house.attested()
    caller = workload.caller()
    answer = await house.issuer.issue(caller, "api", "request-1")
    house.clock.advance(10)
    await workload.reattest()
    await workload.renew(answer.lease.id)
    assert len(backend.told) == 2
    for told in backend.told:
        # It knows whom it is for; nothing that proves to be that one.
        assert workload.id in told
        for secret in (workload.token.token, caller.proof.jti, repr(workload.spki)[2:-1]):
            assert secret not in told

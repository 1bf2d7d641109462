"""GateBackend keeps to the contract of credential backends, on a real OpenBao whose JWT login takes its tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.adapters.backends.gate import GateOptions
from broker.adapters.backends.gate.backend import GateBackend, check_parameters
from broker.adapters.backends.vault.backend import VaultBackend
from broker.adapters.clock import SystemClock
from broker.adapters.entropy import SystemEntropy
from broker.crypto.keyfiles import public_pem
from broker.crypto.ring import JwtRing
from broker.errors import Denied, LockstepError, Unavailable
from broker.model.account import Account, AccountState
from broker.model.credential import Confirmation, Confirmed, Grant, LeaseState
from broker.model.evidence import Assurance
from lockstep.formats import GATE_TYPE, Reason
from tests.contract.backend_suite import BackendSuite, grant_at
from tests.support.relay import Relay

if TYPE_CHECKING:
    from broker.adapters.backends.vault.session import VaultSession
    from tests.support.openbao import Bao
    from tests.support.vault_ground import Ground

pytestmark = pytest.mark.integration

ISSUER = "https://lockstep.example/gate"
AUDIENCE = "https://vault.example"
MANIFEST = (b"m" * 32).hex()


@dataclass
class Scene:
    """A Vault of a team, which takes gate tokens, and the gate."""

    ground: Ground
    signer: JwtRing
    vault: VaultBackend

    def __post_init__(self) -> None:
        self.gate = self.another("R-1")

    @property
    def nobody(self) -> Bao:
        return self.ground.root.as_token("")

    def login(self, token: str, role: str = "payments") -> dict[str, Any]:
        """A workload's login; what Vault says of it."""
        answer = self.nobody.write("auth/gate/login", role=role, jwt=token)
        auth: dict[str, Any] = answer["auth"]
        return auth

    def another(self, replica: str, mount: str = "gate", session: VaultSession | None = None) -> GateBackend:
        """A gate of another process, at another mount, or by another way."""
        return GateBackend(
            self.signer,
            ISSUER,
            GateOptions(mount, AUDIENCE),
            session or self.vault.session,
            SystemClock(),
            SystemEntropy(),
            replica,
        )

    def account(self, attestation_id: str = "A-1") -> Account:
        return Account("C-1", attestation_id, "gate", "R-1", AccountState.OPEN, time.time(), "gate")


@pytest.fixture
async def scene(ground: Ground) -> AsyncIterator[Scene]:
    signing = ec.generate_private_key(ec.SECP256R1())
    ground.root.write("sys/auth/gate", type="jwt")
    ground.root.write(
        "auth/gate/config",
        jwt_validation_pubkeys=[public_pem(signing.public_key()).decode()],
        bound_issuer=ISSUER,
    )
    ground.root.write("sys/policies/acl/payments", policy='path "kv/data/pay" { capabilities = ["read"] }')
    ground.mount("kv", "kv-v2")
    ground.root.write("kv/data/pay", data={"key": "theirs"})
    ground.root.write(
        "auth/gate/role/payments",
        role_type="jwt",
        user_claim="sub",
        bound_audiences=[AUDIENCE],
        bound_claims={
            "lockstep_role": "orders",
            "lockstep_manifests": [MANIFEST],
            "lockstep_mode": "enforce",
        },
        token_policies=["payments"],
        token_ttl="10m",
    )
    ground.root.write(
        "auth/gate/role/witnessed",
        role_type="jwt",
        user_claim="sub",
        bound_audiences=[AUDIENCE],
        bound_claims={"lockstep_assurance": ["witnessed", "kernel"]},
        token_policies=["payments"],
    )
    vault = VaultBackend("vault", ground.options(), SystemClock(), "R-1")
    yield Scene(ground, JwtRing(signing, issuer=ISSUER, token_type=GATE_TYPE), vault)
    await vault.close()


def granted(now: float, **changes: Any) -> Grant:
    base = grant_at(now, backend="gate", handle="", account_id="C-1", **changes)
    return replace(base, parameters={"role": "payments"})


class TestGate(BackendSuite):
    @pytest.fixture
    def now(self) -> float:
        return time.time()

    @pytest.fixture
    def backend(self, scene: Scene) -> GateBackend:
        return scene.gate

    @pytest.fixture
    def grant(self, now: float) -> Grant:
        return granted(now)

    async def test_taking_back_is_idempotent_and_confirmed(  # type: ignore[override]
        self, backend: GateBackend, grant: Grant, now: float
    ) -> None:
        """With its instance; alone a token ends by itself, at most a minute later, and the confirmation says so."""
        issued = await backend.issue(grant)
        lease = replace(
            grant.lease, state=LeaseState.REVOKING, handle=issued.handle, expires_at=issued.expires_at
        )
        for _ in range(2):
            await backend.revoke(lease)
            alone = await backend.confirm(lease, now)
            assert (alone.result, alone.until) == (Confirmation.UNTIL_EXPIRY, issued.expires_at)
        assert (await backend.confirm(lease, issued.expires_at)).result is Confirmation.GONE
        for _ in range(2):
            await backend.accounts.freeze(lease.attestation_id)
            assert (await backend.confirm(lease, now)).result is Confirmation.GONE

    async def test_taking_back_one_leaves_the_other(  # type: ignore[override]
        self, backend: GateBackend, grant: Grant, now: float
    ) -> None:
        other = replace(grant, lease=replace(grant.lease, id="L-2", attestation_id="A-2"))
        await backend.issue(grant)
        await backend.issue(other)
        await backend.accounts.freeze("A-1")
        assert await backend.accounts.stopped("A-1")
        assert not await backend.accounts.stopped("A-2")


async def test_a_workload_logs_in_and_reads_what_its_policy_gives(scene: Scene) -> None:
    issued = await scene.gate.issue(granted(time.time()))
    assert issued.parameters["login"] == "auth/gate/login"
    auth = scene.login(issued.credential.token)
    theirs = scene.ground.root.as_token(auth["client_token"])
    assert theirs.read("kv/data/pay")["data"] == {"key": "theirs"}
    # The login that made the entity was given back: this one is the only token of it.
    accessors = scene.ground.root.listed("auth/token/accessors")
    assert accessors.count(auth["accessor"]) == 1
    entity = scene.ground.root.read(f"identity/entity/id/{auth['entity_id']}")
    assert [alias["name"].lower() for alias in entity["aliases"]] == ["a-1"]


async def test_revoked_every_token_and_every_login_is_refused(scene: Scene) -> None:
    from tests.support.openbao import Refused

    issued = await scene.gate.issue(granted(time.time()))
    theirs = scene.ground.root.as_token(scene.login(issued.credential.token)["client_token"])
    await scene.gate.accounts.freeze("A-1")
    with pytest.raises(Refused) as refused:
        theirs.read("kv/data/pay")
    assert refused.value.status == 403
    with pytest.raises(Refused):
        scene.login(issued.credential.token)
    assert (await scene.gate.accounts.confirm(scene.account(), time.time())).result is Confirmation.GONE
    # Another process, which does not know the entity, has no way around it.
    fresh = scene.another("R-2")
    with pytest.raises(LockstepError):
        await fresh.issue(granted(time.time()))


async def test_an_instance_is_stopped_whose_first_login_nobody_remembers(scene: Scene) -> None:
    issued = await scene.gate.issue(granted(time.time()))
    auth = scene.login(issued.credential.token)
    await scene.gate.accounts.close(scene.account())
    await scene.gate.accounts.freeze("A-1")
    assert scene.ground.root.read(f"identity/entity/id/{auth['entity_id']}")["disabled"] is True


async def test_stopping_who_never_came_is_no_error(scene: Scene) -> None:
    await scene.gate.accounts.freeze("A-9")
    assert (await scene.gate.accounts.confirm(scene.account("A-9"), time.time())).result is Confirmation.GONE


async def test_who_was_stopped_before_its_first_login_gets_none(scene: Scene) -> None:
    await scene.gate.accounts.freeze("A-1")
    with pytest.raises(Denied) as refused:
        await scene.gate.issue(granted(time.time()))
    assert refused.value.reason is Reason.REVOKED
    assert await scene.gate.accounts.confirm(scene.account(), time.time()) == Confirmed(
        Confirmation.GONE, "entity disabled, or never made"
    )


async def test_who_is_stopped_while_its_first_login_is_on_its_way_is_stopped_when_it_arrives(
    scene: Scene,
) -> None:
    with Relay(scene.ground.server.port) as relay:
        options = scene.ground.options(addresses=(f"https://{relay.address}",), connections=1)
        vault = VaultBackend("vault", options, SystemClock(), "R-1")
        gate = scene.another("R-1", session=vault.session)
        # Ways to stop and to take stand; the login will open one of its own.
        await gate.accounts.attestations()
        relay.hold()
        issuing = asyncio.create_task(gate.issue(granted(time.time())))
        assert await asyncio.to_thread(relay.held.wait, 10)
        await gate.accounts.freeze("A-1")
        assert not gate.accounts.quiet("A-1")
        relay.release()
        with pytest.raises(Denied) as refused:
            await issuing
        assert refused.value.reason is Reason.REVOKED
        assert refused.value.without_effect
        assert gate.accounts.quiet("A-1")
        # The login was answered all the same: there is an entity now, and it is disabled.
        [entity] = [
            scene.ground.root.read(f"identity/entity/id/{key}")
            for key in scene.ground.root.listed("identity/entity/id")
            if "a-1" in str(scene.ground.root.read(f"identity/entity/id/{key}")).lower()
        ]
        assert entity["disabled"] is True
        await gate.accounts.close(scene.account())
        found = await gate.accounts.confirm(scene.account(), time.time())
        assert found.result is Confirmation.GONE
        await vault.close()


async def test_what_arrives_after_everybody_has_gone_is_stopped_when_the_account_is_closed(
    scene: Scene,
) -> None:
    await scene.gate.accounts.freeze("A-1")
    # The login of a process that has died, or was not waited for.
    scene.login(scene.gate._token(granted(time.time())))
    assert not await scene.gate.accounts.stopped("A-1")
    await scene.gate.accounts.close(scene.account())
    assert await scene.gate.accounts.stopped("A-1")


async def test_code_that_the_policy_does_not_name_is_denied_at_the_broker(scene: Scene) -> None:
    other = replace(granted(time.time()), manifests=(b"x" * 32,))
    with pytest.raises(Denied) as refused:
        await scene.gate.issue(other)
    assert refused.value.reason is Reason.NOT_ENTITLED
    weak = replace(granted(time.time()), parameters={"role": "witnessed"})
    with pytest.raises(Denied):
        await scene.gate.issue(weak)
    strong = granted(time.time(), assurance=Assurance.WITNESSED)
    await scene.gate.issue(replace(strong, parameters={"role": "witnessed"}))


async def test_a_token_lives_a_minute_at_most(scene: Scene) -> None:
    now = time.time()
    issued = await scene.gate.issue(granted(now, expires_at=now + 3000))
    assert now + 58 <= issued.expires_at <= now + 60


async def test_who_is_not_stopped_is_listed_and_strangers_are_not(scene: Scene) -> None:
    known = "A-01mcc5rm000000000000000001"
    stopped = "A-01mcc5rm000000000000000002"
    for attestation_id in (known, stopped):
        await scene.gate.issue(granted(time.time(), attestation_id=attestation_id))
    await scene.gate.accounts.freeze(stopped)
    scene.ground.root.write(
        "identity/entity-alias",
        name="somebody",
        canonical_id=scene.ground.root.write("identity/entity", name="somebody")["data"]["id"],
        mount_accessor=scene.ground.root.read("sys/auth")["gate/"]["accessor"],
    )
    assert await scene.gate.accounts.attestations() == [known]


async def test_a_mount_that_is_not_there_is_said(scene: Scene) -> None:
    gone = scene.another("R-1", mount="nowhere")
    with pytest.raises(Unavailable, match="JWT auth method"):
        await gone.accounts.freeze("A-1")


@pytest.mark.parametrize("parameters", [{}, {"role": ""}, {"role": "a\nb"}, {"role": "a", "path": "x"}])
def test_parameters_that_make_no_login_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"role|path"):
        check_parameters(parameters)

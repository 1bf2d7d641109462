"""The kubernetes and rabbitmq engines of a real OpenBao, at HTTPS servers that behave like a cluster and a broker."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.adapters.backends.vault_setup import Level, Wanted, engines, judge, look
from broker.adapters.backends.vault_setup import opened as eyes_of
from broker.adapters.clock import SystemClock
from broker.errors import Unavailable
from broker.model.credential import Confirmation
from tests.support import vault_shell
from tests.support.https_stub import Stub, https
from tests.support.kubernetes_stub import SHORTEST, Cluster
from tests.support.openbao import OpenBao
from tests.support.rabbitmq_stub import Broker
from tests.support.vault_ground import broker_policy, lay_out
from tests.support.vault_plug import Plug, account, grant, opened, plug

if TYPE_CHECKING:
    from broker.model.credential import Grant, Lease
    from tests.support.vault_ground import Ground

pytestmark = pytest.mark.integration

KUBERNETES, RABBITMQ = "kubernetes/creds/pay", "rabbitmq/creds/pay"
SPACE = {"kubernetes_namespace": "pay"}


class Believing(OpenBao):
    """Trusts an authority as one of the system's."""

    authority_file: Path

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "SSL_CERT_FILE": str(self.authority_file)}


def print_and_run(ground: Ground, parameters: dict[str, Any], **say: str) -> None:
    """As `vault setup --dry-run` prints engine, connection and role; then what instances may use."""
    wanted = Wanted.of("vault", ground.options(), {"pay": parameters})
    for act in engines(wanted):
        vault_shell.run(
            ground.server, ground.namespace, ground.folder, act.command(vault_shell.tool()), **say
        )
    ground.allow(parameters["path"], wanted.uses[0].verb)


async def issued(
    backend: Plug, parameters: dict[str, Any], **lease: Any
) -> tuple[Grant, Lease, dict[str, str]]:
    wanted = grant(backend, await opened(backend, account()), parameters["path"], parameters, **lease)
    answer = await backend.issue(wanted)
    made = replace(wanted.lease, handle=answer.handle, expires_at=answer.expires_at)
    return wanted, made, dict(answer.credential.fields)


class TestKubernetes:
    @pytest.fixture
    def cluster(self) -> Cluster:
        return Cluster()

    @pytest.fixture
    def api(self, cluster: Cluster, tmp_path: Path) -> Iterator[Stub]:
        with https(cluster, tmp_path / "cluster") as stub:
            yield stub

    @pytest.fixture
    def ground(self, openbao_server: OpenBao, tmp_path: Path) -> Ground:
        return lay_out(openbao_server, tmp_path / "ground", sweep=(KUBERNETES,))

    def printed(self, ground: Ground, api: Stub, cluster: Cluster, parameters: dict[str, Any]) -> None:
        token = ground.secret_file("engine-token", cluster.token)
        print_and_run(
            ground,
            parameters,
            KUBERNETES_URL=api.url,
            KUBERNETES_CA=str(api.ca),
            KUBERNETES_TOKEN_FILE=str(token),
            PAY_NAMESPACE="pay",
            PAY_SERVICE_ACCOUNT="found",
            PAY_CLUSTER_ROLE="reader",
        )

    async def test_a_token_of_an_account_that_was_there_lives_on_and_is_said_to(
        self, ground: Ground, api: Stub, cluster: Cluster
    ) -> None:
        parameters = {"path": KUBERNETES, "data": SPACE}
        self.printed(ground, api, cluster, parameters)
        async with plug(ground.options()) as backend:
            _, lease, fields = await issued(backend, parameters)
            token = fields["service_account_token"]
            assert cluster.takes(token)
            await backend.revoke(lease)
            # The engine has nothing that it could delete: nobody takes a requested token back.
            assert cluster.takes(token)
            found = await backend.confirm(lease, time.time())
            assert found.result is Confirmation.UNTIL_EXPIRY
            assert found.until >= time.time() + SHORTEST - 30
            assert found.until >= lease.expires_at

    async def test_no_token_is_asked_for_that_the_api_server_refuses(
        self, ground: Ground, api: Stub, cluster: Cluster
    ) -> None:
        parameters = {"path": KUBERNETES, "data": SPACE}
        self.printed(ground, api, cluster, parameters)
        async with plug(ground.options()) as backend:
            for ends in (60, 1200):
                now = time.time()
                wanted, lease, _ = await issued(backend, parameters, expires_at=now + ends)
                until = (await backend.confirm(lease, now)).until
                assert until == pytest.approx(now + max(ends, SHORTEST), abs=20)
                # The lease itself never lives longer than it was to.
                assert lease.expires_at <= wanted.lease.expires_at

    async def test_an_account_that_was_made_for_the_lease_goes_with_it(
        self, ground: Ground, api: Stub, cluster: Cluster
    ) -> None:
        parameters = {"path": KUBERNETES, "data": SPACE, "revocability": "at_target"}
        self.printed(ground, api, cluster, parameters)
        async with plug(ground.options()) as backend:
            _, lease, fields = await issued(backend, parameters)
            token = fields["service_account_token"]
            assert f"pay/{fields['service_account_name']}" in cluster.accounts
            assert cluster.takes(token)
            cluster.broken = True
            with pytest.raises(Unavailable):
                await backend.revoke(lease)
            assert (await backend.confirm(lease, time.time())).result is Confirmation.ALIVE
            cluster.broken = False
            await backend.revoke(lease)
            assert (await backend.confirm(lease, time.time())).result is Confirmation.GONE
            assert not cluster.takes(token)
            assert (cluster.accounts, cluster.bindings) == ({"pay/found"}, set())

    async def test_a_check_finds_engine_and_role(self, ground: Ground, api: Stub, cluster: Cluster) -> None:
        parameters = {"path": KUBERNETES, "data": SPACE}
        self.printed(ground, api, cluster, parameters)
        options = ground.options()
        wanted = Wanted.of("vault", options, {"pay": parameters})
        with eyes_of(options, SystemClock(), ground.server.root.token) as eyes:
            found = judge(wanted, await look(wanted, options.login, eyes))
        assert [item.level for item in found if item.key == "engine"] == [Level.GOOD]


@pytest.fixture(scope="module")
def broker() -> Broker:
    return Broker("vault", secrets.token_urlsafe(16))


@pytest.fixture(scope="module")
def management(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    with https(broker, tmp_path_factory.mktemp("rabbitmq")) as stub:
        yield stub


@pytest.fixture(scope="module")
def server(management: Stub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """The engine takes no authority of its own: the server has to believe the system's."""
    server = Believing(tmp_path_factory.mktemp("believing"))
    server.authority_file = management.ca
    try:
        server.start()
        yield server
    finally:
        server.stop()


class TestRabbitMQ:
    @pytest.fixture
    def ground(self, server: OpenBao, management: Stub, broker: Broker, tmp_path: Path) -> Ground:
        ground = lay_out(server, tmp_path / "ground", sweep=(RABBITMQ,))
        password = ground.secret_file("rabbitmq-password", broker.users["vault"])
        print_and_run(
            ground,
            {"path": RABBITMQ},
            RABBITMQ_URL=management.url,
            RABBITMQ_USER="vault",
            RABBITMQ_PASSWORD_FILE=str(password),
            PAY_QUEUE="payments",
        )
        return ground

    async def test_a_user_is_made_for_the_lease_and_goes_with_it(
        self, ground: Ground, broker: Broker
    ) -> None:
        async with plug(ground.options()) as backend:
            _, lease, fields = await issued(backend, {"path": RABBITMQ})
            user, password = fields["username"], fields["password"]
            assert broker.lets_in(user, password)
            assert broker.permissions["/", user]["read"] == "payments"
            assert not broker.permissions["/", user].get("write")
            await backend.revoke(lease)
            assert (await backend.confirm(lease, time.time())).result is Confirmation.GONE
            assert not broker.lets_in(user, password)
            assert broker.permissions == {}

    async def test_a_broker_that_does_not_drop_it_is_no_success(self, ground: Ground, broker: Broker) -> None:
        async with plug(ground.options()) as backend:
            _, lease, fields = await issued(backend, {"path": RABBITMQ})
            broker.broken = True
            try:
                with pytest.raises(Unavailable):
                    await backend.revoke(lease)
            finally:
                broker.broken = False
            assert broker.lets_in(fields["username"], fields["password"])
            assert (await backend.confirm(lease, time.time())).result is Confirmation.ALIVE
            await backend.revoke(lease)
            assert (await backend.confirm(lease, time.time())).result is Confirmation.GONE
            assert list(broker.users) == ["vault"]

    async def test_a_user_goes_with_the_account(self, ground: Ground, broker: Broker) -> None:
        ground.restrict(broker_policy((RABBITMQ,)))
        async with plug(ground.options()) as backend:
            held = await opened(backend, account())
            answer = await backend.issue(grant(backend, held, RABBITMQ))
            await backend.accounts.close(held)
            assert (await backend.accounts.confirm(held, time.time())).result is Confirmation.GONE
            # Dropped in the background: by lease id it is waited for.
            await backend.accounts.revoke_stray(answer.handle)
            assert list(broker.users) == ["vault"]

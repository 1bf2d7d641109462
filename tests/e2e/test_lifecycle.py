"""The broker leaves, crashes, comes back and reloads, and nobody's standing depends on it."""

from __future__ import annotations

import json
import shutil
import signal
import ssl
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from lockstep.v1 import credential_pb2, revocation_pb2
from lockstep_client.errors import LockstepError
from lockstep_client.operator import Operator
from tests.support.actors import Actor, acting, until
from tests.support.brokers import Broker, dev_broker, fresh_certificate
from tests.support.relay import Relay
from tests.support.watching import Watcher
from tests.support.wire import Refused, Wire, Workload, envelope, publish

HERE = Path(__file__).parent
WORKER = [sys.executable, str(HERE / "programs" / "worker.py")]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that these tests may stop; each leaves it running."""
    folder = tmp_path_factory.mktemp("lifecycle")
    roles = Path(shutil.copy(HERE / "roles.toml", folder / "roles.toml"))
    with dev_broker(folder / "dev", roles) as running:
        publish(running, envelope(running, "app", "lib"))
        yield running


def worker_env(broker: Broker, subject: str, **changes: str) -> dict[str, str]:
    """A workload whose role observes."""
    return {**broker.env(subject), "WORKER_ROLE": "worker", **changes}


def attested(wire: Wire, broker: Broker, subject: str) -> Workload:
    """An approved instance."""
    workload = Workload(wire, broker.token(subject))
    workload.attest("app", roles=["app"])
    return workload


def revoke(broker: Broker, attestation_id: str) -> revocation_pb2.RevokeResponse:
    """As the folder's operator."""
    with Operator(broker.operator_settings()) as operator:
        selector = revocation_pb2.Selector(attestation_id=attestation_id)
        return operator.revoke(selector, reason="told so")


def usable(worker: Actor) -> bool:
    """It holds a credential and hears the broker."""
    found = worker.ask("use")
    return bool(found["usable"] and found["ready"])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed"])
def test_a_restart_costs_no_lease_and_forgets_no_revocation(own: Broker, how: signal.Signals) -> None:
    name = how.name.lower()
    with acting("worker", WORKER, worker_env(own, f"worker-{name}")) as worker:
        attestation = worker.hear("ready")["attestation"]
        with Wire(own.address, own.ca) as wire:
            survivor = attested(wire, own, f"app-survivor-{name}")
            lease = survivor.issue("app").lease.lease_id
            fallen = attested(wire, own, f"app-fallen-{name}")
            fallen.issue("app")
            revoke(own, fallen.attestation_id)

        if how is signal.SIGTERM:
            assert own.stop() == 0
        else:
            own.kill()
        # Nobody is there, and what was granted is still good for its time.
        assert worker.ask("use")["usable"]
        own.start()

        with Wire(own.address, own.ca) as wire:
            survivor.wire = fallen.wire = wire
            survivor.reattest()
            assert survivor.renew(lease).lease.lease_id == lease
            with pytest.raises(Refused) as refused:
                fallen.issue("app")
            assert refused.value.reason == "revoked"
        until(lambda: usable(worker), "the SDK has found the broker again")

        # Found, and listening: what happens now reaches it.
        answer = revoke(own, attestation)
        told = worker.hear("revoked")
        assert told["revocation"] == answer.revocation_id
        assert not told["usable"]
        assert not worker.ask("use")["usable"]


def test_what_was_answered_before_a_crash_is_denied_after_it(own: Broker) -> None:
    with Wire(own.address, own.ca) as wire:
        workloads = [attested(wire, own, f"app-crash-{number}") for number in range(24)]
        for workload in workloads:
            workload.issue("app")
    answered: list[Workload] = []
    enough = threading.Event()

    def take(workload: Workload) -> None:
        try:
            revoke(own, workload.attestation_id)
        except LockstepError:
            return  # never answered: either is right
        answered.append(workload)
        if len(answered) >= 6:
            enough.set()

    with ThreadPoolExecutor(6) as pool:
        for workload in workloads:
            pool.submit(take, workload)
        assert enough.wait(15)
        own.kill()
    own.start()

    assert len(answered) >= 6
    with Wire(own.address, own.ca) as wire:
        for workload in answered:
            workload.wire = wire
            with pytest.raises(Refused) as refused:
                workload.issue("app")
            assert refused.value.reason == "revoked"
    # And what is left to clean gets cleaned: no lease of theirs stays live.
    for workload in answered:
        until(
            lambda workload=workload: states(own, workload) == {"LEASE_STATE_REVOKED"},
            "the lease of a revoked instance is cleaned after a crash",
        )


def states(broker: Broker, workload: Workload) -> set[str]:
    """Of an instance's leases."""
    with Operator(broker.operator_settings()) as operator:
        found = operator.leases(attestation_id=workload.attestation_id)
        return {credential_pb2.LeaseState.Name(lease.state) for lease in found}


def test_a_revocation_reaches_who_was_away(own: Broker) -> None:
    with Relay(own.ports["tls"]) as relay:
        env = worker_env(own, "worker-away", LOCKSTEP_ADDRESS=relay.address)
        with acting("worker", WORKER, env) as worker:
            attestation = worker.hear("ready")["attestation"]
            relay.cut()
            answer = revoke(own, attestation)
            assert worker.ask("use")["usable"], "it cannot know yet"

            relay.mend()

            assert worker.hear("revoked")["revocation"] == answer.revocation_id
            found = worker.ask("use")
            assert (found["usable"], found["kind"]) == (False, "Revoked")


def test_a_watch_resumes_where_it_was(own: Broker) -> None:
    with Wire(own.address, own.ca) as wire:
        operator = own.token("dev-operator")
        with Watcher.bearer(wire, operator) as watcher:
            position = watcher.next("snapshot").snapshot.position
        first = revoke(own, attested(wire, own, "app-resume-1").attestation_id)
        second = revoke(own, attested(wire, own, "app-resume-2").attestation_id)

        with Watcher.bearer(wire, operator, position) as watcher:
            seen: list[str] = []
            while second.revocation_id not in seen:
                seen.append(watcher.next("event").event.revocation_id)
        assert first.revocation_id in seen

        # A position of another log, or of one that is not true, begins anew.
        for wrong in (
            revocation_pb2.LogPosition(log_id="another", seq=position.seq, hash=position.hash),
            revocation_pb2.LogPosition(log_id=position.log_id, seq=10**9, hash=position.hash),
            revocation_pb2.LogPosition(log_id=position.log_id, seq=second.position.seq, hash=b"x" * 32),
        ):
            with Watcher.bearer(wire, operator, wrong) as watcher:
                assert watcher.next("resync").resync.reason


def server_certificate(broker: Broker) -> bytes:
    """What the doors show to a new connection, DER."""
    host, _, port = broker.address.partition(":")
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port)), timeout=5))


def test_a_reload_keeps_an_open_watch(own: Broker) -> None:
    roles = own.folder.parent / "roles.toml"
    with Wire(own.address, own.ca) as wire:
        workload = attested(wire, own, "app-reload")
        with Watcher.of(workload) as watcher:
            watcher.next("snapshot")
            # A new certificate, and a role that was not there.
            fresh = fresh_certificate(own)
            before = roles.read_text()
            roles.write_text(before + before[before.index("[roles.app]") : before.index("[roles.again]")]
                             .replace("roles.app", "roles.fresh").replace("app-*", "fresh-*"))  # fmt: skip
            assert own.reload()

            assert server_certificate(own) == ssl.PEM_cert_to_DER_cert(fresh.decode())
            with Wire(own.address, own.ca) as second:
                Workload(second, own.token("fresh-one")).attest("app", roles=["fresh"])
            watcher.ping(7)
            assert watcher.next("beat").beat.ping_id == 7
            answer = revoke(own, workload.attestation_id)
            assert watcher.next("event").event.revocation_id == answer.revocation_id
        roles.write_text(before)
        assert own.reload()


def test_a_broker_that_leaves_says_so(own: Broker) -> None:
    with Wire(own.address, own.ca) as wire:
        workload = attested(wire, own, "app-drain")
        with Watcher.of(workload) as watcher:
            watcher.next("snapshot")
            watcher.ping(1)
            watcher.next("beat")

            own.signal(signal.SIGTERM)

            beat = watcher.next("beat").beat
            assert beat.going_away
            assert 0 < beat.grace.ToTimedelta().total_seconds() <= 60
            watcher.ended()
        assert own.wait() == 0
        with pytest.raises(Refused) as refused:
            workload.issue("app")
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    own.start()


def test_a_second_broker_over_one_state_is_refused(own: Broker) -> None:
    second = Broker(own.folder, ["serve", "--config", str(own.folder / "lockstep.toml")])
    with pytest.raises(AssertionError, match="another broker has this state open"):
        second.start()
    assert second.wait() == 4
    assert json.loads(own.cli("leases", "--json")) is not None

"""kill -9 between any two steps of attest, issue, renew, report, revoke, give back and lift, on the real process; then
a restart: what was answered holds, what was not answered holds or was never there, and nobody gets two of one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lockstep.v1 import credential_pb2, revocation_pb2
from lockstep_client.errors import LockstepError
from lockstep_client.operator import Operator
from tests.support.actors import Missing
from tests.support.brokers import Broker, dev_broker
from tests.support.doors import detection, post_form, report
from tests.support.dying import ANSWER, COMMIT, copied, dying, plain, strace, traced
from tests.support.wire import Refused, Wire, Workload, envelope, publish

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not strace(), reason="no strace that may trace: `make servers` unpacks it where there is apt"
    ),
]

ROLES = Path(__file__).parent / "roles.toml"
ABREAST = 3
"""Lives at once: each mostly waits."""
REVOKE_LEASE = "/lockstep.v1.CredentialService/RevokeLease"


@dataclass
class Heard:
    """What the outside was told by a broker that is gone. What was begun and not answered may or may not hold."""

    tokens: dict[str, str] = field(default_factory=dict)
    """Lease id → its last token."""
    owner: dict[str, str] = field(default_factory=dict)
    """Lease id → workload."""
    ended: set[str] = field(default_factory=set)
    """Names of workloads whose end was answered, and ids of leases."""
    ending: set[str] = field(default_factory=set)
    """The same, begun."""
    lifted: bool = False


class Story:
    """Three workloads and what becomes of them. Each step says first what it begins, and last what was answered."""

    def __init__(self, broker: Broker, wire: Wire) -> None:
        self.broker = broker
        self.heard = Heard()
        self.people = {
            name: Workload(wire, broker.token(f"again-{name}")) for name in ("kept", "reported", "revoked")
        }
        self._act = ""

    def steps(self) -> Iterator[Callable[[], None]]:
        """In order."""
        for name in self.people:
            yield lambda name=name: self.attest(name)  # type: ignore[misc]
            yield lambda name=name: self.issue(name)  # type: ignore[misc]
        yield lambda: self.issue("kept")
        yield self.renew
        yield self.give_back
        yield self.report
        yield self.revoke
        yield self.lift

    def attest(self, name: str) -> None:
        self.people[name].attest("app", roles=["again"])

    def issue(self, name: str) -> None:
        answer = self.people[name].issue("again")
        self.heard.tokens[answer.lease.lease_id] = answer.credential.token
        self.heard.owner[answer.lease.lease_id] = name

    def renew(self) -> None:
        kept = self.people["kept"]
        kept.reattest()
        lease = self._leases("kept")[0]
        self.heard.tokens[lease] = kept.renew(lease).credential.token

    def give_back(self) -> None:
        lease = self._leases("kept")[1]
        self.heard.ending.add(lease)
        request = credential_pb2.RevokeLeaseRequest(
            attestation_id=self.people["kept"].attestation_id, lease_id=lease
        )
        self.people["kept"].call(REVOKE_LEASE, request, credential_pb2.RevokeLeaseResponse)
        self.heard.ended.add(lease)

    def report(self) -> None:
        self.heard.ending.add("reported")
        subject = {"attestation_id": self.people["reported"].attestation_id}
        seen = {"path": "/tmp/x.py", "sha256": "ab" * 32}
        answer = report(self.broker, detection(subject=subject, object=seen))
        assert answer.status == 202, answer
        self.heard.ended.add("reported")

    def revoke(self) -> None:
        self.heard.ending.add("revoked")
        with Operator(self.broker.operator_settings()) as operator:
            selector = revocation_pb2.Selector(attestation_id=self.people["revoked"].attestation_id)
            self._act = operator.revoke(selector, reason="told so").revocation_id
        self.heard.ended.add("revoked")

    def lift(self) -> None:
        with Operator(self.broker.operator_settings()) as operator:
            operator.lift(self._act, reason="wrong one")
        self.heard.lifted = True

    def _leases(self, name: str) -> list[str]:
        return [lease for lease, owner in self.heard.owner.items() if owner == name]


def lived(broker: Broker) -> Story:
    """As much of the story as the broker lives to see."""
    with Wire(broker.address, broker.ca) as wire:
        story = Story(broker, wire)
        for step in story.steps():
            try:
                step()
            except (Refused, LockstepError, OSError):
                assert broker.wait() == -9, broker.log[-3000:]
                break
    return story


def check(broker: Broker, story: Story) -> None:
    """Hold a broker that was started again against what was heard from the one before."""
    heard, server = story.heard, broker.token("dev-resource-server")

    def good(token: str) -> bool:
        found: dict[str, Any] = post_form(broker, "/v1/introspect", server, token=token).body
        return bool(found["active"])

    with Operator(broker.operator_settings()) as operator:
        known = {lease.lease_id: lease for lease in operator.leases()}
        log = [item.selector.attestation_id for item in operator.revocations()]
    for lease, token in heard.tokens.items():
        names = {lease, heard.owner[lease]}
        assert lease in known, f"a credential that no row knows: {lease}"
        if names & heard.ended:
            assert not good(token), f"what was answered as revoked is good again: {lease}"
        elif not names & heard.ending:
            assert good(token), f"a restart has cost a lease: {lease}"
    with Wire(broker.address, broker.ca) as wire:
        for name, workload in story.people.items():
            if not workload.attestation_id:
                continue
            workload.wire = wire
            if name in heard.ended:
                assert workload.attestation_id in log, f"{name}: its revocation is forgotten"
                with pytest.raises(Refused) as refused:
                    workload.issue("again")
                assert refused.value.reason == "revoked", name
            elif name not in heard.ending:
                # It goes on as if nothing had been, and its credential is one that the store knows.
                assert good(workload.issue("again").credential.token), name
    requests = [
        (lease.attestation_id, lease.decision_id)
        for lease in known.values()
        if lease.state == credential_pb2.LEASE_STATE_ACTIVE
    ]
    assert len(requests) == len(set(requests)), "one grant has made two leases"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dev folder with a manifest in force, which nobody serves."""
    folder = tmp_path_factory.mktemp("crashes")
    roles = Path(shutil.copy(ROLES, folder / "roles.toml"))
    with dev_broker(folder / "dev", roles) as broker:
        publish(broker, envelope(broker, "app", "lib"))
    return folder


def life(template: Path, folder: Path, call: str, number: int) -> tuple[Story | None, int]:
    """One life and the look after it: the story, None where it died before it could be told; and the calls."""
    copied(template / "dev", folder)
    roles = template / "roles.toml"
    broker = dying(folder, roles, call, number)
    try:
        broker.start()
    except Missing:
        # Before it was ready: whoever comes next finds what was there before.
        story = None
    else:
        story = lived(broker)
    finally:
        broker.kill()
    again = plain(folder, roles)
    try:
        again.start()
        if story is not None:
            check(again, story)
    except AssertionError as error:
        raise AssertionError(f"killed at {call} {number}: {error}") from error
    finally:
        again.kill()
    return story, traced(folder)


@pytest.mark.parametrize("call", [COMMIT, ANSWER])
def test_whenever_it_is_killed_what_was_answered_holds(template: Path, tmp_path: Path, call: str) -> None:
    whole, calls = life(template, tmp_path / "whole", call, 0)
    assert whole is not None
    assert whole.heard.lifted
    assert calls > 10
    with ThreadPoolExecutor(ABREAST) as pool:
        lives = [
            pool.submit(life, template, tmp_path / f"{number}", call, number)
            for number in range(1, calls + 1)
        ]
        stories = [each.result() for each in lives]
    told = [story.heard for story, _ in stories if story is not None]
    # It did die on the way, at points that are apart.
    assert len({(len(heard.tokens), len(heard.ending), len(heard.ended)) for heard in told}) > 5
    assert not all(heard.lifted for heard in told)


def test_a_write_that_is_lost_is_found(template: Path, tmp_path: Path) -> None:
    """What the walk looks for, planted: a state that has forgotten the last thing that was answered."""
    roles = template / "roles.toml"
    for step in ("issue", "revoke"):
        folder = copied(template / "dev", tmp_path / step)
        broker = plain(folder, roles)
        broker.start()
        with Wire(broker.address, broker.ca) as wire:
            story = Story(broker, wire)
            story.attest("revoked")
            if step == "revoke":
                story.issue("revoked")
            broker.kill()
            shutil.copytree(folder / "state", tmp_path / f"{step}-before")
            broker.start()
        with Wire(broker.address, broker.ca) as wire:
            story.people["revoked"].wire = wire
            getattr(story, step)(*(["revoked"] if step == "issue" else []))
        broker.kill()
        shutil.rmtree(folder / "state")
        shutil.copytree(tmp_path / f"{step}-before", folder / "state")
        broker.start()
        try:
            with pytest.raises(AssertionError, match=r"no row knows|good again"):
                check(broker, story)
        finally:
            broker.kill()

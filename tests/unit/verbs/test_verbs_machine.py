"""The whole broker as a state machine: whatever happens in whatever order, no denial is outrun and no end undone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.errors import LockstepError
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.evidence import Assurance, ProcessRef
from broker.model.identity import IdentityMatch, InstanceClaims
from broker.model.requests import AttestAnswer, IssueAnswer
from broker.model.revocation import EntryKind, LogEntry, SelectorKind
from broker.model.role import AfterRevocation, Cap, Mode
from tests.support.house import House, Workload, book, policy, role
from tests.support.manifests import unit

T = TypeVar("T")

ROLES = (
    role("api", after_revocation=AfterRevocation.RETRY),
    role("db", backend="db", after_revocation=AfterRevocation.RETRY, parameters={}),
    role("watched", mode=Mode.OBSERVE, identity=IdentityMatch("oidc", subject="watched")),
)
PLACES = st.integers(min_value=0, max_value=3)
SUBJECTS = st.sampled_from(["payments", "payments", "watched"])
DETECTOR = policy(cap=Cap(2, 1.0, 120.0))
TERMINAL = {LeaseState.REVOKED, LeaseState.EXPIRED}


class Machine(RuleBasedStateMachine):
    """Verbs of two brokers on one state, weather, and a clock."""

    alone = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.ended: dict[str, LeaseState] = {}
        self.over: dict[str, AttestationState] = {}
        self.as_of: dict[str, int] = {}
        self.cuts: dict[str, int] = {}
        self.head = 0
        self.other: tuple[Any, ...] | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def attempt(self, work: Coroutine[Any, Any, T]) -> T | LockstepError:
        """Anything that the broker may say is an answer; anything else is a bug."""
        try:
            return self.run(work)
        except LockstepError as error:
            return error

    @initialize()
    def begin(self) -> None:
        self.house = self.run(House.open(*ROLES, publish=False, alone=self.alone))
        self.version = 1
        self.run(self.house.publish(1, "app", "lib", "plugin"))
        self.workloads: list[Workload] = []
        for place in range(3):
            self._attest("payments", place, "app lib", witnessed=place == 2)
        self.answers: list[tuple[Workload, IssueAnswer]] = []

    # --- workloads --------------------------------------------------------------------------------

    @rule(
        subject=SUBJECTS,
        place=PLACES,
        witnessed=st.booleans(),
        code=st.sampled_from(["app", "app lib", "app evil"]),
    )
    def attest(self, subject: str, place: int, witnessed: bool, code: str) -> None:
        self._attest(subject, place, code, witnessed=witnessed)

    def _attest(self, subject: str, place: int, code: str, *, witnessed: bool) -> None:
        workload = self._workload(subject, place, witnessed=witnessed)
        self._attested(workload, self.attempt(workload.attest(*code.split())))
        if workload.id:
            self.workloads.append(workload)

    def _workload(self, subject: str, place: int, *, witnessed: bool) -> Workload:
        return self.house.workload(
            subject,
            place=InstanceClaims(node=f"node-{place % 2}", pod_uid=f"pod-{place}"),
            process=ProcessRef(node=f"node-{place % 2}", boot_id="b", pid=place + 1, start_ticks=place + 1),
            level=Assurance.WITNESSED if witnessed else Assurance.SELF,
        )

    @precondition(lambda self: self.workloads)
    @rule(data=st.data(), added=st.sampled_from(["", "", "lib", "plugin", "evil"]))
    def reattest(self, data: st.DataObject, added: str) -> None:
        workload = data.draw(st.sampled_from(self.workloads))
        self.attempt(workload.reattest(*added.split()))

    @precondition(lambda self: self.workloads)
    @rule(data=st.data(), again=st.booleans())
    def issue(self, data: st.DataObject, again: bool) -> None:
        workload = data.draw(st.sampled_from(self.workloads))
        name = data.draw(st.sampled_from(["api", "db", "watched"]))
        answer = self.attempt(workload.issue(name, "same" if again else ""))
        if isinstance(answer, IssueAnswer):
            self._granted(workload, answer)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        workload, answer = data.draw(st.sampled_from(self.answers))
        renewed = self.attempt(workload.renew(answer.lease.id))
        if isinstance(renewed, IssueAnswer):
            self._granted(workload, renewed)

    @precondition(lambda self: self.workloads)
    @rule(data=st.data(), seconds=st.sampled_from([0.5, 20.0]))
    def refresh_and_renew(self, data: st.DataObject, seconds: float) -> None:
        workload = data.draw(st.sampled_from(self.workloads))
        self.house.clock.advance(seconds)
        self.attempt(workload.reattest())
        for owner, answer in self.answers[-4:]:
            if owner is workload:
                renewed = self.attempt(workload.renew(answer.lease.id))
                if isinstance(renewed, IssueAnswer):
                    self._granted(workload, renewed)

    @precondition(lambda self: self.workloads)
    @rule(data=st.data(), ban=st.booleans())
    def revoke_and_outrun(self, data: st.DataObject, ban: bool) -> None:
        """Right after a revocation, before any upkeep: whatever it hits tries to get away."""
        kind, value = self._selector(data)
        self.attempt(self.house.revoke(kind, value, ban=ban))
        for workload in self.workloads[-3:]:
            self.attempt(workload.reattest())
            answer = self.attempt(workload.issue(data.draw(st.sampled_from(["api", "db"]))))
            if isinstance(answer, IssueAnswer):
                self._granted(workload, answer)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        workload, answer = data.draw(st.sampled_from(self.answers))
        self.attempt(self.house.issuer.give_back(workload.caller(), answer.lease.id))

    # --- those who take trust back ----------------------------------------------------------------

    def _selector(self, data: st.DataObject) -> tuple[SelectorKind, str]:
        place = data.draw(PLACES)
        known = [
            (SelectorKind.NODE, f"node-{place % 2}"),
            (SelectorKind.POD, f"pod-{place}"),
            (SelectorKind.IDENTITY, "https://issuer.example|payments"),
            (SelectorKind.DIGEST, unit("lib").digest.hex()),
            (SelectorKind.DIGEST, unit("plugin").digest.hex()),
        ]
        for workload in self.workloads[-2:]:
            known.append((SelectorKind.ATTESTATION, workload.id))
            known.append((SelectorKind.KEY, workload.thumbprint.hex()))
        for _, answer in self.answers[-2:]:
            known.append((SelectorKind.LEASE, answer.lease.id))
            if answer.lease.handle:
                known.append((SelectorKind.TOKEN, answer.lease.handle))
        return data.draw(st.sampled_from(known))

    @rule(data=st.data(), ban=st.sampled_from([None, None, True, False]), lasts=st.sampled_from([None, 40.0]))
    def revoke(self, data: st.DataObject, ban: bool | None, lasts: float | None) -> None:
        kind, value = self._selector(data)
        until = None if lasts is None else self.house.now + lasts
        self.attempt(self.house.revoke(kind, value, ban=ban, until=until))

    @precondition(lambda self: self.workloads)
    @rule(data=st.data(), how=st.sampled_from(["exact", "pod", "node", "self"]))
    def report(self, data: st.DataObject, how: str) -> None:
        workload = data.draw(st.sampled_from(self.workloads))
        place = workload.place
        if how == "self":
            self.attempt(workload.report_self())
            return
        subject = {
            "exact": {"attestation": workload.id},
            "pod": {"pod_uid": place.pod_uid},
            "node": {"node": place.node},
        }[how]
        self.attempt(self.house.report(detector=DETECTOR, **subject))  # type: ignore[arg-type]

    @rule(data=st.data())
    def lift(self, data: st.DataObject) -> None:
        made = self.run(self.house.look(lambda tx: tx.revocations.page(1000)))
        if made:
            self.attempt(self.house.lift(data.draw(st.sampled_from(made)).id))

    # --- operators --------------------------------------------------------------------------------

    @rule(units=st.sampled_from(["app lib", "app lib plugin", "app"]))
    def publish(self, units: str) -> None:
        self.version += 1
        self.attempt(self.house.publish(self.version, *units.split()))

    @rule(data=st.data(), withdraw=st.booleans())
    def take_back_a_manifest(self, data: st.DataObject, withdraw: bool) -> None:
        manifests = sorted(self.house.state._tables.manifests)
        digest = data.draw(st.sampled_from(manifests))
        publisher = self.house.publisher
        verb = publisher.withdraw if withdraw else publisher.retire
        self.attempt(verb(digest, "operator:ann", "because", ""))

    @rule(mode=st.sampled_from([Mode.ENFORCE, Mode.OBSERVE]))
    def turn(self, mode: Mode) -> None:
        """A role goes from observe to enforce, or back: that by itself takes nothing from anybody."""
        watched = role("watched", mode=mode, identity=IdentityMatch("oidc", subject="watched"))
        self.house.state.calm()
        decided = set(self.house.state._tables.revocations)
        self.house.people.book = book(*ROLES[:2], watched)
        self.attempt(self.house.upkeep.tick())
        # Upkeep goes on with what was decided before, and with nothing else.
        assert set(self.house.state._tables.revocations) == decided

    # --- weather ----------------------------------------------------------------------------------

    @rule(data=st.data())
    def bad_weather(self, data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            ahead = data.draw(st.integers(min_value=1, max_value=4))
            self.house.state.fail_write(ahead, committed=data.draw(st.booleans()))
        else:
            self.house.db.fail(data.draw(st.sampled_from(["issue", "renew", "revoke", "confirm"])))

    def _meanwhile(
        self, kind: SelectorKind, value: str, data: st.DataObject
    ) -> Callable[[], Awaitable[None]]:
        """A revocation, perhaps by another broker; then perhaps a round of upkeep; then perhaps an outage."""
        house = self.house
        revoker = house.revoker if data.draw(st.booleans()) else self._second()
        cleans, fails = data.draw(st.booleans()), data.draw(st.booleans())

        async def happens() -> None:
            mine, house.revoker = house.revoker, revoker
            try:
                await house.revoke(kind, value)
                if cleans:
                    await house.upkeep.tick()
            except LockstepError:
                pass
            finally:
                house.revoker = mine
            if fails:
                house.db.fail("revoke")

        return happens

    def _own_selector(self, workload: Workload, data: st.DataObject) -> tuple[SelectorKind, str]:
        known = [
            (SelectorKind.NODE, workload.place.node),
            (SelectorKind.POD, workload.place.pod_uid),
            (SelectorKind.IDENTITY, workload.identity.name),
            (SelectorKind.KEY, workload.thumbprint.hex()),
            (SelectorKind.DIGEST, unit("app").digest.hex()),
        ]
        if workload.id:
            known.append((SelectorKind.ATTESTATION, workload.id))
        return data.draw(st.sampled_from(known))

    @precondition(lambda self: self.workloads)
    @rule(data=st.data(), step=st.sampled_from(["1", "2", "before issue", "issue"]))
    def issue_while_it_is_revoked(self, data: st.DataObject, step: str) -> None:
        workload = data.draw(st.sampled_from(self.workloads[-4:]))
        happens = self._meanwhile(*self._own_selector(workload, data), data)
        if step.isdigit():
            self.house.state.before_write(int(step), happens)
        else:
            self.house.db.meanwhile(step, happens)
        answer = self.attempt(workload.issue("db"))
        if isinstance(answer, IssueAnswer):
            self._granted(workload, answer)

    @precondition(lambda self: self.workloads)
    @rule(data=st.data())
    def reattest_while_it_is_revoked(self, data: st.DataObject) -> None:
        workload = data.draw(st.sampled_from(self.workloads[-4:]))
        self.house.state.before_write(1, self._meanwhile(*self._own_selector(workload, data), data))
        self._attested(workload, self.attempt(workload.reattest()))

    @rule(data=st.data(), place=PLACES)
    def attest_while_it_is_revoked(self, data: st.DataObject, place: int) -> None:
        workload = self._workload("payments", place, witnessed=False)
        self.house.state.before_write(1, self._meanwhile(*self._own_selector(workload, data), data))
        self._attested(workload, self.attempt(workload.attest("app")))
        if workload.id:
            self.workloads.append(workload)

    def _attested(self, workload: Workload, answer: object) -> None:
        """It was admitted: nothing that was durable before the answer may stand against it."""
        if not isinstance(answer, AttestAnswer):
            return
        row = self.run(workload.row())
        hits = self._denials_of(workload, "-", "-")
        assert [entry for entry in hits if entry.body.cut and entry.seq > row.as_of] == []
        assert [entry for entry in hits if self._bans(entry)] == []

    def _second(self) -> Any:
        """The revoker of another broker on the same state, where there can be one."""
        if self.alone:
            return self.house.revoker
        if self.other is None:
            house = self.house
            mine = dict(house.__dict__)
            self.run(house.start())
            self.other = (house.revoker,)
            house.__dict__.update(mine)
        return self.other[0]

    @precondition(lambda self: self.answers)
    @rule()
    def restart(self) -> None:
        self.house.state.calm()
        self.run(self.house.start())
        self.other = None

    # --- time -------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.001, 1.0, 30.0, 61.0, 119.999, 120.0, 301.0]))
    def wait(self, seconds: float) -> None:
        self.house.clock.advance(seconds)

    @rule()
    def tick(self) -> None:
        self.attempt(self.house.upkeep.tick())

    # --- what always holds ------------------------------------------------------------------------

    def _granted(self, workload: Workload, answer: IssueAnswer) -> None:
        """A grant was answered: nothing that was durable before its answer may stand against it."""
        lease = answer.lease
        assert lease.expires_at > self.house.now
        row = self.run(workload.row())
        assert row.state is not AttestationState.REVOKED
        assert lease.expires_at <= min(row.expires_at, row.identity.not_after, lease.max_expires_at)
        # Fresh evidence outruns no cut: what once hit it stands against every later grant.
        assert workload.id not in self.cuts
        hits = self._denials_of(workload, lease.id, lease.handle)
        assert [entry for entry in hits if entry.body.cut and entry.seq > lease.as_of] == []
        assert [entry for entry in hits if self._bans(entry)] == []
        self.answers.append((workload, answer))

    def _bans(self, entry: LogEntry) -> bool:
        body = entry.body
        lifted = any(
            item.body.kind is EntryKind.LIFTED and item.body.refers_to == entry.seq
            for item in self.house.state._tables.log.values()
        )
        return body.ban and not lifted and (body.until is None or self.house.now < body.until)

    def _denials_of(self, workload: Workload, lease_id: str, handle: str) -> list[LogEntry]:
        """Log entries that name something of a workload or its lease: worked out without the broker's help."""
        tables = self.house.state._tables
        row = tables.attestations[workload.id]
        loaded = {item.digest.hex() for item in tables.code[row.code_set].units}
        names = {
            ("attestation", workload.id),
            ("lease", lease_id),
            ("token", handle),
            ("identity", workload.identity.name),
            ("key", workload.thumbprint.hex()),
            ("node", workload.place.node),
            ("pod", workload.place.pod_uid),
            *(("digest", item) for item in loaded),
        }
        process = workload.process
        names.add(("process", f"{process.node}/{process.boot_id}/{process.pid}/{process.start_ticks}"))
        return [
            entry
            for entry in tables.log.values()
            if entry.body.kind is EntryKind.REVOKED
            and (entry.body.selector.kind.value, entry.body.selector.value) in names
        ]

    @invariant()
    def a_denied_token_is_never_good(self) -> None:
        self.house.state.reads_down = False
        tables = self.house.state._tables
        for workload, answer in self.answers[-12:]:
            lease = tables.leases[answer.lease.id]
            found = self.run(self.house.issuer.introspect(lease.handle, None))
            if not found.active:
                continue
            assert lease.state is LeaseState.ACTIVE
            assert self.house.now < lease.expires_at
            row = tables.attestations[workload.id]
            assert row.state is AttestationState.ALIVE
            # What this broker has not read yet, it learns by its poll; what it has, it acts upon.
            seen = self.house.feed.denials.seq
            hits = self._denials_of(workload, lease.id, lease.handle)
            since = [e for e in hits if e.body.cut and lease.as_of < e.seq <= seen]
            assert since == []

    @invariant()
    def whoever_is_hit_is_remembered(self) -> None:
        tables = self.house.state._tables
        for workload in self.workloads:
            row = tables.attestations[workload.id]
            for entry in self._denials_of(workload, "-", "-"):
                if entry.body.cut and entry.seq > row.as_of:
                    self.cuts.setdefault(workload.id, entry.seq)

    @invariant()
    def what_has_ended_stays_ended(self) -> None:
        tables = self.house.state._tables
        for lease_id, lease in tables.leases.items():
            before = self.ended.get(lease_id)
            assert before is None or lease.state is before
            if lease.state in TERMINAL:
                self.ended[lease_id] = lease.state
        for attestation_id, row in tables.attestations.items():
            was = self.over.get(attestation_id)
            assert was is None or row.state is was
            if row.state is not AttestationState.ALIVE:
                self.over[attestation_id] = row.state

    @invariant()
    def sequences_only_grow(self) -> None:
        tables = self.house.state._tables
        assert tables.head.seq >= self.head
        self.head = tables.head.seq
        for attestation_id, row in tables.attestations.items():
            assert row.as_of >= self.as_of.get(attestation_id, 0)
            self.as_of[attestation_id] = row.as_of

    @invariant()
    def every_secret_has_a_row(self) -> None:
        leases = self.house.state._tables.leases
        for handle, known in self.house.db.living.items():
            rows = [item for item in leases.values() if item.id == known.id or item.handle == handle]
            assert rows, "a secret that no row knows"

    def teardown(self) -> None:
        """In calm weather everything that was revoked dies, everything settles, and no secret is left over."""
        try:
            house = self.house
            house.state.calm()
            house.db._failures.clear()
            house.db.__dict__.pop("_happens", None)
            self.run(house.start())
            for _ in range(12):
                self.run(house.tick(61.0))
            self.what_has_ended_stays_ended()
            assert house.db.living == {}
            assert [item for item in house.state._tables.leases.values() if item.state.live] == []
            for revocation in self.run(house.look(lambda tx: tx.revocations.page(1000))):
                assert self.run(house.settled(revocation.id))
            assert not house.feed.denials.anticipating
        finally:
            self.loop.close()


class Alone(Machine):
    """The same where one broker has the state for itself: its fence reads nothing."""

    alone = True


TestVerbs: Callable[..., Awaitable[None]] = Machine.TestCase
TestVerbsAlone: Callable[..., Awaitable[None]] = Alone.TestCase
TestVerbs.settings = TestVerbsAlone.settings = settings(  # type: ignore[attr-defined]
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

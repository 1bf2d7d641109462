"""The log's chain, the selectors that hit, the taint, and the live deny set against a list that is only asked."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from broker.model.appraisal import Status
from broker.model.attestation import ApplicationResult, Attestation, AttestationState
from broker.model.denials import DenySet
from broker.model.evidence import Assurance, InstanceKey, ProcessRef
from broker.model.identity import InstanceClaims, WorkloadIdentity
from broker.model.revocation import (
    GENESIS,
    EntryKind,
    LogEntry,
    LogHead,
    NewEntry,
    Selector,
    SelectorKind,
    attestation_keys,
    chain,
    chain_hash,
    process_value,
    taint,
)

HEAD = LogHead("log", 0, GENESIS)
PROCESS = ProcessRef("node", "boot", 7, 9, 0, "container", "pod")


def body(**changes: Any) -> NewEntry:
    found = NewEntry(
        kind=EntryKind.REVOKED,
        revocation_id="V-1",
        selector=Selector(SelectorKind.NODE, "n"),
        cut=True,
        ban=True,
        at=100.0,
        until=None,
        actor="ann",
        reason="because",
        ticket="t",
        decision_id="D-1",
    )
    return replace(found, **changes)


def attestation(**changes: Any) -> Attestation:
    found = Attestation(
        id="A-1",
        identity=WorkloadIdentity("oidc", "https://issuer.example", "payments", 1e12),
        key=InstanceKey(b"spki", b"k" * 32, "ES256"),
        assurance=Assurance.SELF,
        process=ProcessRef(),
        results=(),
        code_set=b"c" * 32,
        state=AttestationState.ALIVE,
        created_at=0.0,
        refreshed_at=0.0,
        expires_at=1e12,
        as_of=0,
        decision_id="D-1",
    )
    return replace(found, **changes)


class TestChain:
    @pytest.mark.parametrize(
        "changes",
        [
            {"kind": EntryKind.LIFTED},
            {"revocation_id": "V-2"},
            {"selector": Selector(SelectorKind.POD, "n")},
            {"selector": Selector(SelectorKind.NODE, "m")},
            {"cut": False},
            {"ban": False},
            {"at": 100.000001},
            {"until": 200.0},
            {"actor": "bob"},
            {"reason": "why not"},
            {"ticket": ""},
            {"decision_id": "D-2"},
            {"refers_to": 1},
            {"audience": "a"},
        ],
    )
    def test_every_field_is_in_the_hash(self, changes: dict[str, Any]) -> None:
        assert chain_hash(GENESIS, 1, body()) != chain_hash(GENESIS, 1, body(**changes))

    def test_so_are_the_sequence_and_what_came_before(self) -> None:
        assert chain_hash(GENESIS, 1, body()) != chain_hash(GENESIS, 2, body())
        assert chain_hash(GENESIS, 1, body()) != chain_hash(b"x" * 32, 1, body())

    def test_it_is_the_same_everywhere(self) -> None:
        found = chain_hash(GENESIS, 1, body()).hex()
        assert found == "6b33de803a3ada61f923b473e7a958eb7efea74a08068efbefd4a8f35ccb3afb"

    def test_entries_get_consecutive_sequences(self) -> None:
        first, second = chain(HEAD, [body(), body(ban=False)])
        assert (first.seq, second.seq) == (1, 2)
        assert second.hash == chain_hash(first.hash, 2, second.body)
        assert chain(HEAD, []) == ()

    def test_a_deny_set_takes_what_continues_and_nothing_else(self) -> None:
        first, second = chain(HEAD, [body(), body()])
        denials = DenySet(HEAD)
        assert denials.apply(first)
        assert not denials.apply(first)
        for wrong in (
            replace(second, seq=3),
            replace(second, hash=b"x" * 32),
            replace(second, body=body(reason="another")),
        ):
            with pytest.raises(ValueError, match="continue"):
                denials.apply(wrong)
        assert denials.head.seq == 1
        assert denials.apply(second)


class TestWhatHits:
    def test_an_attestation_by_all_that_is_known_of_it(self) -> None:
        found = attestation(
            process=PROCESS,
            results=(
                ApplicationResult("a", Status.AFFIRMING, (b"m" * 32, b"l" * 32), 0),
                ApplicationResult("b", Status.CONTRAINDICATED, (b"n" * 32,), 3),
            ),
        )
        assert {str(key) for key in attestation_keys(found)} == {
            "attestation:A-1",
            "identity:https://issuer.example|payments",
            f"key:{(b'k' * 32).hex()}",
            "node:node",
            "container:container",
            "pod:pod",
            "process:node/boot/7/9",
            f"manifest:{(b'm' * 32).hex()}",
            f"manifest:{(b'l' * 32).hex()}",
        }

    def test_nothing_unknown_is_a_key(self) -> None:
        kinds = [key.kind for key in attestation_keys(attestation())]
        assert kinds == [SelectorKind.ATTESTATION, SelectorKind.IDENTITY, SelectorKind.KEY]

    @pytest.mark.parametrize("missing", ["node", "boot_id", "pid", "start_ticks"])
    def test_a_process_is_a_key_only_as_a_whole(self, missing: str) -> None:
        empty = 0 if missing in ("pid", "start_ticks") else ""
        found = attestation(process=replace(PROCESS, **{missing: empty}))
        assert SelectorKind.PROCESS not in {key.kind for key in attestation_keys(found)}


class TestTaint:
    KEY = Selector(SelectorKind.KEY, (b"k" * 32).hex())
    IDENTITY = Selector(SelectorKind.IDENTITY, "https://issuer.example|payments")

    @pytest.mark.parametrize(
        ("level", "claims", "process", "expected"),
        [
            (
                Assurance.WITNESSED,
                InstanceClaims(),
                PROCESS,
                Selector(SelectorKind.PROCESS, process_value(PROCESS)),
            ),
            (
                Assurance.WITNESSED,
                InstanceClaims(),
                replace(PROCESS, pid=0),
                Selector(SelectorKind.CONTAINER, "container"),
            ),
            (
                Assurance.SELF,
                InstanceClaims(container_id="c", pod_uid="p"),
                PROCESS,
                Selector(SelectorKind.CONTAINER, "c"),
            ),
            (Assurance.SELF, InstanceClaims(pod_uid="p"), PROCESS, Selector(SelectorKind.POD, "p")),
            (Assurance.SELF, InstanceClaims(node="n"), PROCESS, IDENTITY),
            (Assurance.SELF, InstanceClaims(), PROCESS, IDENTITY),
        ],
    )
    def test_what_the_workload_cannot_change(
        self, level: Assurance, claims: InstanceClaims, process: ProcessRef, expected: Selector
    ) -> None:
        identity = replace(attestation().identity, instance=claims)
        found = attestation(assurance=level, identity=identity, process=process)
        assert taint(found, hold=True) == (self.KEY, expected)
        spared = () if expected == self.IDENTITY else (expected,)
        assert taint(found, hold=False) == (self.KEY, *spared)


class TestAnticipation:
    SELECTOR = Selector(SelectorKind.NODE, "n")

    def test_it_refuses_at_once_what_it_says_and_no_more(self) -> None:
        denials = DenySet(HEAD)
        cut = denials.anticipate([body(ban=False)])
        assert denials.early.cut([self.SELECTOR])
        assert not denials.early.banned([self.SELECTOR], 0.0)
        denials.settle(cut)
        ban = denials.anticipate([body(cut=False, until=50.0)])
        assert not denials.early.cut([self.SELECTOR])
        assert denials.early.banned([self.SELECTOR], 49.0)
        assert not denials.early.banned([self.SELECTOR], 50.0)
        denials.settle(ban)
        assert not denials.anticipating

    def test_it_is_no_entry(self) -> None:
        """What may still be called off must not end anything."""
        denials = DenySet(HEAD)
        wide = body(selector=Selector(SelectorKind.DIGEST, "ab" * 32))
        denials.anticipate([body(), wide])
        assert denials.cut([self.SELECTOR], 0) is None
        assert denials.banned([self.SELECTOR], 0.0) is None
        assert denials.wide_after(0) == denials.wide_bans(0.0) == denials.live() == ()

    def test_two_of_one_selector_end_each_by_itself(self) -> None:
        denials = DenySet(HEAD)
        first = denials.anticipate([body()])
        second = denials.anticipate([body()])
        denials.settle(first)
        assert denials.early.cut([self.SELECTOR])
        denials.settle(second)
        assert not denials.early.cut([self.SELECTOR])
        denials.settle(second)

    def test_what_is_unsure_denies_until_an_entry_says_as_much(self) -> None:
        denials = DenySet(HEAD)
        denials.unsure(denials.anticipate([body(), body(selector=Selector(SelectorKind.POD, "p"))]))
        weaker = chain(denials.head, [body(revocation_id="V-2", ban=False)])[0]
        denials.apply(weaker)
        assert denials.early.banned([self.SELECTOR], 0.0)
        bounded = chain(denials.head, [body(revocation_id="V-3", until=200.0)])[0]
        denials.apply(bounded)
        assert denials.early.banned([self.SELECTOR], 300.0)
        equal = chain(denials.head, [body(revocation_id="V-4")])[0]
        denials.apply(equal)
        assert denials.banned([self.SELECTOR], 300.0) == equal.body
        # The other selector of the same decision waits for its own.
        assert denials.anticipating
        assert denials.early.banned([Selector(SelectorKind.POD, "p")], 0.0)
        denials.apply(chain(denials.head, [body(selector=Selector(SelectorKind.POD, "p"))])[0])
        assert not denials.anticipating

    def test_it_was_written_after_all(self) -> None:
        denials = DenySet(HEAD)
        denials.unsure(denials.anticipate([body()]))
        denials.apply(chain(denials.head, [body()])[0])
        assert not denials.anticipating

    def test_a_lift_undoes_it(self) -> None:
        denials = DenySet(HEAD)
        denials.unsure(denials.anticipate([body()]))
        denials.apply(chain(denials.head, [body(kind=EntryKind.LIFTED, revocation_id="V-9")])[0])
        assert not denials.banned([self.SELECTOR], 0.0)

    def test_what_is_on_its_way_is_not_settled_by_the_entry_of_another(self) -> None:
        denials = DenySet(HEAD)
        ticket = denials.anticipate([body()])
        denials.apply(chain(denials.head, [body(revocation_id="V-2", ban=False)])[0])
        assert denials.early.banned([self.SELECTOR], 0.0)
        denials.settle(ticket)

    def test_a_digest_is_anticipated_too(self) -> None:
        denials = DenySet(HEAD)
        wide = body(selector=Selector(SelectorKind.DIGEST, "ab" * 32))
        ticket = denials.anticipate([wide])
        assert denials.early.wide_cuts() == (wide,)
        assert denials.early.wide_bans(0.0) == (wide,)
        denials.settle(ticket)
        assert denials.early.wide_cuts() == denials.early.wide_bans(0.0) == ()


def test_a_transaction_may_ask_on_a_thread_while_entries_come() -> None:
    denials = DenySet(HEAD)
    entries = chain(
        HEAD, [body(selector=Selector(SelectorKind.DIGEST, f"{number:064x}")) for number in range(3_000)]
    )
    for entry in entries[:1_000]:
        denials.apply(entry)
    over = threading.Event()

    def ask() -> int:
        asked = 0
        while not over.is_set():
            assert len(denials.wide_after(0)) >= 1_000
            assert len(denials.wide_bans(0.0)) >= 1_000
            assert len(denials.early.wide_cuts()) <= 1
            asked += 1
        return asked

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as threads:
            asking = [threads.submit(ask) for _ in range(2)]
            for entry in entries[1_000:]:
                ticket = denials.anticipate([entry.body])
                denials.apply(entry)
                denials.settle(ticket)
            over.set()
            assert all(task.result(timeout=30) for task in asking)
    finally:
        over.set()
        sys.setswitchinterval(interval)


SELECTORS = [
    Selector(SelectorKind.NODE, "n-1"),
    Selector(SelectorKind.IDENTITY, "i-1"),
    Selector(SelectorKind.ATTESTATION, "A-1"),
    Selector(SelectorKind.KEY, "cd" * 32),
    Selector(SelectorKind.POD, "p-1"),
    Selector(SelectorKind.DIGEST, "ab" * 32),
    Selector(SelectorKind.PACKAGE, "pkg:pypi/lib@1.0"),
]


@dataclass
class Fact:
    """One entry as the naive model remembers it."""

    seq: int
    body: NewEntry
    lifted: bool = False
    gone: bool = False

    def bans(self, now: float) -> bool:
        return self.body.ban and not self.lifted and (self.body.until is None or now < self.body.until)


class DenyMachine(RuleBasedStateMachine):
    """Whatever happens to it, a deny set answers like a list of everything that was ever said."""

    tickets = Bundle("tickets")

    @initialize()
    def begin(self) -> None:
        self.head = HEAD
        self.log: list[LogEntry] = []
        self.pruned: set[int] = set()
        self.facts: list[Fact] = []
        self.early: dict[int, tuple[NewEntry, bool]] = {}
        self.now = 0.0
        self.names = 0
        self.denials = DenySet(HEAD)

    def _append(self, new: NewEntry) -> None:
        [entry] = chain(self.head, [new])
        self.head = replace(self.head, seq=entry.seq, hash=entry.hash)
        self.log.append(entry)
        assert self.denials.apply(entry)
        for ticket, (said, unsure) in list(self.early.items()):
            if unsure and self._answers(new, said):
                del self.early[ticket]

    @staticmethod
    def _answers(new: NewEntry, said: NewEntry) -> bool:
        if new.kind is EntryKind.EXPANDED or new.selector != said.selector:
            return False
        if new.kind is EntryKind.LIFTED:
            return True
        ends = float("inf") if new.until is None else new.until
        needed = float("inf") if said.until is None else said.until
        return new.cut >= said.cut and (not said.ban or (new.ban and ends >= needed))

    @rule(
        selector=st.sampled_from(SELECTORS),
        cut=st.booleans(),
        ban=st.booleans(),
        lasts=st.sampled_from([None, 5.0, 50.0]),
    )
    def revoke(self, selector: Selector, cut: bool, ban: bool, lasts: float | None) -> None:
        self.names += 1
        until = None if lasts is None else self.now + lasts
        new = body(
            revocation_id=f"V-{self.names}", selector=selector, cut=cut, ban=ban, until=until, at=self.now
        )
        self._append(new)
        self.facts.append(Fact(self.head.seq, new))

    @rule(data=st.data())
    def lift(self, data: st.DataObject) -> None:
        if not self.facts:
            return
        fact = data.draw(st.sampled_from(self.facts))
        self._append(
            replace(fact.body, kind=EntryKind.LIFTED, cut=False, until=None, refers_to=fact.seq, at=self.now)
        )
        fact.lifted = True

    @rule(data=st.data())
    def expand(self, data: st.DataObject) -> None:
        if not self.facts:
            return
        fact = data.draw(st.sampled_from(self.facts))
        self._append(
            replace(fact.body, kind=EntryKind.EXPANDED, cut=False, ban=False, until=None, refers_to=fact.seq)
        )

    @rule(
        target=tickets,
        selector=st.sampled_from(SELECTORS),
        cut=st.booleans(),
        ban=st.booleans(),
        lasts=st.sampled_from([None, 5.0]),
    )
    def anticipate(self, selector: Selector, cut: bool, ban: bool, lasts: float | None) -> int:
        self.names += 1
        until = None if lasts is None else self.now + lasts
        said = body(revocation_id=f"V-{self.names}", selector=selector, cut=cut, ban=ban, until=until)
        ticket = self.denials.anticipate([said])
        self.early[ticket] = (said, False)
        return ticket

    @rule(ticket=tickets)
    def settle(self, ticket: int) -> None:
        self.denials.settle(ticket)
        self.early.pop(ticket, None)

    @rule(ticket=tickets)
    def unsure(self, ticket: int) -> None:
        self.denials.unsure(ticket)
        if ticket in self.early:
            self.early[ticket] = (self.early[ticket][0], True)

    @rule(seconds=st.sampled_from([1.0, 5.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(age=st.sampled_from([0.0, 20.0, 1000.0]), instance=st.sampled_from([0.0, 30.0, float("inf")]))
    def forget(self, age: float, instance: float) -> None:
        before = self.now - age
        gone = self.denials.forget(self.now, before, before - instance)
        lasts = {SelectorKind.KEY: before, SelectorKind.POD: before - instance}
        for fact in self.facts:
            said = fact.body
            taint = not said.cut and said.until is None
            moot = taint and said.at < lasts.get(said.selector.kind, -1.0)
            # What a cut has ended for good needs no ban as well.
            moot = moot or (said.cut and said.selector.kind is SelectorKind.ATTESTATION)
            if (moot or not fact.bans(self.now)) and (not said.cut or said.at < before):
                assert fact.gone or fact.seq in gone
                fact.gone = True
            else:
                assert fact.seq not in gone
        assert len(set(gone)) == len(gone)
        self.pruned.update(gone)

    def _live(self) -> list[LogEntry]:
        return [entry for entry in self.log if entry.seq not in self.pruned]

    @rule()
    def restart(self) -> None:
        """What a store keeps is enough to begin anew; what was only decided is lost with the process."""
        self.denials = DenySet(HEAD)
        self.denials.load(self._live(), self.head)
        self.early.clear()

    @rule()
    def reload(self) -> None:
        """Read anew: what is anticipated stays so, whatever older entries said of the same."""
        self.denials.reload(self._live(), self.head)

    @invariant()
    def it_answers_like_the_list(self) -> None:
        facts = [fact for fact in self.facts if not fact.gone]
        early = [said for said, _ in self.early.values()]
        assert self.denials.anticipating == bool(early)
        for selector in SELECTORS:
            banned = any(fact.bans(self.now) and fact.body.selector == selector for fact in facts)
            banned_early = any(
                said.selector == selector and said.ban and (said.until is None or self.now < said.until)
                for said in early
            )
            assert bool(self.denials.banned([selector], self.now)) == banned
            assert bool(self.denials.early.banned([selector], self.now)) == banned_early
            for as_of in {0, self.head.seq // 2, max(0, self.head.seq - 1), self.head.seq}:
                cut = any(
                    fact.body.cut and fact.body.selector == selector and fact.seq > as_of for fact in facts
                )
                assert bool(self.denials.cut([selector], as_of)) == cut
            cut_early = any(said.selector == selector and said.cut for said in early)
            assert bool(self.denials.early.cut([selector])) == cut_early
        for as_of in (0, self.head.seq // 2, self.head.seq):
            expected = [fact.body for fact in facts if self._wide_cut(fact.body) and fact.seq > as_of]
            assert _names(self.denials.wide_after(as_of)) == _names(expected)
        assert _names(self.denials.early.wide_cuts()) == _names(
            said for said in early if self._wide_cut(said)
        )
        bans = [fact.body for fact in facts if fact.body.selector.kind.wide and fact.bans(self.now)]
        assert _names(self.denials.wide_bans(self.now)) == _names(bans)
        bans = [
            said
            for said in early
            if said.selector.kind.wide and said.ban and (said.until is None or self.now < said.until)
        ]
        assert _names(self.denials.early.wide_bans(self.now)) == _names(bans)

    @invariant()
    def its_snapshot_is_what_is_live(self) -> None:
        live = [fact.seq for fact in self.facts if not fact.gone]
        assert [entry.seq for entry in self.denials.live()] == live
        assert len(self.denials) == len(live)
        assert self.denials.head == self.head

    @staticmethod
    def _wide_cut(said: NewEntry) -> bool:
        return said.cut and said.selector.kind.wide


def _names(bodies: Any) -> list[str]:
    return sorted(item.revocation_id for item in bodies)


TestDenySet: Callable[..., Any] = DenyMachine.TestCase
TestDenySet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)  # type: ignore[attr-defined]

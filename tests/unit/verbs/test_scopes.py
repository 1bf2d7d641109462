"""An operator with a scope sees what belongs to its roles, and acts on what belongs to them alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.errors import Conflict, Denied
from broker.model.attestation import AttestationState
from broker.model.caller import OperatorCaller
from broker.model.detection import DetectionState
from broker.model.evidence import Assurance, ProcessRef
from broker.model.identity import IdentityMatch, InstanceClaims
from broker.model.manifest import ManifestUnit
from broker.model.reach import EVERYTHING, Owned, Reach
from broker.model.requests import AttestationQuery, RevokeOrder
from broker.model.revocation import Selector, SelectorKind
from broker.model.role import AfterRevocation, Application, Cap, Operator, Scope
from broker.upkeep.limits import UpkeepLimits
from broker.upkeep.retention import Retention
from lockstep.formats import Reason
from tests.support.house import DAY, HOUR, House, Workload, book, policy, role
from tests.support.manifests import unit

PAY = role("pay", owner="team-pay", after_revocation=AfterRevocation.RETRY)
SHOP = role(
    "shop",
    owner="team-shop",
    identity=IdentityMatch("oidc", subject="shop"),
    after_revocation=AfterRevocation.RETRY,
)
BOTH = role("both", owner="team-shop", identity=IdentityMatch("oidc", subject="both"))
MINE = role("mine", owner="team-pay", identity=IdentityMatch("oidc", subject="both"))
TEAM = Scope(owners=("team-pay",))
ALL = ("read", "explain", "approve", "lift", "revoke:*", "introspect")


class World:
    """Two teams, an instance of each, and one that both have a role for."""

    house: House

    @classmethod
    async def open(cls) -> World:
        self = cls()
        self.house = await House.open(PAY, SHOP, BOTH, MINE)
        self.pay = await self.instance("payments", 1)
        self.shop = await self.instance("shop", 2)
        self.both = await self.instance("both", 3)
        self.ann = self.house.operator(*ALL, scope=TEAM)
        return self

    async def instance(self, subject: str, number: int, *code: str, **changes: object) -> Workload:
        process = ProcessRef("node-1", "boot-1", number, number, 1, f"c-{number}", f"pod-{number}")
        return await self.house.attested(
            *code,
            subject=subject,
            level=Assurance.WITNESSED,
            process=replace(process, **changes),  # type: ignore[arg-type]
        )

    async def revoke(self, kind: SelectorKind, value: str, **changes: object) -> str:
        selector = Selector(kind, value)
        reach = self.ann.reach(f"revoke:{kind}")
        order = RevokeOrder(selector, self.ann.actor, "because", reach=reach, **changes)  # type: ignore[arg-type]
        return (await self.house.revoker.revoke(order)).revocation_id

    async def refused(self, kind: SelectorKind, value: str, **changes: object) -> None:
        """Refused, on a dry run as well, and nothing is written."""
        before = await self.house.log()
        for dry_run in (True, False):
            with pytest.raises(Denied) as error:
                await self.revoke(kind, value, dry_run=dry_run, **changes)
            assert error.value.reason is Reason.NOT_ENTITLED
        assert await self.house.log() == before


class TestReach:
    def test_owners_and_roles_both_hold_and_nobodys_role_is_in_no_team(self) -> None:
        scope = Scope(owners=("team-*",), roles=("pay-*",))
        assert scope.covers("pay-db", "team-pay")
        assert not scope.covers("shop-db", "team-pay")
        assert not scope.covers("pay-db", "")
        assert not scope.covers("pay-db", "elsewhere")
        assert Scope(roles=("pay-*",)).covers("pay-db", "")

    def test_a_right_reaches_as_far_as_all_operators_that_have_it(self) -> None:
        house = House.__new__(House)
        ann = House.operator(house, "read", scope=TEAM)
        wide = Operator("wide", IdentityMatch("oidc", subject="ann"), frozenset({"explain"}))
        other = replace(wide, name="other", may=frozenset({"read"}), scope=Scope(roles=("shop",)))
        both = OperatorCaller(ann.identity, (*ann.operators, wide, other))
        assert both.reach("explain") == EVERYTHING
        assert both.reach("read") == Reach((TEAM, Scope(roles=("shop",))))
        # No operator has it: it reaches nowhere, and not everywhere.
        assert both.reach("lift") == Reach(())
        assert not both.reach("lift").covers(Owned("pay", "team-pay"))
        assert not both.reach("lift").holds([Owned("pay", "team-pay")])

    def test_what_belongs_to_no_role_is_in_no_scope(self) -> None:
        assert not Reach((TEAM,)).holds(())
        assert not Reach((TEAM,)).touches(())
        assert EVERYTHING.holds(())


class TestSeeing:
    async def test_instances_and_leases(self) -> None:
        world = await World.open()
        mine = await world.pay.issue("pay")
        await world.shop.issue("shop")
        shared = [await world.both.issue("both"), await world.both.issue("mine")]
        reach = world.ann.reach("read")
        page = await world.house.overseer.attestations(reach, AttestationQuery(), frozenset(), 10, "")
        assert [item.id for item in page.items] == [world.pay.id, world.both.id]
        leases = await world.house.issuer.leases(world.ann, (), 10, "", "")
        assert [item.id for item in leases.items] == [mine.lease.id, shared[1].lease.id]
        others = await world.house.issuer.leases(world.ann, (), 10, "", world.shop.id)
        assert others.items == ()

    async def test_a_page_without_anything_of_theirs_is_not_the_last(self) -> None:
        world = await World.open()
        await world.shop.issue("shop")
        mine = await world.pay.issue("pay")
        first = await world.house.issuer.leases(world.ann, (), 1, "", "")
        assert first.items == ()
        assert first.next
        second = await world.house.issuer.leases(world.ann, (), 1, first.next, "")
        assert [item.id for item in second.items] == [mine.lease.id]

    async def test_a_lease_of_a_role_that_has_left_is_whose_it_was(self) -> None:
        world = await World.open()
        recorded = replace(PAY, text='{"owner":"team-pay"}')
        await world.house.state.transact(lambda tx: tx.roles.record(recorded, 0.0))
        mine = await world.pay.issue("pay")
        world.house.people.book = book(SHOP)
        leases = await world.house.issuer.leases(world.ann, (), 10, "", "")
        assert [item.id for item in leases.items] == [mine.lease.id]
        reach = world.ann.reach("read")
        page = await world.house.overseer.attestations(reach, AttestationQuery(), frozenset(), 10, "")
        assert world.pay.id in {item.id for item in page.items}
        assert world.shop.id not in {item.id for item in page.items}

    async def test_an_instance_is_theirs_for_what_it_has_had_though_its_identity_may_not_any_more(
        self,
    ) -> None:
        world = await World.open()
        recorded = replace(MINE, text='{"owner":"team-pay"}')
        await world.house.state.transact(lambda tx: tx.roles.record(recorded, 0.0))
        await world.both.issue("mine")
        world.house.people.book = book(PAY, BOTH)
        reach = world.ann.reach("read")
        page = await world.house.overseer.attestations(reach, AttestationQuery(), frozenset(), 10, "")
        assert world.both.id in {item.id for item in page.items}
        # Nor has another team the say over it alone.
        shop = world.house.operator(*ALL, scope=Scope(owners=("team-shop",)))
        order = RevokeOrder(
            Selector(SelectorKind.ATTESTATION, world.both.id),
            shop.actor,
            "because",
            reach=shop.reach("revoke:attestation"),
        )
        with pytest.raises(Denied):
            await world.house.revoker.revoke(order)

    async def test_reports_show_the_instances_that_are_theirs(self) -> None:
        world = await World.open()
        detector = policy(cap=Cap(1, 0.1, HOUR))
        wide = await world.house.report(detector=detector, node="node-1")
        theirs = await world.house.report(detector=policy("other"), attestation=world.shop.id)
        nobody = await world.house.report(node="nowhere")
        page = await world.house.overseer.detections(world.ann.reach("read"), (), 0.0, 10, "")
        assert [(item.id, item.instances) for item in page.items] == [
            (wide.detection_id, (world.pay.id, world.both.id))
        ]
        everything = await world.house.overseer.detections(EVERYTHING, (), 0.0, 10, "")
        assert {item.id for item in everything.items} >= {theirs.detection_id, nobody.detection_id}

    async def test_revocations_and_decisions(self) -> None:
        world = await World.open()
        mine = await world.house.revoke(SelectorKind.ATTESTATION, world.pay.id)
        theirs = await world.house.revoke(SelectorKind.ATTESTATION, world.shop.id)
        nobodys = await world.house.revoke(SelectorKind.NODE, "node-9")
        await world.house.tick()
        reach = world.ann.reach("read")
        page = await world.house.overseer.revocations(reach, frozenset(), 0.0, 10, "")
        assert [item.id for item in page.items] == [mine.revocation_id]
        decisions = await world.house.overseer.decisions(reach, 0.0, 100, "")
        shown = {item.id for item in decisions.items}
        assert mine.decision_id in shown
        assert not shown & {theirs.decision_id, nobodys.decision_id}
        assert "shop" not in {item.role for item in decisions.items}
        lifted = await world.house.lift(mine.revocation_id)
        again = await world.house.overseer.decisions(reach, 0.0, 100, "")
        assert lifted.decision_id in {item.id for item in again.items}

    async def test_a_wide_revocation_that_hit_one_of_theirs(self) -> None:
        world = await World.open()
        made = await world.house.revoke(SelectorKind.DIGEST, unit("app").digest.hex())
        await world.house.tick()
        page = await world.house.overseer.revocations(world.ann.reach("read"), frozenset(), 0.0, 10, "")
        assert [item.id for item in page.items] == [made.revocation_id]
        # Its receipt tells of others too, and is signed as a whole.
        with pytest.raises(Denied):
            await world.house.revoker.receipt(made.revocation_id, world.ann.reach("read"))

    async def test_explanations(self) -> None:
        world = await World.open()
        for workload in (world.pay, world.both):
            row = await workload.row()
            assert (
                await world.house.explainer.explain(world.ann, row.id, True)
            ).decision.id == row.decision_id
        theirs = await world.shop.issue("shop")
        for wanted in (world.shop.id, theirs.lease.id, theirs.lease.handle, theirs.lease.decision_id):
            with pytest.raises(Denied) as error:
                await world.house.explainer.explain(world.ann, wanted, False)
            assert error.value.reason is Reason.NOT_ENTITLED

    async def test_a_report_that_hit_theirs_says_nothing_of_the_others(self) -> None:
        """Neither who the first one was, nor what code it had."""
        world = World()
        world.house = await House.open(PAY, SHOP)
        ann = world.house.operator(*ALL, scope=TEAM)
        shop, pay = await world.instance("shop", 2), await world.instance("payments", 1)
        answer = await world.house.report(detector=policy(cap=Cap(50, 1.0, HOUR)), node="node-1")
        everything = world.house.operator("explain", name="all")
        whole = await world.house.explainer.explain(everything, answer.detection_id, True)
        assert (whole.decision.attestation_id, whole.decision.role) == (shop.id, "shop")
        page = await world.house.overseer.decisions(ann.reach("read"), 0.0, 100, "")
        (listed,) = [item for item in page.items if item.detection_id]
        told = await world.house.explainer.explain(ann, answer.detection_id, True)
        assert told.code_set is None
        for decision in (told.decision, listed):
            assert decision.instances == (pay.id,)
            assert "shop" not in decision.identity + decision.role
            assert (decision.attestation_id, decision.code_set, decision.manifests) == ("", b"", ())

    async def test_who_was_refused_because_its_identity_is_banned(self) -> None:
        world = await World.open()
        await world.house.revoke(SelectorKind.IDENTITY, world.pay.identity.name, ban=True)
        refused = await world.house.attest_refusal(world.house.workload())
        found = await world.house.explainer.explain(world.ann, refused.decision_id, False)
        assert found.decision.verdict is Reason.BANNED

    async def test_tokens(self) -> None:
        world = await World.open()
        mine, theirs = await world.pay.issue("pay"), await world.shop.issue("shop")
        reach = world.ann.reach("introspect")
        assert (await world.house.issuer.introspect(mine.lease.handle, None, reach)).active
        assert not (await world.house.issuer.introspect(theirs.lease.handle, None, reach)).active
        assert (await world.house.issuer.introspect(theirs.lease.handle, None)).active

    def test_applications_that_their_roles_run_also_as_a_part_of_others(self) -> None:
        world = book(PAY, replace(SHOP, manifests=("shop",)), shop=Application("shop", ("alice",), 1))
        reach = Reach((TEAM,))
        assert reach.touches_application(world, "payments")
        assert reach.touches_application(world, "base")
        assert not reach.touches_application(world, "shop")


class TestRevoking:
    async def test_an_instance_and_a_lease_of_theirs(self) -> None:
        world = await World.open()
        lease = (await world.pay.issue("pay")).lease
        assert await world.revoke(SelectorKind.LEASE, lease.id)
        assert await world.revoke(SelectorKind.ATTESTATION, world.pay.id)
        assert (await world.pay.row()).state is AttestationState.REVOKED

    async def test_what_is_anothers_or_not_theirs_alone(self) -> None:
        world = await World.open()
        theirs = (await world.shop.issue("shop")).lease
        await world.refused(SelectorKind.ATTESTATION, world.shop.id)
        await world.refused(SelectorKind.ATTESTATION, world.both.id)
        await world.refused(SelectorKind.LEASE, theirs.id)
        await world.refused(SelectorKind.TOKEN, theirs.handle)
        await world.refused(SelectorKind.POD, "pod-3")
        await world.refused(SelectorKind.IDENTITY, world.shop.identity.name)
        await world.refused(SelectorKind.KEY, world.both.thumbprint.hex())

    async def test_places_and_identities_that_are_theirs_alone(self) -> None:
        world = await World.open()
        assert await world.revoke(SelectorKind.POD, "pod-1", ban=True)
        other = await world.instance("payments", 4)
        assert await world.revoke(SelectorKind.IDENTITY, other.identity.name)

    async def test_a_wide_cut_only_where_all_that_it_hits_is_theirs(self) -> None:
        world = await World.open()
        await world.house.publish(2, "app", "lib", ManifestUnit(unit("numpy"), package="pkg:pypi/numpy@2.0"))
        mine = await world.instance("payments", 4, "app", "numpy")
        numpy, package = unit("numpy").digest.hex(), "pkg:pypi/numpy@2.0"
        for kind, value in ((SelectorKind.DIGEST, numpy), (SelectorKind.PACKAGE, package)):
            # A ban keeps out whoever loads it later, of any role.
            await world.refused(kind, value)
            await world.refused(kind, value, until=world.house.now + 60)
        await world.refused(SelectorKind.DIGEST, unit("app").digest.hex(), ban=False)
        await world.refused(SelectorKind.NODE, "node-1")
        await world.instance("shop", 5, "app", "numpy")
        await world.refused(SelectorKind.PACKAGE, package, ban=False)
        world.house.people.book = book(PAY, replace(SHOP, owner="team-pay"))
        assert await world.revoke(SelectorKind.PACKAGE, package, ban=False)
        await world.house.tick()
        assert (await mine.row()).state is AttestationState.REVOKED

    async def test_what_hits_nobody_is_nobodys(self) -> None:
        world = await World.open()
        await world.refused(SelectorKind.DIGEST, "ab" * 32, ban=False)
        await world.refused(SelectorKind.POD, "pod-none")

    async def test_giving_a_lease_back_for_another(self) -> None:
        world = await World.open()
        mine, theirs = await world.pay.issue("pay"), await world.shop.issue("shop")
        await world.house.issuer.give_back(world.ann, mine.lease.id)
        assert not await world.pay.good(mine)
        with pytest.raises(Denied) as error:
            await world.house.issuer.give_back(world.ann, theirs.lease.id)
        assert error.value.reason is Reason.NOT_ENTITLED
        assert await world.shop.good(theirs)


class TestLifting:
    async def test_what_hit_theirs_alone(self) -> None:
        world = await World.open()
        mine = await world.house.revoke(SelectorKind.ATTESTATION, world.pay.id)
        theirs = await world.house.revoke(SelectorKind.ATTESTATION, world.shop.id)
        shared = await world.house.revoke(SelectorKind.ATTESTATION, world.both.id)
        wide = await world.house.revoke(SelectorKind.DIGEST, unit("evil").digest.hex())
        await world.house.tick()
        await world.house.revoker.lift(mine.revocation_id, "ann", "ok", "", world.ann.reach("lift"))
        for other in (theirs, shared, wide):
            with pytest.raises(Denied) as error:
                await world.house.revoker.lift(other.revocation_id, "ann", "ok", "", world.ann.reach("lift"))
            assert error.value.reason is Reason.NOT_ENTITLED
            assert not (await world.house.revocation(other.revocation_id)).lifted_at

    async def test_a_wide_ban_stays_though_it_hit_theirs_alone(self) -> None:
        world = await World.open()
        await world.house.publish(2, "app", "lib", "numpy")
        mine = await world.instance("payments", 4, "app", "numpy")
        made = await world.house.revoke(SelectorKind.DIGEST, unit("numpy").digest.hex())
        await world.house.tick()
        assert (await mine.row()).state is AttestationState.REVOKED
        # It keeps others out as well, who would be let in.
        with pytest.raises(Denied):
            await world.house.revoker.lift(made.revocation_id, "ann", "ok", "", world.ann.reach("lift"))
        _, complete = await world.house.revoker.receipt(made.revocation_id, world.ann.reach("read"))
        assert complete

    async def test_the_timed_ban_of_a_report(self) -> None:
        world = await World.open()
        detector = policy(cap=Cap(1, 0.1, HOUR))
        await world.house.report(detector=detector, attestation=world.shop.id)
        held = await world.house.report(detector=detector, attestation=world.pay.id)
        assert held.state is DetectionState.HELD
        record = await world.house.look(lambda tx: tx.detections.get(held.detection_id))
        await world.house.revoker.lift(record.revocation_id, "ann", "ok", "", world.ann.reach("lift"))
        await world.pay.issue("pay")

    async def test_whom_a_report_only_bans_is_known_when_the_report_is_not_kept_any_more(self) -> None:
        world = await World.open()
        house = world.house
        held = await house.report(detector=policy(cap=Cap(1, 0.01, HOUR)), node="node-1")
        for other in (world.shop, world.both):
            await house.revoke(SelectorKind.ATTESTATION, other.id, ban=False)
            await house.tick()
        record = await house.approver.approve(
            house.operator("approve", name="all"), held.detection_id, "so", ""
        )
        for _ in range(30):
            await house.tick(1)
        house.clock.advance(2 * DAY)
        await Retention(house.state, lambda: "", UpkeepLimits(keep_detections=DAY)).tick(house.now)
        assert await house.look(lambda tx: tx.detections.get(held.detection_id)) is None
        log = await house.log()
        with pytest.raises(Denied):
            await house.revoker.lift(record.revocation_id, "ann", "ok", "", world.ann.reach("lift"))
        assert await house.log() == log

    async def test_before_all_that_it_hits_is_found_nobody_knows_whose_it_is(self) -> None:
        world = await World.open()
        await world.house.publish(2, "app", "lib", "numpy")
        for number, subject in ((4, "payments"), (5, "shop")):
            await world.instance(subject, number, "app", "numpy", pod_uid="pod-9")
        made = await world.house.revoke(SelectorKind.POD, "pod-9", ban=True)
        assert await world.house.revoker.receipt(made.revocation_id, world.ann.reach("read")) == (b"", False)
        with pytest.raises(Conflict, match="still being found"):
            await world.house.revoker.lift(made.revocation_id, "ann", "ok", "", world.ann.reach("lift"))
        await world.house.tick()
        with pytest.raises(Denied):
            await world.house.revoker.receipt(made.revocation_id, world.ann.reach("read"))
        with pytest.raises(Denied):
            await world.house.revoker.lift(made.revocation_id, "ann", "ok", "", world.ann.reach("lift"))

    async def test_receipts_of_theirs(self) -> None:
        world = await World.open()
        mine = await world.revoke(SelectorKind.ATTESTATION, world.pay.id)
        await world.house.tick()
        _, complete = await world.house.revoker.receipt(mine, world.ann.reach("read"))
        assert complete


class TestDeciding:
    async def test_only_a_report_whose_instances_are_all_theirs(self) -> None:
        world = await World.open()
        detector = policy(cap=Cap(1, 0.1, HOUR))
        await world.house.report(detector=detector, attestation=world.shop.id)
        mine = await world.house.report(detector=detector, attestation=world.pay.id)
        wide = await world.house.report(detector=detector, node="node-1")
        for call in (world.house.approver.approve, world.house.approver.dismiss):
            with pytest.raises(Denied) as error:
                await call(world.ann, wide.detection_id, "so", "")
            assert error.value.reason is Reason.NOT_ENTITLED
        approved = await world.house.approver.approve(world.ann, mine.detection_id, "so", "")
        assert approved.state is DetectionState.APPLIED
        assert (await world.pay.row()).state is AttestationState.REVOKED
        assert (await world.both.row()).state is AttestationState.ALIVE

    async def test_no_report_on_theirs_is_approved_over_what_came_into_the_same_place_since(self) -> None:
        world = await World.open()
        house, place = world.house, InstanceClaims(pod_uid="pod-x")
        detector = policy(cap=Cap(1, 1.0, HOUR))
        pay = await house.attested(subject="payments", place=place)
        await house.report(detector=detector, attestation=world.pay.id)
        held = await house.report(detector=detector, attestation=pay.id, code="later")
        assert held.state is DetectionState.HELD
        house.clock.advance(901)
        shop = await house.attested(subject="shop", place=place)
        lease = await shop.issue("shop")
        with pytest.raises(Denied) as error:
            await house.approver.approve(world.ann, held.detection_id, "so", "")
        assert error.value.reason is Reason.NOT_ENTITLED
        assert (await shop.row()).state is AttestationState.ALIVE
        assert await shop.good(lease)
        dismissed = await house.approver.dismiss(world.ann, held.detection_id, "nothing", "")
        assert dismissed.state is DetectionState.DISMISSED

"""Contract: detections, decisions, role versions, manifests and what counts once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.adapters.state.rules import MAX_FINDINGS
from broker.errors import Conflict
from broker.model.appraisal import Finding
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.detection import DetectionState
from broker.model.evidence import Unit
from broker.model.manifest import ManifestState, ManifestUnit
from broker.ports import StateStore
from lockstep.formats import FindingReason, Reason, UnitKind
from tests.contract.state.calls import Call
from tests.contract.state.nouns import NOW, decision, detection, digest, lease, manifest, role


async def test_detections_come_back_as_they_were(state: StateStore) -> None:
    call = Call(state)
    await call.detections.add(detection())
    assert await call.detections.get(detection().id) == detection()
    assert await call.detections.get("never") is None
    with pytest.raises(Conflict):
        await call.detections.add(detection())


async def test_a_detection_changes_its_state(state: StateStore) -> None:
    call = Call(state)
    held = detection(state=DetectionState.HELD, decided_by="", reason="cap")
    await call.detections.add(held)
    expected = replace(
        held,
        state=DetectionState.APPLIED,
        decided_by="operator:a",
        reason="approved",
        decision_id="dec-000009",
        revocation_id="rev-000009",
        instances=("att-000001", "att-000009"),
        siblings=9,
    )
    assert await call.detections.decide(expected)
    assert await call.detections.get(held.id) == expected
    # Only what is held is decided, and only once.
    assert not await call.detections.decide(replace(expected, state=DetectionState.DISMISSED))
    assert await call.detections.get(held.id) == expected
    assert not await call.detections.decide(replace(expected, id="never"))


async def test_what_was_never_held_is_never_decided(state: StateStore) -> None:
    call = Call(state)
    for number, found in enumerate([item for item in DetectionState if item is not DetectionState.HELD], 1):
        await call.detections.add(detection(number, state=found))
        assert not await call.detections.decide(detection(number, state=DetectionState.APPLIED, reason="x"))
        assert (await call.detections.get(f"det-{number:06}")).state is found


async def test_by_event_is_the_first_report(state: StateStore) -> None:
    call = Call(state)
    for number, name in ((2, "falco"), (1, "falco"), (3, "tetragon")):
        record = detection(number)
        await call.detections.add(
            replace(record, detection=replace(record.detection, detector=name, event_id="same"))
        )
    assert (await call.detections.by_event("falco", "same")).id == "det-000001"
    assert (await call.detections.by_event("tetragon", "same")).id == "det-000003"
    assert await call.detections.by_event("falco", "never") is None


async def test_applied_instances_are_distinct(state: StateStore) -> None:
    call = Call(state)
    await call.revocations.hit("rev-000001", ["a", "b", "c", "d", "e"])
    await call.detections.add(detection(1, instances=("a", "b")))
    await call.detections.add(detection(2, instances=("b", "c")))
    await call.detections.add(detection(3, instances=()))
    await call.detections.add(detection(4, instances=("d",), state=DetectionState.OBSERVED))
    other = detection(5, instances=("e",))
    await call.detections.add(replace(other, detection=replace(other.detection, detector="other")))
    await call.detections.add(detection(6, instances=("a", "only banned"), revocation_id="rev-000002"))
    assert await call.detections.applied_instances("falco", 0.0) == 3
    assert (
        await call.detections.applied_instances("falco", NOW + 2) == 2
    )  # not the sixth, which revoked nobody
    assert await call.detections.applied_instances("falco", NOW + 2.5) == 0
    assert await call.detections.applied_instances("never", 0.0) == 0


async def test_what_a_detector_denied_and_what_that_stopped_besides(state: StateStore) -> None:
    call = Call(state)
    await call.revocations.hit("rev-000001", ["a", "b"])
    await call.detections.add(detection(1, instances=("a", "b"), siblings=3))
    banned = detection(2, instances=("b", "c"), siblings=5, revocation_id="rev-000002")
    await call.detections.add(replace(banned, state=DetectionState.HELD))
    await call.detections.add(detection(3, instances=("d",), siblings=9, revocation_id=""))
    other = detection(4, instances=("e",))
    await call.detections.add(replace(other, detection=replace(other.detection, detector="other")))
    assert await call.detections.denied_instances("falco", 0.0) == 3
    assert await call.detections.denied_instances("falco", NOW + 2) == 2
    assert await call.detections.denied_instances("never", 0.0) == 0
    assert await call.detections.siblings("falco", 0.0, False) == 8
    assert await call.detections.siblings("falco", 0.0, True) == 3
    assert await call.detections.siblings("falco", NOW + 2, True) == 0
    assert await call.detections.siblings("never", 0.0, False) == 0


async def test_pages_of_detections(state: StateStore) -> None:
    call = Call(state)
    for number, item in enumerate([*DetectionState, *DetectionState], 1):
        await call.detections.add(detection(number, state=item))
    every = [f"det-{number:06}" for number in range(1, 2 * len(DetectionState) + 1)]
    first = list(DetectionState)[:2]

    async def page(*arguments: object) -> list[str]:
        return [record.id for record in await call.detections.page(*arguments)]

    assert await page([], 100) == every
    assert await page([], 2, every[2]) == every[3:5]
    half = len(DetectionState)
    assert await page(first, 100) == [*every[:2], *every[half : half + 2]]
    assert await page(first, 2, every[0]) == [every[1], every[half]]


async def test_decisions_come_back_as_they_were(state: StateStore) -> None:
    call = Call(state)
    bare = Decision("dec-000002", DecisionKind.LIFT, NOW, Reason.OK, Effect.LIFTED)
    for item in (decision(), bare):
        await call.decisions.add(item)
        assert await call.decisions.get(item.id) == item
    assert await call.decisions.get("never") is None
    with pytest.raises(Conflict):
        await call.decisions.add(bare)


@pytest.mark.parametrize("total", [0, 100_000])
async def test_findings_are_capped_and_counted(state: StateStore, total: int) -> None:
    call = Call(state)
    many = tuple(
        Finding(FindingReason.UNIT_NOT_APPROVED, UnitKind.SCRIPT, digest(number))
        for number in range(MAX_FINDINGS + 5)
    )
    await call.decisions.add(decision(findings=many, findings_total=total))
    found = await call.decisions.get(decision().id)
    assert found.findings == many[:MAX_FINDINGS]
    assert found.findings_total == max(total, MAX_FINDINGS + 5)


async def test_decisions_are_followed_as_they_were_committed(state: StateStore) -> None:
    call = Call(state)
    for number in (3, 1, 2):
        await call.decisions.add(decision(number, at=NOW - number))
    ids = [decision(number).id for number in (3, 1, 2)]

    async def following(after: str, limit: int = 9) -> list[str]:
        return [item.id for item in await call.decisions.following(after, limit)]

    assert await following("") == ids
    assert await following("", 2) == ids[:2]
    assert await following(ids[0]) == ids[1:]
    assert await following(ids[2]) == []
    assert await following("never") == []


async def test_what_is_dropped_is_gone_and_nothing_else(state: StateStore) -> None:
    call = Call(state)
    for number in (1, 2, 3):
        await call.decisions.add(decision(number))
        await call.detections.add(detection(number))
        await call.leases.open(lease(number))
    for store, noun in ((call.decisions, decision), (call.detections, detection), (call.leases, lease)):
        await store.drop([noun(1).id, noun(3).id, "never"])
        assert [await store.get(noun(number).id) is not None for number in (1, 2, 3)] == [False, True, False]
        await store.drop([])
    # Whoever follows goes on from a row that is still there.
    assert [item.id for item in await call.decisions.following("", 9)] == [decision(2).id]


async def test_pages_of_decisions(state: StateStore) -> None:
    call = Call(state)
    # Ids and times do not agree about the order: ids win.
    for number, at in ((1, 50), (2, 10), (3, 40), (4, 20), (5, 30)):
        await call.decisions.add(decision(number, at=NOW + at))

    async def page(*arguments: object) -> list[int]:
        return [int(item.id[4:]) for item in await call.decisions.page(*arguments)]

    assert await page(0.0, 10) == [1, 2, 3, 4, 5]
    assert await page(0.0, 2, "dec-000002") == [3, 4]
    assert await page(NOW + 20, 10) == [1, 3, 4, 5]
    assert await page(NOW + 20, 2) == [1, 3]
    assert await page(NOW + 20, 2, "dec-000003") == [4, 5]
    assert await page(NOW + 51, 2) == []


async def test_role_versions(state: StateStore) -> None:
    call = Call(state)
    first = role()
    assert await call.roles.text(first.version) is None
    await call.roles.record(first, NOW)
    await call.roles.record(replace(first, text="forged"), NOW + 1)
    assert await call.roles.text(first.version) == first.text


async def test_manifests_come_back_as_they_were(state: StateStore) -> None:
    call = Call(state)
    assert await call.manifests.add(manifest())
    assert await call.manifests.get(manifest().manifest.digest) == manifest()
    assert await call.manifests.by_version("shop", 1) == manifest()
    assert await call.manifests.get(digest("never")) is None
    assert await call.manifests.by_version("shop", 2) is None


async def test_a_version_binds_one_digest_for_ever(state: StateStore) -> None:
    call = Call(state)
    first = manifest()
    assert await call.manifests.add(first)
    assert not await call.manifests.add(first)
    other = manifest(manifest=replace(first.manifest, digest=digest("forged")))
    assert not await call.manifests.add(other)
    renamed = manifest(manifest=replace(first.manifest, version=2))
    assert not await call.manifests.add(renamed)
    assert await call.manifests.set_state(first.manifest.digest, ManifestState.WITHDRAWN)
    assert not await call.manifests.add(first)
    assert not await call.manifests.add(other)


async def test_withdrawn_is_the_end(state: StateStore) -> None:
    call = Call(state)
    await call.manifests.add(manifest())
    key = manifest().manifest.digest
    assert await call.manifests.set_state(key, ManifestState.RETIRED)
    assert await call.manifests.set_state(key, ManifestState.IN_FORCE)
    assert await call.manifests.set_state(key, ManifestState.WITHDRAWN)
    assert await call.manifests.set_state(key, ManifestState.WITHDRAWN)
    assert not await call.manifests.set_state(key, ManifestState.IN_FORCE)
    assert not await call.manifests.set_state(digest("never"), ManifestState.IN_FORCE)
    assert (await call.manifests.get(key)).state is ManifestState.WITHDRAWN


async def test_manifests_of_an_application(state: StateStore) -> None:
    call = Call(state)
    for version, application in ((1, "shop"), (10, "shop"), (2, "shop"), (5, "base")):
        await call.manifests.add(manifest(version, application))
    await call.manifests.set_state(digest("shop/2"), ManifestState.RETIRED)

    async def versions(*arguments: object) -> list[tuple[str, int]]:
        found = await call.manifests.of_application(*arguments)
        return [(record.manifest.application, record.manifest.version) for record in found]

    assert await versions("shop", []) == [("shop", 10), ("shop", 2), ("shop", 1)]
    assert await versions("shop", [ManifestState.IN_FORCE]) == [("shop", 10), ("shop", 1)]
    assert await versions("", [ManifestState.IN_FORCE, ManifestState.RETIRED]) == [
        ("shop", 10),
        ("base", 5),
        ("shop", 2),
        ("shop", 1),
    ]
    assert await versions("never", []) == []


async def test_signatures_are_added(state: StateStore) -> None:
    call = Call(state)
    await call.manifests.add(manifest())
    key = manifest().manifest.digest
    await call.manifests.add_signatures(key, b"merged", ["bob", "carol"])
    found = await call.manifests.get(key)
    assert (found.envelope, found.signers) == (b"merged", ("alice", "bob", "carol"))
    await call.manifests.add_signatures(digest("never"), b"x", ["x"])
    assert await call.manifests.get(digest("never")) is None


async def test_the_floor_never_sinks(state: StateStore) -> None:
    call = Call(state)
    assert await call.manifests.floor("shop") == 0
    for version, expected in ((5, 5), (3, 5), (2**62, 2**62)):
        await call.manifests.raise_floor("shop", version)
        assert await call.manifests.floor("shop") == expected
    assert await call.manifests.floor("base") == 0


async def test_what_came_into_force_counts_until_the_floor_is_lowered(state: StateStore) -> None:
    call = Call(state)
    assert await call.manifests.reached("shop") == 0
    await call.manifests.add(manifest(5, state=ManifestState.PROPOSED))
    await call.manifests.add(manifest(2))
    assert await call.manifests.reached("shop") == 2
    for ended in (ManifestState.RETIRED, ManifestState.WITHDRAWN):
        await call.manifests.set_state(manifest(2).manifest.digest, ended)
        await call.manifests.set_state(manifest(5).manifest.digest, ended)
        assert await call.manifests.reached("shop") == 2
    await call.manifests.add(manifest(7, state=ManifestState.PROPOSED))
    await call.manifests.set_state(manifest(7).manifest.digest, ManifestState.IN_FORCE)
    assert await call.manifests.reached("shop") == 7
    await call.manifests.raise_floor("shop", 8)
    await call.manifests.lower_floor("shop", 3)
    assert (await call.manifests.floor("shop"), await call.manifests.reached("shop")) == (3, 2)
    assert await call.manifests.reached("base") == 0


async def test_the_last_index_of_a_folder(state: StateStore) -> None:
    call = Call(state)
    assert await call.manifests.last_index("shop") == (0, b"")
    for version, payload in ((5, b"five"), (5, b"other")):
        await call.manifests.put_index("shop", version, payload)
        assert await call.manifests.last_index("shop") == (version, payload)
    assert await call.manifests.last_index("base") == (0, b"")


async def test_packages(state: StateStore) -> None:
    call = Call(state)
    await call.manifests.add(manifest())
    # Another manifest knows a file of the first as a unit, and libc in another package too.
    entries = [
        ManifestUnit(Unit(UnitKind.PYTHON_BYTECODE, digest("app.pyc")), (), (), "pkg:pypi/app@1"),
        ManifestUnit(Unit(UnitKind.SHARED_OBJECT, digest("libc")), (), (), "pkg:apk/musl@1"),
    ]
    second = manifest(2)
    content = replace(second.manifest, units={item.unit: item for item in entries})
    assert await call.manifests.digests_of_package("pkg:pypi/app@1") == [digest("app")]
    await call.manifests.add(replace(second, manifest=content))
    assert await call.manifests.digests_of_package("pkg:pypi/app@1") == sorted(
        [digest("app"), digest("app.pyc")]
    )
    assert await call.manifests.digests_of_package("never") == []
    asked = [digest("app"), digest("app.pyc"), digest("libc"), digest("python"), digest("never")]
    assert await call.manifests.packages_of_digests(asked) == {
        digest("app"): "pkg:pypi/app@1",
        digest("app.pyc"): "pkg:pypi/app@1",
        digest("libc"): "pkg:apk/musl@1",
    }
    assert await call.manifests.packages_of_digests([]) == {}


async def test_a_claim_succeeds_once_among_many(state: StateStore) -> None:
    call = Call(state)
    claims = await asyncio.gather(*(call.replays.claim("proof", b"key", NOW + n) for n in range(50)))
    assert sorted(claims) == [False] * 49 + [True]
    assert await call.replays.claim("nonce", b"key", NOW)
    assert await call.replays.claim("proof", b"key2", NOW)


async def test_expired_claims_are_pruned(state: StateStore) -> None:
    call = Call(state)
    for number in range(5):
        assert await call.replays.claim("proof", bytes([number]), NOW + number)
    assert await call.replays.prune(NOW - 1, 10) == 0
    assert await call.replays.prune(NOW + 3, 3) == 3
    assert await call.replays.prune(NOW + 3, 3) == 1
    assert await call.replays.prune(NOW + 3, 3) == 0
    assert await call.replays.claim("proof", bytes([0]), NOW + 9)
    assert not await call.replays.claim("proof", bytes([4]), NOW + 9)


async def test_manifests_are_named_without_being_read(state: StateStore) -> None:
    call = Call(state)
    for version in (1, 3, 2):
        await call.manifests.add(manifest(version))
    everything = await call.manifests.of_application("shop", ())
    assert [item.manifest.version for item in everything] == [3, 2, 1]
    for application in ("shop", ""):
        named = await call.manifests.digests(application, (), 10)
        assert list(named) == [item.manifest.digest for item in everything]
        assert list(await call.manifests.digests(application, (), 2)) == list(named)[:2]
    assert list(await call.manifests.digests("other", (), 10)) == []
    assert list(await call.manifests.digests("shop", (ManifestState.WITHDRAWN,), 10)) == []

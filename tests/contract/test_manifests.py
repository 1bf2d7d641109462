"""What every source of reference values keeps to, and what a signed folder adds."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.adapters.manifests.directory import LOOK_EVERY, DirectoryManifests
from broker.adapters.manifests.layered import LayeredManifests
from broker.adapters.manifests.state import StateManifests
from broker.crypto.dsse import DsseSealer, DsseVerifier
from broker.model.manifest import ManifestRecord, ManifestState, parse_manifest
from broker.model.role import Application
from broker.ports import ManifestSource
from lockstep.formats import INDEX_PAYLOAD_TYPE, MANIFEST_PAYLOAD_TYPE
from tests.fakes.state import MemoryState
from tests.support.manifests import END, START, digest, payload, rfc3339, unit

NOW = START + 3600
ALICE, BOB = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
KEYS = {"alice": ALICE.public_key(), "bob": BOB.public_key()}


def sealed(content: bytes, kind: str, *keys: ed25519.Ed25519PrivateKey) -> bytes:
    envelopes = [DsseSealer(key).seal(content, kind) for key in keys]
    whole = envelopes[0]
    for envelope in envelopes[1:]:
        whole = DsseVerifier(KEYS).merge(whole, envelope)
    return whole


@dataclass
class Folder:
    """A folder of envelopes and its index, as a pipeline writes them."""

    path: Path
    signers: tuple[ed25519.Ed25519PrivateKey, ...] = (ALICE,)
    entries: list[dict[str, Any]] = field(default_factory=list)

    def put(self, content: bytes, name: str) -> None:
        envelope = sealed(content, MANIFEST_PAYLOAD_TYPE, *self.signers)
        (self.path / name).write_bytes(envelope)
        manifest = parse_manifest(content)
        self.entries = [entry for entry in self.entries if entry["file"] != name]
        self.entries.append(
            {
                "file": name,
                "sha256": sha256(envelope).hexdigest(),
                "application": manifest.application,
                "version": manifest.version,
            }
        )

    def index(self, version: int, expires: float = END) -> None:
        content = {"version": version, "expires": rfc3339(expires), "manifests": self.entries}
        # A name of its own first: the look compares inode, size and time.
        fresh = self.path / f"index.{version}.part"
        fresh.write_bytes(sealed(json.dumps(content).encode(), INDEX_PAYLOAD_TYPE, *self.signers))
        fresh.replace(self.path / "index.json")

    def restarted(self, stage: "Stage") -> DirectoryManifests:
        """What a broker that starts anew on the same state makes of the folder."""
        return DirectoryManifests(
            Application("payments", ("alice", "bob"), 1, ("base",), published=False),
            self.path,
            envelopes=DsseVerifier(KEYS),
            state=stage.state,
            kept=StateManifests(stage.state),
            warn=stage.warnings.append,
        )


@dataclass
class Stage:
    source: ManifestSource
    state: MemoryState
    publish: Callable[[bytes], Awaitable[None]]
    warnings: list[str]
    folder: Folder


def in_state(path: Path) -> Stage:
    state = MemoryState()
    source = StateManifests(state)

    async def publish(content: bytes) -> None:
        record = ManifestRecord(parse_manifest(content), b"{}", ("alice",), ManifestState.IN_FORCE, NOW)
        await state.transact(lambda tx: tx.manifests.add(record))
        source.invalidate()

    return Stage(source, state, publish, [], Folder(path))


def in_folder(path: Path, threshold: int = 1) -> Stage:
    state = MemoryState()
    warnings: list[str] = []
    source = DirectoryManifests(
        Application("payments", ("alice", "bob"), threshold, ("base",), published=False),
        path,
        envelopes=DsseVerifier(KEYS),
        state=state,
        kept=StateManifests(state),
        warn=warnings.append,
    )
    folder = Folder(path)
    count = 0

    async def publish(content: bytes) -> None:
        nonlocal count
        count += 1
        folder.put(content, f"m{count}.dsse.json")
        folder.index(count)
        source.invalidate()

    return Stage(source, state, publish, warnings, folder)


@pytest.fixture(params=[in_state, in_folder], ids=["state", "folder"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    found: Stage = request.param(tmp_path)
    return found


async def versions(source: ManifestSource, now: float = NOW) -> list[int]:
    return [item.manifest.version for item in await source.alternatives("payments", now)]


class TestEverySource:
    async def test_nothing_is_in_force_at_first(self, stage: Stage) -> None:
        assert await versions(stage.source) == []
        assert await stage.source.by_digests([digest("x")]) is None

    async def test_several_are_alternatives_newest_first(self, stage: Stage) -> None:
        await stage.publish(payload([unit("a")]))
        await stage.publish(payload([unit("b")], version=2))
        assert await versions(stage.source) == [2, 1]

    async def test_times_bound_it(self, stage: Stage) -> None:
        await stage.publish(payload([unit("a")], not_before=NOW + 10, not_after=NOW + 20))
        assert await versions(stage.source, NOW + 9) == []
        assert await versions(stage.source, NOW + 10) == [1]
        assert await versions(stage.source, NOW + 20) == []

    async def test_an_earlier_result_is_known_after_its_end(self, stage: Stage) -> None:
        content = payload([unit("a")], not_after=NOW + 20)
        await stage.publish(content)
        assert await versions(stage.source) == [1]
        found = await stage.source.by_digests([sha256(content).digest()])
        assert found is not None
        assert found.manifest.version == 1

    async def test_a_layer_that_is_not_in_force_withholds_the_whole(self, stage: Stage) -> None:
        await stage.publish(payload([unit("a")], includes=["base"]))
        assert await versions(stage.source) == []


class TestASignedFolder:
    async def test_an_expired_index_leaves_nothing_in_force(self, tmp_path: Path) -> None:
        stage = in_folder(tmp_path)
        stage.folder.put(payload([unit("a")]), "a.dsse.json")
        stage.folder.index(1, expires=NOW + 60)
        assert await versions(stage.source) == [1]
        assert await versions(stage.source, NOW + 60) == []

    async def test_what_leaves_the_index_is_retired(self, tmp_path: Path) -> None:
        stage = in_folder(tmp_path)
        await stage.publish(payload([unit("a")]))
        assert await versions(stage.source) == [1]
        stage.folder.entries.clear()
        await stage.publish(payload([unit("b")], version=2))
        assert await versions(stage.source) == [2]

    async def test_the_folder_is_read_again_without_being_told(self, tmp_path: Path) -> None:
        stage = in_folder(tmp_path)
        await stage.publish(payload([unit("a")]))
        assert await versions(stage.source) == [1]
        stage.folder.put(payload([unit("b")], version=2), "b.dsse.json")
        stage.folder.index(2)
        assert await versions(stage.source, NOW + LOOK_EVERY) == [2, 1]

    async def test_an_older_index_is_a_rollback(self, tmp_path: Path) -> None:
        stage = in_folder(tmp_path)
        stage.folder.put(payload([unit("a")]), "a.dsse.json")
        stage.folder.index(5)
        assert await versions(stage.source) == [1]
        stage.folder.index(4)
        # A restart must not forget how far it was: the state has it.
        again = stage.folder.restarted(stage)
        assert await versions(again) == []
        assert "older" in stage.warnings[-1]

    async def test_another_index_of_the_same_version_is_refused(self, tmp_path: Path) -> None:
        stage = in_folder(tmp_path)
        stage.folder.put(payload([unit("a")]), "a.dsse.json")
        stage.folder.index(5)
        assert await versions(stage.source) == [1]
        stage.folder.put(payload([unit("b")], version=2), "b.dsse.json")
        stage.folder.index(5)
        stage.source.invalidate()
        assert await versions(stage.source) == [1]
        assert "another one of version 5" in stage.warnings[-1]
        assert await versions(stage.folder.restarted(stage)) == []
        stage.folder.index(6)
        assert await versions(stage.folder.restarted(stage)) == [2, 1]

    async def test_one_more_signature_makes_no_other_index(self, tmp_path: Path) -> None:
        stage = in_folder(tmp_path)
        stage.folder.put(payload([unit("a")]), "a.dsse.json")
        stage.folder.index(5)
        assert await versions(stage.source) == [1]
        stage.folder.signers = (ALICE, BOB)
        stage.folder.index(5)
        assert await versions(stage.folder.restarted(stage)) == [1]

    async def test_one_signature_of_two_is_not_enough(self, tmp_path: Path) -> None:
        stage = in_folder(tmp_path, threshold=2)
        await stage.publish(payload([unit("a")]))
        assert await versions(stage.source) == []
        assert "signed by 1 of 2" in stage.warnings[-1]
        stage.folder.signers = (ALICE, BOB)
        stage.folder.entries.clear()
        await stage.publish(payload([unit("a")]))
        assert await versions(stage.source) == [1]

    @pytest.mark.parametrize(
        ("harm", "says"),
        [
            (lambda folder: (folder / "a.dsse.json").write_bytes(b"{}"), "not the file that the index names"),
            (lambda folder: (folder / "a.dsse.json").unlink(), "No such file"),
            (lambda folder: (folder / "index.json").write_bytes(b"junk"), "envelope"),
        ],
    )
    async def test_a_folder_that_is_wrong_changes_nothing(
        self, tmp_path: Path, harm: Callable[[Path], Any], says: str
    ) -> None:
        stage = in_folder(tmp_path)
        stage.folder.put(payload([unit("a")]), "a.dsse.json")
        stage.folder.index(1)
        assert await versions(stage.source) == [1]
        stage.folder.index(2)
        harm(tmp_path)
        stage.source.invalidate()
        assert await versions(stage.source) == [1]
        assert says in stage.warnings[-1]

    @pytest.mark.parametrize("name", ["../a.dsse.json", "/etc/passwd", ".hidden", "a\\b"])
    async def test_names_stay_inside(self, tmp_path: Path, name: str) -> None:
        stage = in_folder(tmp_path)
        stage.folder.entries = [{"file": name, "sha256": "00" * 32, "application": "payments", "version": 1}]
        stage.folder.index(1)
        assert await versions(stage.source) == []
        assert "plain file name" in stage.warnings[-1]

    async def test_links_lead_nowhere(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        inside = tmp_path / "inside"
        inside.mkdir()
        stage = in_folder(inside)
        stage.folder.put(payload([unit("a")]), "a.dsse.json")
        stage.folder.index(1)
        (inside / "a.dsse.json").rename(outside / "a.dsse.json")
        (inside / "a.dsse.json").symlink_to(outside / "a.dsse.json")
        assert await versions(stage.source) == []

    async def test_a_withdrawn_manifest_does_not_come_back_and_takes_no_other_down(
        self, tmp_path: Path
    ) -> None:
        stage = in_folder(tmp_path)
        content = payload([unit("a")], version=2)
        await stage.publish(payload([unit("b")]))
        await stage.publish(content)
        assert await versions(stage.source) == [2, 1]
        withdrawn = sha256(content).digest()
        await stage.state.transact(lambda tx: tx.manifests.set_state(withdrawn, ManifestState.WITHDRAWN))
        for source in (stage.source, stage.folder.restarted(stage)):
            source.invalidate()
            assert await versions(source) == [1]
        assert "version 2 was withdrawn here and is left out" in stage.warnings[-1]
        stage.folder.index(9)
        stage.source.invalidate()
        assert await versions(stage.source) == [1]

    async def test_an_index_is_no_manifest_and_a_manifest_no_index(self, tmp_path: Path) -> None:
        stage = in_folder(tmp_path)
        (tmp_path / "index.json").write_bytes(sealed(payload([unit("a")]), MANIFEST_PAYLOAD_TYPE, ALICE))
        assert await versions(stage.source) == []
        assert stage.warnings


class TestAFolderAsALayer:
    """The application's own manifests are in the state; the layer below it lies in a folder that no role names."""

    async def test_it_is_looked_at_and_its_end_is_theirs(self, tmp_path: Path) -> None:
        stage = in_state(tmp_path)
        base = DirectoryManifests(
            Application("base", ("alice",), 1, (), published=False),
            tmp_path,
            envelopes=DsseVerifier(KEYS),
            state=stage.state,
            kept=stage.source,
            warn=stage.warnings.append,
        )
        source = LayeredManifests(stage.source, {"base": base})
        await stage.publish(payload([unit("a")], includes=["base"]))
        assert await versions(source) == []
        stage.folder.put(payload([unit("libc")], application="base"), "base.dsse.json")
        stage.folder.index(1, expires=NOW + 100)

        (found,) = await source.alternatives("payments", NOW + LOOK_EVERY)

        assert [layer.application for layer in found.layers] == ["base"]
        assert await versions(source, NOW + 99) == [1]
        assert await versions(source, NOW + 100) == []
        stage.folder.index(2)
        source.invalidate()
        assert await versions(source, NOW + 100) == [1]

    async def test_what_stands_on_no_folder_goes_on(self, tmp_path: Path) -> None:
        stage = in_state(tmp_path)
        base = in_folder(tmp_path).source
        source = LayeredManifests(stage.source, {"base": base})
        await stage.publish(payload([unit("a")]))
        assert await versions(source) == [1]

"""Reference values from a signed folder: what its index names is in force, for as long as the index lasts."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from broker.errors import LockstepError
from broker.model.manifest import (
    MAX_PAYLOAD,
    Manifest,
    ManifestRecord,
    ManifestState,
    ReferenceValues,
    parse_manifest,
)
from broker.model.manifest_index import MAX_INDEX, ManifestIndex, parse_index
from broker.model.role import Application
from broker.model.strict import Malformed
from broker.ports import EnvelopeVerifier, ManifestSource, StateStore, Transaction
from lockstep.formats import INDEX_PAYLOAD_TYPE, MANIFEST_PAYLOAD_TYPE

INDEX_NAME: Final = "index.json"
LOOK_EVERY: Final = 2.0
"""Seconds between looks at the folder."""
_LARGEST: Final = 2 * MAX_PAYLOAD
_Stamp = tuple[int, int, int]


class _Refused(Exception):
    """The folder as it is now is not taken; the text says why."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """A manifest of the folder, the file's bytes, and who of the application's signers signed it."""

    manifest: Manifest
    envelope: bytes
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Folder:
    """An index whose signatures hold, the SHA-256 of its payload, and the manifests that it names."""

    index: ManifestIndex
    digest: bytes
    manifests: tuple[_Signed, ...]


class DirectoryManifests:
    """A `broker.ports.ManifestSource` for one application whose manifests lie in a folder.

    The index is a DSSE envelope signed by as many of the application's signers
    as a manifest needs. What it names is kept in the state like what pipelines
    publish, so that packages, withdrawals and old results are known there; its
    version is kept too and never goes back, nor is it ever another content.
    What was withdrawn here is left out, whatever the index says. A folder that
    is wrong changes nothing and is told once; when the last good index has
    expired, nothing is in force.
    """

    def __init__(
        self,
        application: Application,
        folder: Path,
        *,
        envelopes: EnvelopeVerifier,
        state: StateStore,
        kept: ManifestSource,
        warn: Callable[[str], None],
    ) -> None:
        """`kept` answers from the state."""
        self._application = application
        self._folder = folder
        self._envelopes = envelopes
        self._state = state
        self._kept = kept
        self._warn = warn
        self._files = ThreadPoolExecutor(1, thread_name_prefix="manifests")
        self._lock = asyncio.Lock()
        self._looked_at = float("-inf")
        self._stamp: _Stamp | None = None
        self._expires = float("-inf")
        self._told = ""

    async def alternatives(self, application: str, now: float) -> Sequence[ReferenceValues]:
        """What the index names, within its time and theirs. Raises `Unavailable`."""
        if not self._looked_at <= now < self._looked_at + LOOK_EVERY:
            async with self._lock:
                if not self._looked_at <= now < self._looked_at + LOOK_EVERY:
                    await self._look(now)
                    self._looked_at = now
        if now >= self._expires:
            return ()
        return await self._kept.alternatives(application, now)

    async def by_digests(self, digests: Sequence[bytes]) -> ReferenceValues | None:
        """As the state has them, in force or not."""
        return await self._kept.by_digests(digests)

    def invalidate(self) -> None:
        """Look again at the next question."""
        self._looked_at = float("-inf")
        self._kept.invalidate()

    async def _look(self, now: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            stamp = await loop.run_in_executor(self._files, self._status)
            if stamp == self._stamp:
                return
            found = await loop.run_in_executor(self._files, self._read)
            if found.index.expires <= now:
                raise _Refused("the index has expired")
            left_out = await self._take(found, now)
        except (_Refused, OSError, Malformed) as error:
            self._not_taken(f"{error.strerror}" if isinstance(error, OSError) else str(error))
        except LockstepError as error:
            self._not_taken(error.message)
        else:
            self._stamp, self._expires, self._told = stamp, found.index.expires, ""
            for version in left_out:
                self._warn(f"{self._folder}: version {version} was withdrawn here and is left out")

    def _not_taken(self, problem: str) -> None:
        if problem != self._told:
            self._told = problem
            self._warn(
                f"{self._folder}: not taken: {problem}; what was in force stays until its index expires"
            )

    def _status(self) -> _Stamp:
        found = os.stat(self._folder / INDEX_NAME, follow_symlinks=False)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> _Folder:
        envelope = self._bytes(INDEX_NAME, 2 * MAX_INDEX)
        payload, _ = self._signed(envelope, INDEX_PAYLOAD_TYPE)
        index = parse_index(payload)
        found = []
        for entry in index.of(self._application.name):
            data = self._bytes(entry.file, _LARGEST)
            if sha256(data).digest() != entry.digest:
                raise _Refused(f"{entry.file}: not the file that the index names")
            payload, signers = self._signed(data, MANIFEST_PAYLOAD_TYPE)
            manifest = parse_manifest(payload)
            if (manifest.application, manifest.version) != (entry.application, entry.version):
                raise _Refused(f"{entry.file}: another application or version than the index says")
            foreign = sorted(set(manifest.includes) - set(self._application.includes))
            if foreign:
                raise _Refused(f"{entry.file}: may not include {foreign[0]!r}")
            found.append(_Signed(manifest, data, signers))
        return _Folder(index, sha256(payload).digest(), tuple(found))

    def _signed(self, envelope: bytes, payload_type: str) -> tuple[bytes, tuple[str, ...]]:
        payload, names = self._envelopes.verify(envelope, payload_type)
        own = tuple(sorted(names.intersection(self._application.signers)))
        if len(own) < self._application.threshold:
            raise _Refused(f"signed by {len(own)} of {self._application.threshold} that are needed")
        return payload, own

    def _bytes(self, name: str, limit: int) -> bytes:
        # No link leads out of the folder, and a device or a pipe is no file.
        descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
                raise _Refused(f"{name}: not a file of at most {limit} bytes")
            return file.read(limit)

    async def _take(self, folder: _Folder, now: float) -> list[int]:
        """Make the state say what the index says, in one transaction or not at all; the versions that were left out.

        Raises `_Refused`.
        """
        name = self._application.name
        index = folder.index
        wanted = {item.manifest.digest for item in folder.manifests}

        async def work(tx: Transaction) -> list[int]:
            last, digest = await tx.manifests.last_index(name)
            if index.version < last:
                raise _Refused("its index is older than one that was taken")
            # Signers who disagree, or one of them who deceives: no two contents share a version.
            if index.version == last and digest and folder.digest != digest:
                raise _Refused(f"its index is another one of version {last}: sign it under a higher version")
            left_out = []
            least = await tx.manifests.floor(name)
            for item in folder.manifests:
                if not await _put(tx, item, least, now):
                    left_out.append(item.manifest.version)
            for record in await tx.manifests.of_application(name, (ManifestState.IN_FORCE,)):
                if record.manifest.digest not in wanted:
                    await tx.manifests.set_state(record.manifest.digest, ManifestState.RETIRED)
            await tx.manifests.put_index(name, index.version, folder.digest)
            return left_out

        left_out = await self._state.transact(work)
        self._kept.invalidate()
        return left_out


async def _put(tx: Transaction, item: _Signed, least: int, now: float) -> bool:
    """One manifest of an index comes into force; False where it was withdrawn. Raises `_Refused`."""
    manifest = item.manifest
    known = await tx.manifests.get(manifest.digest)
    if known is None:
        if manifest.version < least:
            raise _Refused(f"version {manifest.version} was passed: {least} is the least")
        record = ManifestRecord(manifest, item.envelope, item.signers, ManifestState.IN_FORCE, now)
        if not await tx.manifests.add(record):
            raise _Refused(f"version {manifest.version} is another content")
    elif known.state is ManifestState.WITHDRAWN:
        return False
    elif known.state is not ManifestState.IN_FORCE:
        await tx.manifests.set_state(manifest.digest, ManifestState.IN_FORCE)
    return True

"""Reference values from a signed folder: what its index names is in force, for as long as the index lasts."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from broker.model.manifest_index import MAX_INDEX, IndexEntry, ManifestIndex, parse_index
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


class DirectoryManifests:
    """A `broker.ports.ManifestSource` for one application whose manifests lie in a folder.

    The index is a DSSE envelope signed by as many of the application's signers
    as a manifest needs. What it names is kept in the state like what pipelines
    publish, so that packages, withdrawals and old results are known there; its
    version is kept too and never goes back. A folder that is wrong changes
    nothing and is told once; when the last good index has expired, nothing is
    in force.
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
            index, manifests = await loop.run_in_executor(self._files, self._read)
            if index.expires <= now:
                raise _Refused("the index has expired")
            await self._take(index, manifests, now)
        except (_Refused, OSError, Malformed) as error:
            self._tell(f"{error.strerror}" if isinstance(error, OSError) else str(error))
        except LockstepError as error:
            self._tell(error.message)
        else:
            self._stamp, self._expires, self._told = stamp, index.expires, ""

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            self._told = problem
            self._warn(
                f"{self._folder}: not taken: {problem}; what was in force stays until its index expires"
            )

    def _status(self) -> _Stamp:
        found = os.stat(self._folder / INDEX_NAME, follow_symlinks=False)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> tuple[ManifestIndex, Mapping[IndexEntry, tuple[Manifest, bytes, tuple[str, ...]]]]:
        envelope = self._bytes(INDEX_NAME, 2 * MAX_INDEX)
        index = parse_index(self._signed(envelope, INDEX_PAYLOAD_TYPE)[0])
        found = {}
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
            found[entry] = (manifest, data, signers)
        return index, found

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

    async def _take(
        self,
        index: ManifestIndex,
        manifests: Mapping[IndexEntry, tuple[Manifest, bytes, tuple[str, ...]]],
        now: float,
    ) -> None:
        """Make the state say what the index says, in one transaction or not at all; raises `_Refused`."""
        name = self._application.name
        # A name that no manifest can have: the application's own floor is about its versions.
        floor = f"\x00index\x00{name}"
        wanted = {manifest.digest for manifest, _, _ in manifests.values()}

        async def work(tx: Transaction) -> None:
            if index.version < await tx.manifests.floor(floor):
                raise _Refused("its index is older than one that was taken")
            least = await tx.manifests.floor(name)
            for manifest, data, signers in manifests.values():
                known = await tx.manifests.get(manifest.digest)
                if known is None:
                    if manifest.version < least:
                        raise _Refused(f"version {manifest.version} was passed: {least} is the least")
                    record = ManifestRecord(manifest, data, signers, ManifestState.IN_FORCE, now)
                    if not await tx.manifests.add(record):
                        raise _Refused(f"version {manifest.version} is another content")
                elif known.state is ManifestState.WITHDRAWN:
                    raise _Refused(f"version {manifest.version} was withdrawn")
                elif known.state is not ManifestState.IN_FORCE:
                    await tx.manifests.set_state(manifest.digest, ManifestState.IN_FORCE)
            for record in await tx.manifests.of_application(name, (ManifestState.IN_FORCE,)):
                if record.manifest.digest not in wanted:
                    await tx.manifests.set_state(record.manifest.digest, ManifestState.RETIRED)
            await tx.manifests.raise_floor(floor, index.version)

        await self._state.transact(work)
        self._kept.invalidate()

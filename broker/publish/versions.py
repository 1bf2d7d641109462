"""Which versions of an application may come: one content each, and never back."""

from __future__ import annotations

from broker.errors import Conflict
from broker.model.manifest import Manifest
from broker.ports import Transaction
from lockstep.formats import Reason


async def version_problem(tx: Transaction, manifest: Manifest) -> Conflict | None:
    """Why a manifest that is new may not be published under its version."""
    same = await tx.manifests.by_version(manifest.application, manifest.version)
    if same is not None:
        return Conflict(f"version {manifest.version} is another content: publish under a higher version")
    return await rollback(tx, manifest)


async def rollback(tx: Transaction, manifest: Manifest) -> Conflict | None:
    """An old release with a known flaw must not return. What never came into force does not count: one signer
    alone could otherwise close an application for ever."""
    least = await least_version(tx, manifest.application)
    if manifest.version >= least:
        return None
    message = f"{manifest.application!r} accepts version {least} or later"
    return Conflict(message, reason=Reason.ROLLBACK)


async def least_version(tx: Transaction, application: str) -> int:
    """The least version that may come into force now; 0 where any may."""
    return max(await tx.manifests.floor(application), await tx.manifests.reached(application))

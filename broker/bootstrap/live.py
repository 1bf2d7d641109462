"""What a reload can change, as one value that is swapped whole: no call sees half of two configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from broker.bootstrap.plugs import IdentityPlug
from broker.errors import Denied
from broker.model.identity import IdentityProof, WorkloadIdentity
from broker.model.manifest import ReferenceValues
from broker.model.role import DetectorPolicy, RoleBook
from broker.ports import (
    CredentialBackend,
    Detector,
    EnvelopeVerifier,
    IdentityVerifier,
    ManifestSource,
    RateLimiter,
    ReceiptSigner,
    TargetCutter,
)
from broker.settings import Settings
from broker.settings.vault import VaultBackend as VaultTable
from lockstep.formats import Reason

if TYPE_CHECKING:
    from broker.adapters.backends.vault.backend import VaultBackend


@dataclass(frozen=True, slots=True)
class Generation:
    """One configuration with the plugs that it names."""

    settings: Settings
    sources: Mapping[str, tuple[Any, IdentityPlug]]
    identities: IdentityVerifier
    envelopes: EnvelopeVerifier
    backends: Mapping[str, CredentialBackend]
    cutters: Mapping[str, TargetCutter]
    manifests: Mapping[str, ManifestSource]
    detectors: Mapping[str, tuple[Detector, DetectorPolicy]]
    detector_rates: Mapping[str, RateLimiter]
    receipts: ReceiptSigner

    @property
    def book(self) -> RoleBook:
        """Roles and whoever else operators named."""
        return self.settings.book

    @property
    def vaults(self) -> Mapping[str, VaultBackend]:
        """Backends that are a Vault or OpenBao, by name."""
        tables = self.settings.tables.backends
        # By what was configured, not by class: only whoever has a Vault pays for its client.
        return {
            name: cast("VaultBackend", plug)
            for name, plug in self.backends.items()
            if isinstance(tables[name], VaultTable)
        }


class Live:
    """The generation in force. Owned by one event loop."""

    def __init__(self, first: Generation) -> None:
        self.generation = first


class LiveRoles:
    """`broker.ports.RoleSource`."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def current(self) -> RoleBook:
        """The book in force."""
        return self._live.generation.book


class LiveIdentities:
    """`broker.ports.IdentityVerifier`."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def verify(self, proof: IdentityProof, now: float) -> WorkloadIdentity:
        """By the sources in force."""
        return await self._live.generation.identities.verify(proof, now)


class LiveEnvelopes:
    """`broker.ports.EnvelopeVerifier`."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def verify(self, envelope: bytes, payload_type: str) -> tuple[bytes, frozenset[str]]:
        """By the signers in force."""
        return self._live.generation.envelopes.verify(envelope, payload_type)

    def merge(self, first: bytes, second: bytes) -> bytes:
        """What holds by the signers in force."""
        return self._live.generation.envelopes.merge(first, second)


class NoSigners:
    """`broker.ports.EnvelopeVerifier` of a configuration without signers."""

    def verify(self, envelope: bytes, payload_type: str) -> tuple[bytes, frozenset[str]]:
        """Nobody may sign."""
        raise Denied(Reason.SIGNATURE_REJECTED, "no signer is configured")

    def merge(self, first: bytes, second: bytes) -> bytes:
        """Nobody may sign."""
        raise Denied(Reason.SIGNATURE_REJECTED, "no signer is configured")


class LiveReceipts:
    """`broker.ports.ReceiptSigner`."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def seal(self, payload: bytes) -> bytes:
        """With the key in force."""
        return self._live.generation.receipts.seal(payload)


class LiveDetectors:
    """`broker.ports.DetectorSource`."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def detector(self, name: str) -> tuple[Detector, DetectorPolicy] | None:
        """The detector in force; None for one without keys, which has no webhook."""
        return self._live.generation.detectors.get(name)


class LiveBackends(Mapping[str, CredentialBackend]):
    """Backends by name, those in force."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __getitem__(self, name: str) -> CredentialBackend:
        return self._live.generation.backends[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._live.generation.backends)

    def __len__(self) -> int:
        return len(self._live.generation.backends)


class LiveComponents:
    """How backends with an outside and cutters are, as ``/readyz`` shows it."""

    def __init__(self, live: Live, targets: Callable[[], Mapping[str, str]]) -> None:
        """`targets` says it of cutters, by name (`broker.bootstrap.targets`)."""
        self._live = live
        self._targets = targets

    def __call__(self) -> Mapping[str, str]:
        """``ok`` or ``unavailable`` by name, and ``faulty`` or ``unknown`` of cutters; a backend that was not asked
        yet is ``ok``."""
        backends = {
            f"backends.{name}": "unavailable" if plug.trouble else "ok"
            for name, plug in self._live.generation.vaults.items()
        }
        return {**backends, **{f"cutters.{name}": state for name, state in self._targets().items()}}


class LiveCutters(Mapping[str, TargetCutter]):
    """Cutters by name, those in force."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __getitem__(self, name: str) -> TargetCutter:
        return self._live.generation.cutters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._live.generation.cutters)

    def __len__(self) -> int:
        return len(self._live.generation.cutters)


class LiveManifests:
    """`broker.ports.ManifestSource`: each application from where its configuration says."""

    def __init__(self, live: Live, state: ManifestSource) -> None:
        """`state` also answers for applications that are configured no more."""
        self._live = live
        self._state = state

    async def alternatives(self, application: str, now: float) -> Sequence[ReferenceValues]:
        """Every manifest in force of an application."""
        source = self._live.generation.manifests.get(application, self._state)
        return await source.alternatives(application, now)

    async def by_digests(self, digests: Sequence[bytes]) -> ReferenceValues | None:
        """The first source that knows them all."""
        for source in self._sources():
            found = await source.by_digests(digests)
            if found is not None:
                return found
        return None

    def invalidate(self) -> None:
        """Read anew."""
        for source in self._sources():
            source.invalidate()

    def _sources(self) -> list[ManifestSource]:
        others = {id(source): source for source in self._live.generation.manifests.values()}
        others.pop(id(self._state), None)
        return [self._state, *others.values()]


class LiveRates:
    """`broker.ports.RateLimiter`: fixed scopes, and each detector at the rate of its own policy."""

    def __init__(self, live: Live, fixed: RateLimiter) -> None:
        self._live = live
        self._fixed = fixed

    def allow(self, scope: str, key: str, now: float) -> float:
        """0.0 and one token spent, or the seconds until the next one."""
        if scope != "detector":
            return self._fixed.allow(scope, key, now)
        rates = self._live.generation.detector_rates.get(key)
        # A detector that a reload has just removed: its last report finds no policy either.
        return 1.0 if rates is None else rates.allow(scope, key, now)

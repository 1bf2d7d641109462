"""What a guard saw, what it takes as approved, and what it raises when it enforces."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from lockstep_client.errors import Denied
from lockstep_client.measure.model import Measurement


class GuardMode(enum.StrEnum):
    """`report`: say it. `enforce`: say it, and raise before it runs where the event comes in time."""

    REPORT = "report"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class Observation:
    """Code that ran or was about to, and that nobody had approved.

    `kind` is a word of the wire's ``DetectionKind``: ``module`` (Python source
    or bytecode), ``generated_code`` (text or code objects), ``library``,
    ``memfd``, ``anon_exec``, ``exec`` (a program), ``script``, ``text_patch``.
    `digest` is the SHA-256 (32 bytes) of the very bytes, empty where there are
    none; `size` in bytes; `observed_at` in seconds since the epoch, UTC.
    """

    kind: str
    digest: bytes
    path: str
    name: str
    size: int
    observed_at: float


class CodeRefused(Denied):
    """The guard enforces, and this code is not approved. Never retry: it has not run and will not."""

    def __init__(self, observation: Observation) -> None:
        super().__init__(
            f"{observation.name or observation.path} is not approved and was stopped before it ran",
            reason="unit_not_approved",
            count=1,
        )
        self.observation = observation


class Approved:
    """Digests that may run, and permissions of anonymous executable memory that are allowed; it only grows.

    Whoever has the manifest adds its digests. Whoever has not adds what was
    measured at attestation: everything new is then reported, and the broker,
    which has the manifest, decides.
    """

    def __init__(self, digests: Iterable[bytes] = (), anonymous: Iterable[str] = ()) -> None:
        """`digests` are SHA-256 of units or whole files; `anonymous` such as ``rwxp`` (libffi's callbacks)."""
        self._digests = set(digests)
        self._anonymous = set(anonymous)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._digests

    def __len__(self) -> int:
        return len(self._digests)

    def allows_memory(self, permissions: str) -> bool:
        """True where anonymous executable memory of these permissions is no news."""
        return permissions in self._anonymous

    def add(self, digests: Iterable[bytes]) -> None:
        """More digests that may run."""
        self._digests.update(digests)

    def add_measurement(self, measurement: Measurement) -> None:
        """The baseline: what was there when the broker appraised this process."""
        self._digests.update(digest for _, digest in measurement.units)
        self._anonymous.update(item.permissions for item in measurement.anonymous if not item.deleted)

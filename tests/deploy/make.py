"""Writes ``deploy/vault`` anew, for the example configuration beside it: ``python -m tests.deploy.make``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from broker.adapters.backends.vault_setup import files
from broker.bootstrap.vault import vaults
from broker.settings import outline

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
FOLDER: Final = DEPLOY / "vault"
STATEMENTS: Final = ("creation", "revocation", "revocation-plain")


def made() -> Mapping[str, str]:
    """Path below ``deploy/vault`` → text."""
    said = outline(DEPLOY / "lockstep.example.toml", {})
    (wanted,) = (wanted for wanted, _ in vaults(said, "lockstep") if wanted.backend == "vault")
    shipped = FOLDER / "postgres"
    return files(wanted, {name: (shipped / f"{name}.sql").read_text() for name in STATEMENTS})


if __name__ == "__main__":
    for name, text in made().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

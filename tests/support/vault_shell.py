"""Commands that are printed for people, run as they stand: by a shell, with the server's own client."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.openbao import OpenBao, server_binary


def tool() -> str:
    """The client's name: ``bao`` or ``vault``."""
    return Path(server_binary()).name


ROOT = Path(__file__).parents[2]


def run(server: OpenBao, namespace: str, folder: Path, command: str, **say: str) -> str:
    """A printed command with the root token below a namespace, as from the root of the repository; what it says.

    `folder` is its home, `say` what it asks for. Raises ``AssertionError`` where it fails.
    """
    binary = Path(server_binary())
    prefix = "VAULT" if "vault" in binary.name else "BAO"
    environment = {
        "PATH": f"{binary.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        f"{prefix}_ADDR": server.address,
        f"{prefix}_CACERT": str(server.ca),
        f"{prefix}_TOKEN": server.root.token,
        f"{prefix}_NAMESPACE": namespace,
        **say,
    }
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout

"""Small environments with wheels as installers leave them."""

import base64
import py_compile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest


@dataclass
class Site:
    """A site-packages folder."""

    folder: Path

    def install(self, name: str, version: str, files: Mapping[str, str], *, compiled: bool = True) -> None:
        """Write a wheel's files with RECORD, and compile its sources as pip does."""
        rows = []
        for relative, text in files.items():
            path = self.folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            digest = base64.urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{relative},sha256={digest},{len(text)}")
            if compiled and relative.endswith(".py"):
                py_compile.compile(str(path), doraise=True)
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not me\n"
        )
        rows.append(f"{info.name}/METADATA,,")
        (info / "RECORD").write_text("\n".join(rows) + "\n")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return Site(folder)

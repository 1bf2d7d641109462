"""Which package a file belongs to: wheel RECORDs (PEP 376, 427) and Debian's package database."""

from __future__ import annotations

import base64
import binascii
import csv
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

_SEPARATORS: Final = re.compile(r"[-_.]+")
_INTERPRETER: Final = re.compile(
    r"^(?P<prefix>/.*?)/(lib/python(?P<library>\d+\.\d+)/(?!(site|dist)-packages/).+"
    r"|lib/libpython(?P<shared>\d+\.\d+)\w*\.so[\d.]*|bin/python(?P<program>\d+\.\d+))$"
)
_CACHED: Final = re.compile(r"^(?P<stem>.+?)\.[a-z]+-\d+(\.opt-\w+)?\.pyc$")


def pypi_purl(name: str, version: str) -> str:
    """``pkg:pypi/name@version``, with the name as PEP 503 normalises it."""
    return f"pkg:pypi/{_SEPARATORS.sub('-', name).lower()}@{quote(version, safe='')}"


def purl_name(purl: str) -> str:
    """The package URL without version and qualifiers."""
    return purl.split("?", 1)[0].rsplit("@", 1)[0]


def purl_version(purl: str) -> str:
    """The version of a package URL, empty where there is none."""
    head = purl.split("?", 1)[0]
    return head.rsplit("@", 1)[1] if "@" in head else ""


def source_of(path: str) -> str | None:
    """The source whose bytecode a ``__pycache__`` file is (PEP 3147), None for any other path."""
    # Asked several times of every file: by hand, for os.path's generality takes most of a large build.
    folder, _, name = path.rpartition("/")
    parent, slash, last = folder.rpartition("/")
    if last != "__pycache__" or (match := _CACHED.match(name)) is None:
        return None
    return f"{parent}{slash}{match['stem']}.py"


def interpreter_purl(path: str) -> str:
    """``pkg:generic/cpython@version`` for a file of an interpreter's own tree, empty for any other.

    By its place alone: nothing is run, since the path may be somebody's claim.
    """
    match = _INTERPRETER.match(path)
    if match is None:
        return ""
    prefix, series = match["prefix"], match["library"] or match["shared"] or match["program"]
    if not os.path.isfile(os.path.join(prefix, "lib", f"python{series}", "os.py")):
        return ""
    version = series
    try:
        header = Path(prefix, "include", f"python{series}", "patchlevel.h").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        header = ""
    if found := re.search(r'^#define PY_VERSION\s+"([\w.+]+)"', header, re.MULTILINE):
        version = found[1]
    return f"pkg:generic/cpython@{quote(version, safe='')}"


@dataclass(frozen=True, slots=True)
class Owner:
    """A package that claims a file; `digest` is the SHA-256 that it recorded, empty where none."""

    package: str
    digest: bytes = b""


@dataclass(slots=True)
class SitePackages:
    """The wheels of one site folder: owner of each absolute path."""

    owners: dict[str, Owner] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str) -> SitePackages:
        """Read every ``*.dist-info``; a broken one only means that its files have no owner."""
        found = cls()
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith(".dist-info"))
        except OSError:
            return found
        for name in names:
            found._distribution(folder, name)
        return found

    def owner(self, path: str) -> Owner | None:
        """Who recorded a path; bytecode that no RECORD names belongs to its source's package."""
        direct = self.owners.get(path)
        if direct is not None:
            return direct
        source = source_of(path)
        by_source = self.owners.get(source) if source else None
        return Owner(by_source.package) if by_source else None

    def _distribution(self, folder: str, name: str) -> None:
        info = os.path.join(folder, name)
        try:
            package = _purl(Path(info, "METADATA").read_text(encoding="utf-8", errors="replace"))
            with open(os.path.join(info, "RECORD"), encoding="utf-8", errors="replace", newline="") as file:
                rows = [row for row in csv.reader(file) if row]
        except (OSError, csv.Error):
            return
        if not package:
            return
        self.versions[purl_name(package)] = purl_version(package)
        for row in rows:
            path = os.path.normpath(os.path.join(folder, row[0]))
            self.owners[path] = Owner(package, _recorded(row[1] if len(row) > 1 else ""))


def _purl(metadata: str) -> str:
    headers = dict(
        line.split(": ", 1)
        for line in metadata.split("\n\n", 1)[0].splitlines()
        if line[:1].strip() and ": " in line
    )
    name, version = headers.get("Name", "").strip(), headers.get("Version", "").strip()
    return pypi_purl(name, version) if name and version else ""


def _recorded(text: str) -> bytes:
    algorithm, _, value = text.partition("=")
    if algorithm != "sha256":
        return b""
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (binascii.Error, ValueError):
        return b""


class Debian:
    """dpkg's database under a root: owner of each path, read when it is first asked."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._owners: dict[str, str] | None = None

    def owner(self, path: str) -> str:
        """The package URL of an absolute path (inside the root), empty where dpkg knows none."""
        if self._owners is None:
            self._owners = self._read()
        # Since /usr was merged, a path may be recorded under its old name.
        for candidate in (path, path.removeprefix("/usr"), "/usr" + path):
            found = self._owners.get(candidate)
            if found is not None:
                return found
        return ""

    def _read(self) -> dict[str, str]:
        database = Path(self._root, "var/lib/dpkg")
        distribution = self._distribution()
        owners: dict[str, str] = {}
        try:
            paragraphs = (database / "status").read_text(encoding="utf-8", errors="replace").split("\n\n")
        except OSError:
            return owners
        for paragraph in paragraphs:
            headers = dict(
                line.split(": ", 1) for line in paragraph.splitlines() if line[:1].strip() and ": " in line
            )
            name, version = headers.get("Package", ""), headers.get("Version", "")
            architecture = headers.get("Architecture", "")
            if not name or not version:
                continue
            purl = f"pkg:deb/{distribution}/{name}@{quote(version, safe='')}?arch={architecture}"
            for listing in (f"{name}.list", f"{name}:{architecture}.list"):
                try:
                    text = (database / "info" / listing).read_text(encoding="utf-8", errors="replace")
                except OSError:
                    continue
                for line in text.splitlines():
                    owners[line] = purl
                break
        return owners

    def _distribution(self) -> str:
        try:
            text = Path(self._root, "etc/os-release").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "debian"
        match = re.search(r'^ID="?([a-z0-9._-]+)"?$', text, re.MULTILINE)
        return match[1] if match else "debian"

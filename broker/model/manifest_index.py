"""The index of a signed folder: which manifests are in force, as of which version, and until when: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.model.strict import (
    Malformed,
    read_number,
    read_object,
    read_sha256,
    read_text,
    read_time,
    strict_json,
)
from lockstep.formats import MAX_MANIFEST_VERSION

MAX_INDEX: Final = 1024 * 1024
_MAX_ENTRIES: Final = 1000


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One envelope of the folder; `digest` is the SHA-256 (32 bytes) of the whole file."""

    file: str
    digest: bytes
    application: str
    version: int


@dataclass(frozen=True, slots=True)
class ManifestIndex:
    """`version` only ever grows; after `expires` (seconds since the epoch, UTC) nothing of it is in force."""

    version: int
    expires: float
    entries: tuple[IndexEntry, ...]

    def of(self, application: str) -> tuple[IndexEntry, ...]:
        """The entries of one application."""
        return tuple(entry for entry in self.entries if entry.application == application)


def parse_index(payload: bytes) -> ManifestIndex:
    """The index in a verified DSSE payload. Raises `Malformed`.

    File names are plain names within the folder: no separator, no leading dot.
    """
    content = strict_json(payload, limit=MAX_INDEX)
    index = read_object(
        content, "index", ("version", "expires", "manifests"), ("version", "expires", "manifests")
    )
    raw = index["manifests"]
    if not isinstance(raw, list) or len(raw) > _MAX_ENTRIES:
        raise Malformed(f"index.manifests: not a list of at most {_MAX_ENTRIES}")
    entries = []
    for number, item in enumerate(raw):
        where = f"index.manifests[{number}]"
        keys = ("file", "sha256", "application", "version")
        entry = read_object(item, where, keys, keys)
        name = read_text(entry["file"], f"{where}.file", limit=255)
        if "/" in name or "\\" in name or name.startswith("."):
            raise Malformed(f"{where}.file: not a plain file name")
        entries.append(
            IndexEntry(
                name,
                read_sha256(entry["sha256"], f"{where}.sha256"),
                read_text(entry["application"], f"{where}.application", limit=128),
                read_number(entry["version"], f"{where}.version", least=1, most=MAX_MANIFEST_VERSION),
            )
        )
    if len({(entry.application, entry.version) for entry in entries}) != len(entries):
        raise Malformed("index.manifests: one version of an application twice")
    return ManifestIndex(
        read_number(index["version"], "index.version", least=1, most=MAX_MANIFEST_VERSION),
        read_time(index["expires"], "index.expires"),
        tuple(entries),
    )

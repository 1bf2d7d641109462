"""Manifests as files: read whichever form they have, written so that a reader never sees half of one."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lockstep.formats import MANIFEST_PAYLOAD_TYPE
from lockstep_client.manifest import CodeManifest, ManifestError, read_payload


def read_manifest_file(path: str) -> tuple[CodeManifest, bytes, dict[str, bytes]]:
    """(manifest, payload, signatures by key id) of a payload or an envelope; raises `ManifestError`."""
    data = read_bytes(path)
    signatures: dict[str, bytes] = {}
    if MANIFEST_PAYLOAD_TYPE.encode() in data:
        # Only here: what signing needs takes longer to import than many a build.
        from lockstep_client.manifest.signing import read_envelope

        data, signatures = read_envelope(data)
    return read_payload(data), data, signatures


def read_bytes(path: str) -> bytes:
    """A file, or standard input for ``-``."""
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def write_bytes(path: str, data: bytes) -> None:
    """Whole or not at all; standard output for ``-``. Raises `ManifestError`."""
    if path == "-":
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()
        return
    temporary = Path(f"{path}.{secrets.token_hex(4)}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ManifestError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def validity(
    valid_days: int, not_before: datetime | None, not_after: datetime | None
) -> tuple[datetime, datetime]:
    """From when to when: as given, else from today's midnight UTC (or ``SOURCE_DATE_EPOCH``) for so many days.

    Days rather than seconds, so that two builds of one day are the same to the byte.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and not epoch.isdecimal():
        raise ManifestError("SOURCE_DATE_EPOCH is not a number of seconds")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    start = _utc(not_before) or (now if epoch else now.replace(hour=0, minute=0, second=0, microsecond=0))
    end = _utc(not_after) or start + timedelta(days=valid_days)
    if end <= start:
        raise ManifestError(
            "the manifest would end before it begins: see --not-before, --not-after, --valid-days"
        )
    return start, end


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)


def compile_sources(python: str, folders: Sequence[str]) -> None:
    """Write the bytecode that imports would write, with the interpreter that will import it."""
    for folder in folders:
        command = [python, "-I", "-m", "compileall", "-q", "-j", "0", folder]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        try:
            # A source that does not compile (a template, code for another version) is no reason to stop.
            subprocess.run(command, check=False, capture_output=True, env=environment)
        except OSError as error:
            raise ManifestError(f"{python} does not run: {error.strerror}") from None

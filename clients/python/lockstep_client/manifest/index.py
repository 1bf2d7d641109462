"""The index of a signed folder of manifests: which of them are in force, and until when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from lockstep.formats import INDEX_PAYLOAD_TYPE, MAX_MANIFEST_VERSION, canonical_json
from lockstep_client.manifest.model import ManifestError, read_payload
from lockstep_client.manifest.signing import PrivateKey, add_signature, read_envelope, sign

INDEX_NAME: Final = "index.json"
_ENVELOPES: Final = "*.dsse.json"


def make_index(folder: Path, version: int, expires: datetime) -> bytes:
    """The payload: every ``*.dsse.json`` of the folder, in name order. Raises `ManifestError`."""
    if version > MAX_MANIFEST_VERSION:
        raise ManifestError(f"{folder}: its index is at the last version that there is: begin another folder")
    entries = []
    for path in sorted(folder.glob(_ENVELOPES)):
        data = path.read_bytes()
        manifest = read_payload(read_envelope(data)[0])
        entries.append(
            {
                "file": path.name,
                "sha256": sha256(data).hexdigest(),
                "application": manifest.application,
                "version": manifest.version,
            }
        )
    if not entries:
        raise ManifestError(
            f"{folder}: no {_ENVELOPES}; sign manifests into it first: lockstep manifest sign"
        )
    moment = expires.isoformat(timespec="seconds").replace("+00:00", "Z")
    return canonical_json({"version": version, "expires": moment, "manifests": entries})


def read_index(folder: Path) -> tuple[Mapping[str, Any], bytes] | None:
    """(content, envelope) of the folder's index, *not verified*; None where there is none."""
    try:
        envelope = (folder / INDEX_NAME).read_bytes()
    except FileNotFoundError:
        return None
    content = json.loads(read_envelope(envelope, INDEX_PAYLOAD_TYPE)[0])
    if not isinstance(content, dict) or not isinstance(content.get("version"), int):
        raise ManifestError(f"{folder / INDEX_NAME}: not an index")
    return content, envelope


def sign_index(folder: Path, key: PrivateKey, expires: datetime) -> tuple[bytes, int, bool]:
    """(envelope, version, whether a signature was added to the index as it is).

    Where the folder still is what its index says and that has not expired, the
    key adds its signature (k of n); else a new index of the next version begins.
    """
    last = read_index(folder)
    version = 1
    if last is not None:
        content, envelope = last
        fresh = make_index(folder, content["version"], expires)
        alike = json.loads(fresh)["manifests"] == content.get("manifests")
        ends = datetime.fromisoformat(str(content.get("expires")))
        if alike and ends >= expires:
            return add_signature(envelope, key, INDEX_PAYLOAD_TYPE), content["version"], True
        version = content["version"] + 1
    return sign(make_index(folder, version, expires), key, INDEX_PAYLOAD_TYPE), version, False

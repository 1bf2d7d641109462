"""Code manifests: built from what is there, signed, compared and read. Needs nothing beyond the SDK but to sign."""

from lockstep_client.manifest.build import Builder, Remarks
from lockstep_client.manifest.diff import Difference, PackageDifference, compare
from lockstep_client.manifest.model import (
    CodeManifest,
    ManifestError,
    ManifestUnit,
    check_names,
    read_payload,
)

__all__ = [
    "Builder",
    "CodeManifest",
    "Difference",
    "ManifestError",
    "ManifestUnit",
    "PackageDifference",
    "Remarks",
    "check_names",
    "compare",
    "read_payload",
]

"""Measuring what a Python process has loaded: units by digest, and by name what has none."""

from lockstep_client.measure.hashing import FileDigest, HashCache
from lockstep_client.measure.launch import measure_process
from lockstep_client.measure.model import (
    AnonymousCode,
    CodeSetLike,
    Measurement,
    ProcessRef,
    Unit,
    UnitHint,
    UnknownCode,
)
from lockstep_client.measure.own import measure_self
from lockstep_client.measure.statement import statement

__all__ = [
    "AnonymousCode",
    "CodeSetLike",
    "FileDigest",
    "HashCache",
    "Measurement",
    "ProcessRef",
    "Unit",
    "UnitHint",
    "UnknownCode",
    "measure_process",
    "measure_self",
    "statement",
]

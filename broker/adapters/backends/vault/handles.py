"""Handles: what a lease row keeps, so that a credential is found again by whoever has the row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FOREVER: Final = 253_402_300_799.0
"""9999-12-31, for what has no end."""
_UNTIL: Final = ":until:"
# Not `str.isdigit`: it takes superscripts, which are no number, and more digits than any time has.
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class Handle:
    """`lease_id` is Vault's; `serial` a certificate's, below `mount`. `until` (seconds, UTC) is when a credential
    ends that nobody can take back; 0.0 for one that can be."""

    lease_id: str = ""
    mount: str = ""
    serial: str = ""
    until: float = 0.0

    def text(self, lease: str) -> str:
        """As it is stored; `lease` tells handles apart where Vault has no name for the credential.

        A Vault lease id has a slash before any colon; nothing else here has. Where
        there is one it comes first, so that a sweep which lists it finds the row,
        whatever the role says of it.
        """
        if not self.until:
            return self.lease_id
        if self.lease_id:
            return f"{self.lease_id}{_UNTIL}{self.until:.0f}"
        if self.serial:
            return f"until:{self.until:.0f}:serial:{self.mount}:{self.serial}"
        return f"until:{self.until:.0f}:lockstep:{lease}"


def parse_handle(text: str) -> Handle:
    """The handle of a lease row."""
    # What begins like this is no lease of Vault's: a slash comes before any colon of one.
    parts = text.split(":", 3)
    if parts[0] == "until" and len(parts) == 4 and _SECONDS.fullmatch(parts[1]):
        until, kind, rest = float(parts[1]), parts[2], parts[3]
        if kind == "lease":  # as it was spelled before
            return Handle(lease_id=rest, until=until)
        if kind == "serial":
            mount, _, serial = rest.partition(":")
            return Handle(mount=mount, serial=serial, until=until)
        return Handle(until=until)
    lease_id, _, ends = text.rpartition(_UNTIL)
    if lease_id and _SECONDS.fullmatch(ends):
        return Handle(lease_id=lease_id, until=float(ends))
    return Handle(lease_id=text)

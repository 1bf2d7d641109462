"""Addresses that doors listen on."""

from __future__ import annotations


class ListenError(OSError):
    """An address cannot be bound; the message names it."""


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port``; an empty host is every address. Raises `ListenError`."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ListenError(f"{address}: not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)

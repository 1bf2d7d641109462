"""The roots that the `mtls` listener accepts at the handshake: the union of all trust domains' bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509

from broker.crypto.keyfiles import KeyFileError, read_public

_MAX: Final = 4 * 1024 * 1024


class ClientRoots:
    """PEM bytes in memory, since TLS asks on every connection."""

    def __init__(self, path: Path) -> None:
        """Raises `KeyFileError`."""
        self._path = path
        self._pem = self.read()

    def pem(self) -> bytes:
        """The roots."""
        return self._pem

    def replace(self, pem: bytes) -> None:
        """Put in force what `read` has given."""
        self._pem = pem

    def read(self) -> bytes:
        """What the file says now. Raises `KeyFileError`."""
        pem = read_public(self._path, limit=_MAX)
        try:
            x509.load_pem_x509_certificates(pem)
        except ValueError:
            raise KeyFileError(f"{self._path}: not PEM certificates") from None
        return pem

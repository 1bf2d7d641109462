"""The roots that the `mtls` listener accepts at the handshake: the union of all trust domains' bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509

from broker.crypto.keyfiles import KeyFileError, read_public

_MAX: Final = 4 * 1024 * 1024


class ClientRoots:
    """PEM bytes in memory, since TLS asks on every connection; `reload` reads the file anew."""

    def __init__(self, path: Path) -> None:
        """Raises `KeyFileError`."""
        self._path = path
        self._pem = self._read()

    def pem(self) -> bytes:
        """The roots."""
        return self._pem

    def reload(self) -> None:
        """Raises `KeyFileError` and then leaves the roots as they were."""
        self._pem = self._read()

    def _read(self) -> bytes:
        pem = read_public(self._path, limit=_MAX)
        try:
            x509.load_pem_x509_certificates(pem)
        except ValueError:
            raise KeyFileError(f"{self._path}: not PEM certificates") from None
        return pem

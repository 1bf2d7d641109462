"""How the cutter comes to PostgreSQL: where, as whom, over which TLS, and how long it waits."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass

from broker.crypto.keyfiles import KeyFileError, read_public, read_secret


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """One target. Times are seconds.

    `host` is a name, an address, or the folder of a Unix socket (it begins with
    ``/``). The login comes with the password of `password_file`, which is read
    anew for each connection, or with a client certificate. The server's
    certificate is checked against `ca` alone (PEM), else against the system's
    authorities, and against `host`. Raises ``ValueError`` with what to do.
    """

    host: str
    database: str
    user: str = "lockstep_cutter"
    port: int = 5432
    password_file: str = ""
    certificate: str = ""
    key: str = ""
    ca: str = ""
    tls: bool = True
    connections: int = 4
    """At most so many; one more cut than that waits its turn within `answer`."""
    command: float = 2.0
    """To connect, and for one call."""
    answer: float = 5.0
    """For the whole of a `cut`, `confirm` or `faults`."""
    pause: float = 0.05
    """Between the two looks of `confirm`."""

    def __post_init__(self) -> None:
        if not self.host or not self.database or not self.user:
            raise ValueError("host, database and user must be given")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key belong together")
        if not self.password_file and not self.certificate:
            raise ValueError("give password_file, or certificate and key")
        if not self.tls and not self.local:
            raise ValueError("tls = false is for a Unix socket or a loopback address only")
        if self.certificate and (self.socket or not self.tls):
            raise ValueError("a client certificate needs TLS")
        if not 1 <= self.connections <= 32:
            raise ValueError("connections must be from 1 to 32")
        if not 0 < self.command <= self.answer or self.pause < 0:
            raise ValueError("command must be above 0 and at most answer, pause not below 0")

    @property
    def socket(self) -> bool:
        """True for a Unix socket."""
        return self.host.startswith("/")

    @property
    def local(self) -> bool:
        """True where nothing leaves the machine."""
        if self.socket or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def password(self) -> str:
        """The password now; "" without one. Raises `KeyFileError`."""
        if not self.password_file:
            return ""
        try:
            return read_secret(self.password_file).decode()
        except UnicodeDecodeError:
            raise KeyFileError(f"{self.password_file}: not UTF-8") from None

    def context(self) -> ssl.SSLContext | None:
        """TLS as it is asked for; None without. Raises `KeyFileError`."""
        if self.socket or not self.tls:
            return None
        try:
            pinned = read_public(self.ca).decode("ascii") if self.ca else None
            context = ssl.create_default_context(cadata=pinned)
        except (ssl.SSLError, UnicodeDecodeError):
            raise KeyFileError(f"{self.ca}: not PEM certificates") from None
        if self.certificate:
            read_secret(self.key)  # for its checks: who else can read it
            try:
                context.load_cert_chain(self.certificate, self.key, password="")
            except (OSError, ssl.SSLError):
                raise KeyFileError(f"{self.certificate}: not a certificate of the key {self.key}") from None
        return context

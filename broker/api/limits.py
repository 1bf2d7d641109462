"""How much a door takes: sizes, times and counts, every one of them configurable."""

from __future__ import annotations

from dataclasses import dataclass

from broker.api.access import Size


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds.

    `call` caps the deadline of a unary call; `opening` is how long a stream may
    take to send its first message; `write` how long a watcher may leave a
    message unread; `head` and `body` how long an HTTP client may take for each.
    `connection_age` bounds a gRPC connection, so that an expired certificate is
    seen and clients spread; calls then have `connection_grace` to end. Beyond
    `state_age` the revocation state is too old to vouch for anything. `longest_life`
    of any credential: an older cut is nothing for who checks tokens.
    """

    small: int = 64 * 1024
    evidence: int = 8 * 1024 * 1024
    manifest: int = 16 * 1024 * 1024
    webhook: int = 256 * 1024
    call: float = 30.0
    opening: float = 10.0
    write: float = 10.0
    head: float = 10.0
    body: float = 10.0
    keepalive: int = 15
    handshake: float = 10.0
    connection_age: float = 3600.0
    connection_grace: float = 60.0
    streams_per_connection: int = 256
    streams_per_caller: int = 16
    streams: int = 20_000
    public_streams: int = 1000
    public_streams_per_address: int = 32
    http_connections: int = 1000
    http_connections_per_address: int = 128
    known_keys: int = 50_000
    known_proofs: int = 200_000
    state_age: float = 2.0
    longest_life: float = 86_400.0

    def size(self, size: Size) -> int:
        """Bytes of a size class."""
        return {
            Size.SMALL: self.small,
            Size.EVIDENCE: self.evidence,
            Size.MANIFEST: self.manifest,
            Size.WEBHOOK: self.webhook,
        }[size]

    @property
    def largest(self) -> int:
        """What the largest message of any row may have."""
        return max(self.small, self.evidence, self.manifest)

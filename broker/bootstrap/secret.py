"""The secret behind challenges and nonces: made at first start, never seen half-written."""

from __future__ import annotations

import os
from pathlib import Path

from broker.crypto.keyfiles import read_secret
from broker.errors import Unavailable
from broker.ports import Entropy
from lockstep.formats import Reason


def challenge_secret(path: Path, entropy: Entropy) -> bytes:
    """The secret of a file (at least 32 bytes), made with mode 0600 where there is none.

    Raises `broker.crypto.keyfiles.KeyFileError`, or `Unavailable` where it cannot be written.
    """
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{entropy.token(4).hex()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(entropy.token(32).hex().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                # Not a rename: where two start at once, the first secret stays.
                os.link(temporary, path)
            except FileExistsError:
                pass
            temporary.unlink()
        except OSError as error:
            message = f"{path}: cannot be made: {error.strerror}"
            raise Unavailable(Reason.STATE_UNAVAILABLE, message) from None
    return read_secret(path)

"""Files of the dev folder: private from the moment they exist, and never seen half-written."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from broker.crypto.keyfiles import load_private_key, write_private_key


class FolderRefused(ValueError):
    """The dev folder cannot be used; says what to do."""


def private_folder(folder: Path) -> None:
    """Make a folder with mode 0700, or check one that is there. Raises `FolderRefused`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise FolderRefused(f"{folder}: {error.strerror}; give another --folder") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise FolderRefused(f"{folder}: not a folder of yours; give another --folder")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise FolderRefused(f"{folder}: others can enter it; run: chmod 700 {folder}")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time makes the folder's content."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that readers see either as it was or whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def kept_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of a file, made at first use. Raises `broker.crypto.keyfiles.KeyFileError`."""
    if not path.exists():
        write_private_key(path, ec.generate_private_key(ec.SECP256R1()))
    key = load_private_key(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FolderRefused(f"{path}: not a P-256 key; remove the folder, it is made anew")
    return key


def kept_secret(path: Path, *, prefix: str = "") -> None:
    """A random secret of 32 bytes, base64 behind a prefix, made at first use."""
    if not path.exists():
        replace_file(path, prefix.encode() + base64.b64encode(secrets.token_bytes(32)) + b"\n")

"""Key and secret files: read only where nobody else could have, written once and never over anything.

Private keys are PEM PKCS#8, public keys PEM SubjectPublicKeyInfo; P-256 or
Ed25519. Files of secrets belong to the user or root and have no group or other
permission. No error here carries a word of a file's content.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

MAX_KEY_FILE: Final = 64 * 1024
"""Bytes; no key is larger."""


class KeyFileError(ValueError):
    """A key file cannot be used; the message names the file and what to do."""


def load_private_key(path: str | os.PathLike[str]) -> PrivateKey:
    """A private key that only its owner can read. Raises `KeyFileError`."""
    data = _read(path, private=True)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise KeyFileError(f"{path}: the key is encrypted; store it without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path}: not a PEM private key (PKCS#8)") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise KeyFileError(f"{path}: the key must be P-256 or Ed25519")


def load_public_key(path: str | os.PathLike[str]) -> PublicKey:
    """A public key, of a file that not everybody can write. Raises `KeyFileError`."""
    data = read_public(path)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path}: not a PEM public key (SubjectPublicKeyInfo)") from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise KeyFileError(f"{path}: the key must be P-256 or Ed25519")


def read_secret(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a secret file without one trailing newline. Raises `KeyFileError`, as for an empty one."""
    data = _read(path, private=True)
    secret = data.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise KeyFileError(f"{path}: the file is empty")
    return secret


def read_public(path: str | os.PathLike[str], *, limit: int = MAX_KEY_FILE) -> bytes:
    """The bytes of a file of keys or certificates that not everybody can write. Raises `KeyFileError`."""
    return _read(path, private=False, limit=limit)


def key_id(public: PublicKey) -> str:
    """SHA-256, hexadecimal, of the DER SubjectPublicKeyInfo: derived, so that one key has one id."""
    return hashlib.sha256(public_der(public)).hexdigest()


def public_der(public: PublicKey) -> bytes:
    """DER SubjectPublicKeyInfo (RFC 5280 section 4.1)."""
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_pem(public: PublicKey) -> bytes:
    """PEM SubjectPublicKeyInfo, as `load_public_key` reads it."""
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write_private_key(path: str | os.PathLike[str], key: PrivateKey) -> None:
    """Write PEM PKCS#8 with mode 0600, durable before it returns.

    Raises `KeyFileError` where the file exists: a key is never overwritten.
    """
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path}: exists already; a key is never overwritten") from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be created: {error.strerror}") from None
    try:
        with open(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(Path(path).parent)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: str | os.PathLike[str], *, private: bool, limit: int = MAX_KEY_FILE) -> bytes:
    # Non-blocking, so that a pipe put in a key's place cannot hold up the start. Checks are on the open
    # descriptor: what was checked is what is read.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"{path}: not a regular file")
        _check_access(path, status, private=private)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise KeyFileError(f"{path}: larger than {limit} bytes")
    return data


def _check_access(path: str | os.PathLike[str], status: os.stat_result, *, private: bool) -> None:
    # Whoever writes a public file was named by the operator: often the identity provider's own user.
    if private and status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(f"{path}: belongs to user {status.st_uid}; run: chown {os.geteuid()} {path}")
    mode = stat.S_IMODE(status.st_mode)
    # As PostgreSQL has it: root's own file may be lent to a group, which is how systemd's credentials and
    # Kubernetes' secret volumes reach a process that is not root.
    lent = 0o040 if status.st_uid == 0 and os.geteuid() != 0 else 0
    if private and mode & 0o077 & ~lent:
        raise KeyFileError(f"{path}: others can use it (mode {mode:04o}); run: chmod 600 {path}")
    if mode & 0o002:
        raise KeyFileError(f"{path}: anybody can change it (mode {mode:04o}); run: chmod o-w {path}")

"""Key files: who may read them, what they may hold, and that errors tell nothing of them."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from broker.crypto import keyfiles
from broker.crypto.keyfiles import KeyFileError

NOBODY = 65_534
KEYS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_written_key_is_private_and_reads_back(tmp_path: Path, kind: str) -> None:
    key = KEYS[kind]()
    path = tmp_path / "signing.pem"
    keyfiles.write_private_key(path, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = keyfiles.load_private_key(path)
    assert keyfiles.public_der(loaded.public_key()) == keyfiles.public_der(key.public_key())


@pytest.mark.parametrize("kind", KEYS)
def test_a_public_key_reads_back_and_has_one_id(tmp_path: Path, kind: str) -> None:
    public = KEYS[kind]().public_key()
    path = tmp_path / "signing.pub"
    path.write_bytes(keyfiles.public_pem(public))
    assert keyfiles.key_id(keyfiles.load_public_key(path)) == keyfiles.key_id(public)
    assert len(keyfiles.key_id(public)) == 64


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    keyfiles.write_private_key(path, ed25519.Ed25519PrivateKey.generate())
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="exists already"):
        keyfiles.write_private_key(path, ed25519.Ed25519PrivateKey.generate())
    assert path.read_bytes() == before


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    link = tmp_path / "signing.pem"
    link.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(KeyFileError):
        keyfiles.write_private_key(link, ed25519.Ed25519PrivateKey.generate())
    assert not (tmp_path / "elsewhere.pem").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o660])
def test_a_private_key_that_others_can_use_is_refused_with_the_mending_command(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "signing.pem"
    keyfiles.write_private_key(path, ed25519.Ed25519PrivateKey.generate())
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}"):
        keyfiles.load_private_key(path)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keyfiles.read_secret(path)


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_a_secret_of_its_owner_is_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "hook.secret"
    path.write_bytes(b"whsec_c2VjcmV0\n")
    path.chmod(mode)
    assert keyfiles.read_secret(path) == b"whsec_c2VjcmV0"


@contextlib.contextmanager
def as_somebody(group: int) -> Iterator[None]:
    """This process as a user who is not root."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(group)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lend a file")
@pytest.mark.parametrize(("mode", "good"), [(0o440, True), (0o640, True), (0o460, False), (0o444, False)])
def test_roots_own_file_may_be_lent_to_a_group(mode: int, good: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "lent.secret"
        path.write_bytes(b"s3cret")
        os.chown(path, 0, NOBODY)
        path.chmod(mode)
        with as_somebody(NOBODY):
            if good:
                assert keyfiles.read_secret(path) == b"s3cret"
            else:
                with pytest.raises(KeyFileError, match="others can use it"):
                    keyfiles.read_secret(path)
        # To root it is a file of its own, which it lends to nobody.
        with pytest.raises(KeyFileError, match="others can use it"):
            keyfiles.read_secret(path)


def test_only_one_trailing_newline_is_stripped(tmp_path: Path) -> None:
    path = tmp_path / "hook.secret"
    path.write_bytes(b" a\n\n")
    path.chmod(0o600)
    assert keyfiles.read_secret(path) == b" a\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    keyfiles.write_private_key(path, ed25519.Ed25519PrivateKey.generate())
    os.chown(path, 12345, -1)
    with pytest.raises(KeyFileError, match="belongs to user 12345; run: chown"):
        keyfiles.load_private_key(path)


def test_a_public_key_that_anybody_can_change_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signing.pub"
    path.write_bytes(keyfiles.public_pem(ed25519.Ed25519PrivateKey.generate().public_key()))
    path.chmod(0o666)
    with pytest.raises(KeyFileError, match="chmod o-w"):
        keyfiles.load_public_key(path)


def _pem(key: object, encryption: serialization.KeySerializationEncryption) -> bytes:
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


PLAIN = serialization.NoEncryption()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: b"CANARY not a key", "not a PEM private key"),
        (
            lambda: b"-----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----\n",
            "not a PEM private key",
        ),
        (lambda: _pem(rsa.generate_private_key(65537, 2048), PLAIN), "must be P-256 or Ed25519"),
        (lambda: _pem(ec.generate_private_key(ec.SECP384R1()), PLAIN), "must be P-256 or Ed25519"),
        (
            lambda: _pem(
                ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"CANARY")
            ),
            "encrypted",
        ),
        (lambda: b"CANARY" * 20_000, "larger than 65536 bytes"),
        (lambda: b"", "not a PEM private key"),
    ],
)
def test_what_is_no_usable_key_is_named_without_its_content(
    tmp_path: Path, content: object, says: str
) -> None:
    assert callable(content)
    path = tmp_path / "signing.pem"
    path.write_bytes(content())
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=says) as caught:
        keyfiles.load_private_key(path)
    assert str(path) in str(caught.value)
    assert "CANARY" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_private_key_is_no_public_key(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    keyfiles.write_private_key(path, ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(KeyFileError, match="not a PEM public key"):
        keyfiles.load_public_key(path)


def test_what_is_absent_a_folder_or_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path, says in (
        (tmp_path / "absent", "No such file"),
        (tmp_path, "regular file|directory"),
        (pipe, "regular"),
    ):
        with pytest.raises(KeyFileError, match=says):
            keyfiles.load_private_key(path)


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hook.secret"
    path.write_bytes(b"\n")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="empty"):
        keyfiles.read_secret(path)

"""SIGHUP on a real broker: whatever the files say by then, it goes on serving; a rotated key overlaps the old one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.crypto.keyfiles import load_private_key, public_pem, write_private_key
from lockstep_client.errors import Denied
from lockstep_client.verify import TokenVerifier
from tests.support.actors import until
from tests.support.brokers import Broker, prepared, serving
from tests.support.doors import ask
from tests.support.wire import Wire, Workload, envelope, publish

HERE = Path(__file__).parent
ODD = """
[roles.odd]
mode = "enforce"
identity = { from = "dev", subject = "odd" }
manifests = ["app"]
backend = { use = "jwt", audience = "dev" }
assurance = ["self"]
ttl = "5m"
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker whose files these tests may spoil; each mends them."""
    folder = tmp_path_factory.mktemp("reload") / "dev"
    text = prepared(folder).replace("include = []", 'include = ["roles.d/*.toml"]')
    team = folder / "roles.d"
    team.mkdir()
    (team / "roles.toml").write_text((HERE / "roles.toml").read_text())
    with serving(folder, text) as running:
        publish(running, envelope(running, "app", "lib"))
        yield running


@pytest.fixture
def configuration(own: Broker) -> Iterator[Path]:
    """The main file; as it was, afterwards."""
    file = own.folder / "serve.toml"
    text = file.read_text()
    yield file
    file.write_text(text)
    assert own.reload()


def serves(broker: Broker) -> bool:
    """It answers, and grants."""
    with Wire(broker.address, broker.ca) as wire:
        workload = Workload(wire, broker.token(f"app-{os.urandom(4).hex()}"))
        workload.attest("app", roles=["app"])
        return bool(workload.issue("app").credential.token)


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("a = " + "[" * 20_000 + "]" * 20_000, "nested too deeply"),
        (ODD, "roles.odd.assurance: "),
        (
            '[identity.odd]\nkind = "spiffe"\ntrust_domain = "o.example"\nbundle = "../server.crt"\n',
            "bundle: ",
        ),
        ("half a fi", "is no TOML"),
    ],
    ids=["nested", "of another type", "a leaf as a bundle", "half written"],
)
def test_no_text_ends_a_running_broker(own: Broker, what: str, problem: str) -> None:
    extra = own.folder / "roles.d" / "extra.toml"
    extra.write_text(what)
    mark = own.mark()
    try:
        assert not own.reload()
        assert problem in str(own.heard("configuration refused", since=mark)["problem"])
        assert serves(own)
    finally:
        extra.unlink()
    assert own.reload()


def test_a_pipe_among_its_files_holds_nobody_up(own: Broker) -> None:
    pipe = own.folder / "roles.d" / "pipe.toml"
    os.mkfifo(pipe)
    try:
        assert not own.reload()
        assert serves(own)
    finally:
        pipe.unlink()


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('cluster = "lockstep-dev"', 'cluster = "another"', "cluster"),
        ('path = "state/lockstep.db"', 'path = "state/other.db"', "state.path"),
        ("[limits]\n", "[limits]\nstreams = 7\n", "limits.streams"),
    ],
)
def test_what_only_a_restart_changes_is_said_and_nothing_else_is_taken(
    own: Broker, configuration: Path, old: str, new: str, key: str
) -> None:
    text = configuration.read_text()
    assert old in text
    configuration.write_text(text.replace(old, new, 1))
    mark = own.mark()
    assert not own.reload()
    assert f"{key}: has changed; restart the broker" in str(own.heard("configuration refused", since=mark))
    assert serves(own)


def test_credentials_by_a_new_key_and_by_the_old_one_are_good_until_the_old_one_goes(
    own: Broker, configuration: Path
) -> None:
    text = configuration.read_text()
    old = load_private_key(own.folder / "credentials.key").public_key()
    (own.folder / "credentials-old.pub").write_bytes(public_pem(old))
    write_private_key(own.folder / "credentials-next.pem", ed25519.Ed25519PrivateKey.generate())
    settings = own.settings("dev-resource-server")
    with (
        TokenVerifier(audience="dev", settings=settings) as checks,
        Wire(own.address, own.ca) as wire,
    ):
        checks.wait_ready(10)
        before = token(own, wire, "app-before")
        checks.verify(before)

        ring = '{ active = "credentials-next.pem", old = ["credentials-old.pub"] }'
        both = text.replace('credentials = "credentials.key"', f"credentials = {ring}", 1)
        assert both != text
        configuration.write_text(both)
        assert own.reload()
        after = token(own, wire, "app-after")
        assert [jwt.get_unverified_header(item)["alg"] for item in (before, after)] == ["ES256", "EdDSA"]
        assert [key["kty"] for key in published(own)] == ["OKP", "EC"]
        until(lambda: good(checks, after), "the new key is found")
        assert good(checks, before)

        configuration.write_text(both.replace(ring, '"credentials-next.pem"', 1))
        assert own.reload()
        assert len(published(own)) == 1
        with TokenVerifier(audience="dev", settings=settings) as fresh:
            fresh.wait_ready(10)
            assert good(fresh, after)
            assert not good(fresh, before)


def published(broker: Broker) -> list[dict[str, str]]:
    """The public keys of credentials."""
    found: list[dict[str, str]] = ask(broker, "GET", "/.well-known/jwks.json").body["keys"]
    return found


def token(broker: Broker, wire: Wire, subject: str) -> str:
    """Of a new instance."""
    workload = Workload(wire, broker.token(subject))
    workload.attest("app", roles=["app"])
    return workload.issue("app").credential.token


def good(checks: TokenVerifier, text: str) -> bool:
    """Whether a resource server takes it."""
    try:
        checks.verify(text)
    except Denied:
        return False
    return True

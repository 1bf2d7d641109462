"""The SDK, the verifier and the command line against a real broker process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lockstep_client
from lockstep.v1 import credential_pb2
from lockstep_client import Denied, Revocation, Revoked
from lockstep_client.testing import DevBroker, broker
from lockstep_client.verify import TokenVerifier

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def dev() -> Iterator[DevBroker]:
    with broker() as running:
        yield running


@pytest.fixture
def verifier(dev: DevBroker) -> Iterator[TokenVerifier]:
    settings = dataclasses.replace(
        dev.settings, identity_token_file=dev.env["LOCKSTEP_RESOURCE_SERVER_TOKEN_FILE"]
    )
    with TokenVerifier(audience="dev", settings=settings) as it:
        it.wait_ready(10)
        yield it


def refusal(look: Callable[[], object], kind: type[Exception], timeout: float = 10.0) -> Exception:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            look()
        except kind as error:
            return error
        threading.Event().wait(0.01)
    raise AssertionError("it was never refused")


def lockstep(dev: DevBroker, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lockstep_client", *arguments],
        env={**os.environ, **dev.env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_attested_leased_verified_revoked(dev: DevBroker, verifier: TokenVerifier) -> None:
    told: list[Revocation] = []
    done = threading.Event()
    with lockstep_client.connect(settings=dev.settings) as ls:
        credential = ls.credential("dev")
        token = credential.token.reveal()
        found = verifier.verify(token)
        assert ls.attestation is not None
        assert found.attestation == ls.attestation.id
        assert found.lease == credential.lease_id
        assert found.mode == credential.mode == "observe"

        @ls.on_revoked
        def note(revocation: Revocation) -> None:
            told.append(revocation)
            done.set()

        revocation_id = dev.revoke(ls.attestation.id, reason="drill")
        assert done.wait(10)
        refusal(lambda: verifier.verify(token), Revoked)
        with pytest.raises(Revoked):
            _ = credential.token
        with pytest.raises(Revoked):
            ls.credential("dev")
        assert not ls.ready
    # A workload learns the decision; who and why is for `explain`, by those allowed.
    assert told[0].decision.startswith("D-")
    answer = lockstep(dev, "receipts", revocation_id, "--wait", "30")
    assert answer.returncode == 0, answer.stderr


def test_leaving_gives_the_lease_back(dev: DevBroker) -> None:
    with lockstep_client.connect(settings=dev.settings) as ls:
        lease_id = ls.credential("dev").lease_id
    with dev.operator() as operator:
        states = {lease.lease_id: lease.state for lease in operator.leases()}
    assert states[lease_id] in (credential_pb2.LEASE_STATE_REVOKING, credential_pb2.LEASE_STATE_REVOKED)


async def test_the_asyncio_face(dev: DevBroker) -> None:
    async with lockstep_client.aio.connect(settings=dev.settings) as ls:
        credential = await ls.credential("dev")
        assert credential.token.reveal().count(".") == 2


def test_a_broker_that_crashes_and_comes_back(tmp_path: Path) -> None:
    with broker() as dev, lockstep_client.connect(settings=dev.settings) as ls:
        credential = ls.credential("dev")
        before = credential.token.reveal()
        dev.kill()
        assert credential.token.reveal() == before
        dev.start()
        done = threading.Event()
        ls.on_revoked(lambda _: done.set())
        assert ls.attestation is not None
        dev.revoke(ls.attestation.id)
        assert done.wait(20)


def test_not_entitled_is_denied(dev: DevBroker) -> None:
    with lockstep_client.connect(settings=dev.settings) as ls, pytest.raises(Denied):
        ls.credential("no-such-role", wait=5)


def test_run_hands_over_and_ends_when_revoked(dev: DevBroker, tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text(
        "import os, threading\n"
        "print(open(os.environ['LOCKSTEP_CREDENTIAL_FILE']).read(), flush=True)\n"
        "threading.Event().wait(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "lockstep_client", "run", "--role", "dev", "--", sys.executable, str(program)],
        env={**os.environ, **dev.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().count(".") == 2
    leases = json.loads(lockstep(dev, "leases", "--json", "--state", "active").stdout)
    assert len(leases) == 1, leases
    answer = lockstep(
        dev, "revoke", "--attestation", leases[0]["attestation_id"], "--reason", "INC-1", "--json"
    )
    assert answer.returncode == 0, answer.stderr
    _, err = process.communicate(timeout=30)
    assert process.returncode == 77, err
    assert "observes, so the credential was given" in err
    decision = json.loads(answer.stdout)["decision_id"]
    explained = lockstep(dev, "explain", decision)
    assert explained.returncode == 0, explained.stderr
    assert "INC-1" in explained.stdout or "revoke" in explained.stdout


def test_check_is_refused_until_the_code_is_approved(tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text("import os\nprint(len(open(os.environ['LOCKSTEP_CREDENTIAL_FILE']).read()) > 9)\n")
    command = ("--role", "dev", "--", sys.executable, str(program))
    with broker(enforce=True) as dev:
        refused = lockstep(dev, "run", "--check", *command)
        assert refused.returncode == 78, refused.stderr
        decision = refused.stderr.rpartition("--from ")[2].split()[0]
        dev.approve(decision)
        approved = lockstep(dev, "run", "--check", *command)
        assert approved.returncode == 0, approved.stderr
        done = lockstep(dev, "run", *command)
        assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
        program.write_text(program.read_text() + "# changed\n")
        changed = lockstep(dev, "run", *command)
        assert changed.returncode == 78, changed.stderr


def test_status_says_whether_it_can_be_reached(dev: DevBroker) -> None:
    answer = lockstep(dev, "status")
    assert answer.returncode == 0, answer.stderr
    assert "gRPC door  answers" in answer.stdout
    assert "HTTP door  answers" in answer.stdout
    env = {name: value for name, value in os.environ.items() if not name.startswith("LOCKSTEP_")}
    bare = subprocess.run(
        [sys.executable, "-m", "lockstep_client", "status"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert bare.returncode == 2
    assert "LOCKSTEP_ADDRESS" in bare.stdout + bare.stderr


NOT_UTF8 = os.fsdecode(b"plugin_\xff.py")
BY_PATH = (
    "spec = importlib.util.spec_from_file_location('plugin', os.fsdecode(b'plugin_\\xff.py'))\n"
    "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
)


@pytest.mark.parametrize(
    ("name", "act", "told"),
    [
        ("plugin.py", "import plugin\n", "reported  plugin"),
        (NOT_UTF8, BY_PATH, "reported  "),
        ("plugin.py", "exec(compile(open('plugin.py').read(), 'x' * 200_000, 'exec'))\n", "reported  "),
    ],
    ids=["an import", "a name that is not UTF-8", "an over-long name"],
)
def test_the_story_unapproved_code_ends_the_program(tmp_path: Path, name: str, act: str, told: str) -> None:
    """Approved and running; then it runs a file that nobody approved."""
    (tmp_path / name).write_text("NAME = 'nobody approved me'\n")
    program = tmp_path / "app.py"
    program.write_text(
        "import importlib.util, os, sys, time\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "print(len(open(os.environ['LOCKSTEP_CREDENTIAL_FILE']).read()) > 9, flush=True)\n"
        "sys.stdin.readline()\n" + act + "time.sleep(60)\n"
    )
    command = ("run", "--role", "dev", "--", sys.executable, str(program))
    with broker(enforce=True) as dev:
        refused = lockstep(dev, *command[:1], "--check", *command[1:])
        dev.approve(refused.stderr.rpartition("--from ")[2].split()[0])
        process = subprocess.Popen(
            [sys.executable, "-m", "lockstep_client", *command],
            env={**os.environ, **dev.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        started = time.monotonic()
        _, err = process.communicate("\n", timeout=30)
        took = time.monotonic() - started
    assert process.returncode == 77, err
    assert told in err
    assert took < 10, err


SPIFFE_ROLE = """
[roles.mesh]
owner = "dev"
mode = "observe"
identity = { from = "mesh", spiffe_id = "spiffe://dev.lockstep.invalid/dev-app" }
manifests = ["dev"]
backend = { use = "jwt", audience = "mesh-api" }
ttl = "5m"
revocability = "instant"
after_revocation = "retry"
possession = "required"
"""


def test_a_spiffe_certificate_is_an_identity_and_a_bound_token_needs_its_key(tmp_path: Path) -> None:
    roles = tmp_path / "mesh.toml"
    roles.write_text(SPIFFE_ROLE)
    url = "https://api.example/pay"
    with broker(options=("--with", str(roles))) as dev:
        settings = dataclasses.replace(
            dev.settings,
            address=dev.mtls_address,
            identity_token_file="",
            client_cert_file=str(dev.folder / "svid.crt"),
            client_key_file=str(dev.folder / "svid.key"),
        )
        server = dataclasses.replace(
            dev.settings, identity_token_file=dev.env["LOCKSTEP_RESOURCE_SERVER_TOKEN_FILE"]
        )
        with (
            lockstep_client.connect(settings=settings) as ls,
            TokenVerifier(audience="mesh-api", settings=server) as verifier,
        ):
            verifier.wait_ready(10)
            headers = ls.credential("mesh").http_headers("POST", f"{url}?amount=1")
            scheme, _, token = headers["Authorization"].partition(" ")
            assert scheme == "DPoP"
            found = verifier.verify(token, dpop=headers["DPoP"], method="POST", url=url)
            assert found.subject == "spiffe://dev.lockstep.invalid/dev-app"
            with pytest.raises(Denied, match="used before"):
                verifier.verify(token, dpop=headers["DPoP"], method="POST", url=url)
            with pytest.raises(Denied, match="proof is needed"):
                verifier.verify(token)

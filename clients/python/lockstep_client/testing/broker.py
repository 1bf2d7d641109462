"""A broker for tests, with an operator's hands, and everything that may go wrong with one, on demand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lockstep.formats import b64url_decode
from lockstep.v1 import revocation_pb2
from lockstep_client.errors import LockstepError
from lockstep_client.operator import Operator
from lockstep_client.settings import Settings, load
from lockstep_client.testing.process import BrokerProcess
from lockstep_client.testing.trouble import Trouble


class DevBroker(BrokerProcess):
    """A real broker. What goes wrong with it is real too: nothing in the SDK knows of the test."""

    @property
    def settings(self) -> Settings:
        """For ``connect(settings=…)``."""
        return load(environ=self.env)

    @property
    def identity(self) -> str:
        """Who connects with `settings`: ``issuer|subject`` of the identity token, as `refuse` and `revoke` name it."""
        token = Path(self.env["LOCKSTEP_IDENTITY_TOKEN_FILE"]).read_text(encoding="ascii")
        claims = json.loads(b64url_decode(token.split(".")[1]))
        return f"{claims['iss']}|{claims['sub']}"

    def operator(self) -> Operator:
        """An operator's connection; close it."""
        return Operator(self.settings)

    # --- what an operator does ----------------------------------------------------------------------

    def revoke(
        self, attestation_id: str = "", *, lease_id: str = "", identity: str = "", reason: str = "test"
    ) -> str:
        """Take back one attestation, one lease, or all that an identity has; the revocation's id.

        Its holders are told at once. Whoever ran under the role `dev` may
        attest anew. Raises `ValueError` unless exactly one is named.
        """
        named = {"attestation_id": attestation_id, "lease_id": lease_id, "identity": identity}
        given = {name: value for name, value in named.items() if value}
        if len(given) != 1:
            raise ValueError(f"name one of {', '.join(named)}")
        with self.operator() as operator:
            return operator.revoke(revocation_pb2.Selector(**given), reason=reason).revocation_id  # type: ignore[arg-type]

    def lift(self, revocation_id: str, *, reason: str = "test") -> None:
        """End the bans of a revocation; what was taken back stays so."""
        with self.operator() as operator:
            operator.lift(revocation_id, reason=reason)

    def approve(self, decision_id: str) -> None:
        """Build, sign and publish a manifest of the code that a decision saw. Raises `LockstepError`."""
        command = [
            sys.executable,
            "-m",
            "lockstep_client",
            "manifest",
            "approve",
            "--yes",
            "--from",
            decision_id,
        ]
        done = subprocess.run(
            command, env={**os.environ, **self.env}, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise LockstepError(f"not approved: {done.stderr.strip() or done.stdout.strip()}")

    # --- what may go wrong --------------------------------------------------------------------------

    def refuse(self, identity: str = "", *, reason: str = "test") -> Trouble:
        """Ban an identity, that of `settings` unless another is named: it gets `Denied`, reason ``banned``.

        What it holds is taken back: whoever is connected is `Revoked`.
        """
        selector = revocation_pb2.Selector(identity=identity or self.identity)
        with self.operator() as operator:
            revocation = operator.revoke(selector, reason=reason, ban=True).revocation_id
        return Trouble(lambda: self.lift(revocation, reason="the test is over"))

    def fall_silent(self) -> Trouble:
        """Say nothing any more, with every connection open: as a broker behind a network that drops packets.

        Calls end with `Unavailable` at their deadline; secrets are dropped
        once the role's ``silence.grace`` is over, and come back with the broker.
        """
        self.pause()
        return Trouble(self.resume)

    def go_away(self, *, crash: bool = False) -> Trouble:
        """End in order, or with `crash` at once: nobody listens, new calls are `Unavailable`.

        It comes back at its addresses and with its state.
        """
        if crash:
            self.kill()
        else:
            self.stop()
        return Trouble(self.start)


@contextmanager
def broker(*, enforce: bool = False, options: Sequence[str] = ()) -> Iterator[DevBroker]:
    """A running broker with the role `dev`, on free ports of the loopback, in a temporary folder.

    `enforce`: the role enforces instead of observing. `options`: more of
    ``lockstep-broker dev``, such as ``("--with", "roles.toml")``.
    Raises `Unavailable` where it does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="lockstep-") as folder:
        made = DevBroker(Path(folder) / "dev", [*(["--enforce"] if enforce else []), *options])
        try:
            made.start()
            yield made
        finally:
            made.stop()

"""Commands that look at what there is: attestations, the log as it grows."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Sequence

import click
from google.protobuf import json_format

from lockstep.v1 import evidence_pb2, oversight_pb2, revocation_pb2
from lockstep_client.cli import show
from lockstep_client.cli.spans import SINCE_OPTION
from lockstep_client.clock import SystemClock
from lockstep_client.errors import LockstepError, Unavailable
from lockstep_client.operator import Operator
from lockstep_client.settings import load
from lockstep_client.watch import Watch
from lockstep_client.words import plain, word

_STATES = ["alive", "revoked", "expired", "lapsed"]


@click.command()
@click.option(
    "--loaded",
    metavar="DIGEST|PURL",
    help="Only those that have loaded a unit (SHA-256), or a package of a manifest (pkg:pypi/litellm@1.82.8).",
)
@click.option("--identity", default="", metavar="ID", help='Only of a SPIFFE ID, or "issuer|subject".')
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="May be given again.")
@SINCE_OPTION
@show.JSON_OPTION
def attestations(
    loaded: str | None, identity: str, states: tuple[str, ...], since: dt.datetime | None, as_json: bool
) -> None:
    """List instances: who attested, with which code, and how each stands.

    \b
      lockstep attestations --state alive
      lockstep attestations --loaded pkg:pypi/litellm@1.82.8 --since 30d
    """
    digest, package = _loaded(loaded)
    wanted = [oversight_pb2.AttestationState.Value(f"ATTESTATION_STATE_{state.upper()}") for state in states]
    with Operator(load()) as operator:
        found = list(
            operator.attestations(
                states=wanted, digest=digest, package=package, identity=identity, since=since
            )
        )
    if as_json:
        show.say_json(found)
        return
    show.table(
        (
            (
                item.attestation_id,
                word(oversight_pb2.AttestationState, item.state, "ATTESTATION_STATE_"),
                word(evidence_pb2.AssuranceLevel, item.assurance, "ASSURANCE_LEVEL_"),
                show.time(item.created_at),
                show.time(item.refreshed_at),
                show.time(item.expires_at),
                _place(item.process),
                item.identity,
            )
            for item in found
        ),
        ("attestation", "state", "level", "first", "last evidence", "until", "where", "identity"),
    )
    if loaded and not as_json:
        alive = sum(item.state == oversight_pb2.ATTESTATION_STATE_ALIVE for item in found)
        identities = len({item.identity for item in found})
        first = min((show.time(item.created_at) for item in found), default="")
        told = f"; first {first}" if first else ""
        click.echo(f"{len(found)} instances, {identities} identities, {alive} alive{told}", err=True)


class _Printer:
    """A `lockstep_client.watch.Sink` that says what comes, a line each."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self.over = threading.Event()
        self.heard = False
        self.error: LockstepError | None = None

    def snapshot(
        self, events: Sequence[revocation_pb2.RevocationEvent], position: revocation_pb2.LogPosition
    ) -> None:
        """What is denied now."""
        self.heard = True
        if not self._as_json:
            click.echo(f"{len(events)} entries are live; following", err=True)

    def event(self, event: revocation_pb2.RevocationEvent) -> None:
        """One new entry."""
        self.heard = True
        if self._as_json:
            click.echo(json.dumps(json_format.MessageToDict(event, preserving_proto_field_name=True)))
            return
        kind = word(revocation_pb2.EventKind, event.kind, "EVENT_KIND_")
        parts = [
            show.time(event.at),
            kind,
            show.target(event.selector),
            event.reason,
            event.revocation_id,
            f"position {event.position.seq}",
        ]
        click.echo("  ".join(plain(part) for part in parts if part))

    def reached(self, position: revocation_pb2.LogPosition) -> None:
        """Nor of what is not ours."""

    def beat(self, asked_at: float | None, grace: float) -> None:
        """Nothing is said of a sign of life."""
        self.heard = True

    def denied(self, error: LockstepError) -> None:
        """The watch is refused."""
        self.error = error
        self.over.set()


@click.command()
@click.option("--for", "seconds", type=click.FloatRange(min=0), metavar="SECONDS", help="End after so long.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line, for programs.")
def watch(seconds: float | None, as_json: bool) -> None:
    """Follow the revocation log as it grows, over restarts of the broker; Ctrl-C ends it.

    \b
      lockstep watch
      lockstep watch --json | jq .selector

    With --for, exit code 75 where nobody answered in that time.
    """
    with Operator(load()) as operator:
        printer = _Printer(as_json)
        following = Watch(operator.transport, lambda: ("", operator.caller), printer, SystemClock())
        following.thread.start()
        try:
            printer.over.wait(seconds)
        except KeyboardInterrupt:
            return
        finally:
            following.thread.stop()
    if printer.error is not None:
        raise printer.error
    if not printer.heard:
        raise Unavailable(f"nobody answered at {', '.join(operator.transport.addresses)}")


def _loaded(text: str | None) -> tuple[bytes, str]:
    if text is None:
        return b"", ""
    if text.startswith("pkg:"):
        return b"", text
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise click.UsageError(
            "--loaded: 64 hexadecimal digits, or a package URL with its version (pkg:pypi/litellm@1.82.8)"
        )
    return digest, ""


def _place(process: evidence_pb2.Subject) -> str:
    parts = [process.node, process.pod_uid, process.container_id[:12]]
    return "/".join(part for part in parts if part) + (f" pid {process.pid}" if process.pid else "")
